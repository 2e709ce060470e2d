"""A full disk of the page's server: users are told so without a path of the server, and its log says where."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx2 as httpx
import pytest

from models import CTInstruct
from serving import uploads
from tests.page import IMAGE, ask, client, masks_of_truth, opened, page, send, tiny_answering_model
from tests.test_asking import saying

CT = IMAGE.read_bytes()
TOLD = "the server cannot write this: its disk is full or closed; tell whoever runs it"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CTInstruct:
    return tiny_answering_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def address(model: CTInstruct, root: Path) -> Iterator[str]:
    with page(model, root, served={"served.nii.gz": IMAGE}) as found:
        yield found


@pytest.fixture
def user(address: str) -> Iterator[httpx.Client]:
    with client(address) as found:
        yield found
        found.delete("/api/session")


def kept(root: Path) -> set[Path]:
    """All files and folders of users."""
    return {path for path in root.rglob("*") if not path.name.endswith(".lock")}


@contextmanager
def without_room_for(ending: str, room: int = 0) -> Iterator[None]:
    """No file whose name ends so can be written, but the first `room` of them."""
    replace, written = os.replace, []

    def full(source: Path, target: Path) -> None:
        if str(target).endswith(ending):
            if len(written) >= room:
                raise OSError(errno.ENOSPC, "No space left on device", str(target))
            written.append(target)
        replace(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", full)
        yield


def logged(root: Path, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the log names a file of the server, once and without a traceback."""
    lines = [record for record in caplog.records if str(root) in record.getMessage()]
    return [record.levelname for record in lines] == ["ERROR"] and not lines[0].exc_info


def test_a_mask_that_cannot_be_kept(
    model: CTInstruct, user: httpx.Client, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = opened(user)
    with saying(model, "The heart is <SEG>."), masks_of_truth(model), without_room_for(".nii.gz"):
        events = ask(user, volume, "Where is the heart?")
    assert [event["message"] for event in events if event["event"] == "error"] == [TOLD]
    assert events[-1]["event"] == "end" and str(root) not in str(events)
    assert logged(root, caplog)


def into_a_full_disk(path: Path, mode: str) -> IO[bytes]:
    """The file of that name is there, and what is written to it is refused by the system."""
    open(path, mode).close()
    return open("/dev/full", "wb")


def without_a_free_place(path: Path, mode: str) -> IO[bytes]:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


@pytest.mark.parametrize(
    ("open_file", "content"),
    [(into_a_full_disk, CT), (into_a_full_disk, CT[:100]), (without_a_free_place, CT)],
    ids=["while it is written", "when it is closed", "when it is made"],
)
def test_an_upload_that_finds_no_room_leaves_nothing(
    open_file: Callable[[Path, str], IO[bytes]],
    content: bytes,
    user: httpx.Client,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = kept(root)
    with monkeypatch.context() as patch:
        patch.setattr(uploads, "open", open_file, raising=False)
        answer = send(user, ("ct.nii.gz", content))
    assert (answer.status_code, answer.json()) == (507, {"detail": TOLD})
    assert logged(root, caplog)
    assert kept(root) == before
    assert send(user, ("ct.nii.gz", CT)).status_code == 200


def test_no_room_for_a_users_folder(address: str, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    def full(folder: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with httpx.Client(base_url=address, trust_env=False) as newcomer:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "mkdir", full)
            answer = newcomer.post("/api/session")
        assert (answer.status_code, answer.json()) == (507, {"detail": TOLD})
        assert logged(root, caplog)
        assert newcomer.post("/api/session").status_code == 200
        newcomer.delete("/api/session")


def upload(user: httpx.Client) -> httpx.Response:
    return send(user, ("a.nii.gz", CT), ("b.nii.gz", CT))


def open_served(user: httpx.Client) -> httpx.Response:
    return user.post("/api/served", json={"name": "served.nii.gz"})


@pytest.mark.parametrize(("request_of", "room"), [(upload, 0), (upload, 1), (open_served, 0)])
def test_a_volume_that_cannot_be_shown_ends_the_request_and_leaves_nothing(
    request_of: Callable[[httpx.Client], httpx.Response],
    room: int,
    user: httpx.Client,
    root: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = kept(root)
    with without_room_for("image.nii", room):
        answer = request_of(user)
    assert (answer.status_code, answer.json()) == (507, {"detail": TOLD})
    assert logged(root, caplog)
    assert kept(root) == before and user.post("/api/session").json()["volumes"] == []
    assert request_of(user).status_code == 200


def with_a_mask(model: CTInstruct, user: httpx.Client) -> str:
    """A volume of the session, with the answer to a question about its heart."""
    volume = opened(user)
    with saying(model, "The heart is <SEG>."), masks_of_truth(model):
        ask(user, volume, "Where is the heart?")
    return volume


def test_an_export_that_cannot_be_made(
    model: CTInstruct, user: httpx.Client, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = with_a_mask(model, user)
    before = kept(root)
    with without_room_for(".seg.nrrd"):
        answer = user.get(f"/api/volumes/{volume}/masks", params={"file_format": "seg.nrrd"})
    assert (answer.status_code, answer.json()) == (507, {"detail": TOLD})
    assert logged(root, caplog) and kept(root) == before


@contextmanager
def exports_on_a_full_disk(*names: str) -> Iterator[None]:
    """Files of these names can be made in an export's folder, and nothing can be written to them."""
    mkdir = Path.mkdir

    def full(folder: Path, *given: Any, **named: Any) -> None:
        mkdir(folder, *given, **named)
        if folder.name.startswith("export_"):
            for name in names:
                (folder / name).symlink_to("/dev/full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        yield


def test_a_report_and_a_session_that_find_no_room(
    model: CTInstruct, user: httpx.Client, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = with_a_mask(model, user)
    before = kept(root)
    for place, name in ((f"volumes/{volume}/report.html", "ct.nii.gz_report.html"), ("session.zip", "session.zip")):
        caplog.clear()
        with exports_on_a_full_disk(name):
            answer = user.get(f"/api/{place}")
        assert (answer.status_code, answer.json()) == (507, {"detail": TOLD})
        assert logged(root, caplog) and kept(root) == before
        assert user.get(f"/api/{place}").status_code == 200


def test_a_session_whose_mask_goes_while_it_is_saved(model: CTInstruct, user: httpx.Client, root: Path) -> None:
    with_a_mask(model, user)
    (mask,) = user.post("/api/session").json()["volumes"][0]["masks"]
    for path in root.rglob(f"*{mask['id']}*"):
        path.unlink()
    answer = user.get("/api/session.zip")
    assert answer.status_code == 422 and "load the page again" in answer.json()["detail"]
    assert str(root) not in answer.text and "error" not in answer.text.lower()
