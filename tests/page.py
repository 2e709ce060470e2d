"""A running page around a tiny model that answers what a test has it answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import nibabel as nib
import numpy as np
import pytest
import torch
import uvicorn

from datasets.volume.anyres import place_mask
from models import CTInstruct
from models.checkpoints.folder import save_checkpoint
from serve_CTInstruct import listen
from serving.answerer import Answerer
from serving.application import PageSettings, build_application
from serving.limits import Limits
from serving.session_folder import temporary_root
from tests.launch import REPOSITORY
from tests.tiny_model import tiny_ctinstruct

IMAGE = REPOSITORY / "data" / "instruction_sft" / "volumes" / "example_phantom.nii.gz"
STRUCTURES = IMAGE.with_name("example_phantom_structures.nii.gz")
LABELS = ["heart", "aorta", "liver"]
VALUES = {"heart": 3, "aorta": 4}  # of the structures' file, as the example manifest has them


def tiny_answering_model(folder: Path) -> CTInstruct:
    """An untrained model that was told three labels."""
    save_checkpoint(tiny_ctinstruct().eval(), folder, training={"labels": LABELS})
    model = CTInstruct.from_pretrained(folder)
    model.options = model.options.with_changes(num_beams=1, max_new_tokens=40)
    return model


@contextmanager
def page(model: CTInstruct, folder: Path, **settings: Any) -> Iterator[str]:
    """The address of a server on a free port of this machine; `settings` are `PageSettings`."""
    listening = listen("", 0)
    port = listening.getsockname()[1]
    told = PageSettings("tiny", port=port, **settings)
    with temporary_root(folder) as root:
        application = build_application(Answerer(model, model.options, told.limits.studies), root, told)
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(20)


@contextmanager
def client(address: str, **headers: str) -> Iterator[httpx.Client]:
    """A user with a session."""
    with httpx.Client(base_url=address, headers=headers, timeout=60, trust_env=False) as user:
        assert user.post("/api/session").status_code == 200
        yield user


def send(user: httpx.Client, *files: tuple[str, bytes]) -> httpx.Response:
    """Upload files, each under its name."""
    return user.post("/api/volumes", files=[("files", (name, content)) for name, content in files])


def opened(user: httpx.Client, name: str = "ct.nii.gz", path: Path = IMAGE) -> str:
    """Upload a CT; its id."""
    answer = send(user, (name, path.read_bytes()))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["volumes"][0]["id"])


def ask(user: httpx.Client, volume: str, question: str = "Where is the liver?", **more: Any) -> list[dict[str, Any]]:
    """Ask, and wait for all events."""
    answer = user.post(f"/api/volumes/{volume}/questions", json={"question": question, **more})
    assert answer.status_code == 200, answer.text
    return [_event(line) for line in answer.text.split("\n\n") if line.startswith("data: ")]


def _event(line: str) -> dict[str, Any]:
    return dict(json.loads(line.removeprefix("data: ")))


def truth(name: str) -> np.ndarray:
    """A structure of the example phantom on the grid of its file, bool."""
    return np.asarray(nib.load(STRUCTURES).dataobj) == VALUES[name]


@contextmanager
def masks_of_truth(model: CTInstruct) -> Iterator[None]:
    """The mask decoder gives the phantom's true structures, in the order of VALUES, whatever it is asked."""
    with decoding(model, IMAGE, [truth(name) for name in VALUES]):
        yield


@contextmanager
def decoding(model: CTInstruct, image: Path, masks: Sequence[np.ndarray]) -> Iterator[None]:
    """The mask decoder gives these masks, on the grid of the image's file, and the last one again."""
    study = model.study(image)
    placement, geometry = study.volumes[0].placement, study.geometries[0]
    stacked = np.stack([geometry.from_source(mask) for mask in masks]).astype(np.int8)
    placed = place_mask(torch.from_numpy(stacked), placement)
    logits = torch.where(placed > 0, 9.0, -9.0)
    logits = torch.cat([logits, logits[-1:]])

    def decode_masks(_: Any, queries: torch.Tensor) -> torch.Tensor:
        return logits[: len(queries)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.vision, "decode_masks", decode_masks)
        yield


SMALL = Limits(upload_bytes=3 * 10**6, session_bytes=2 * 10**7, upload_files=50, free_bytes=0)
