"""Talk to a trained CTInstruct in a browser: drop a CT, ask, see masks on its slices.

    python serve_CTInstruct.py --checkpoint runs/CTInstruct
    python serve_CTInstruct.py --checkpoint runs/CTInstruct --folder scans   # and offer the CTs below a folder
    python serve_CTInstruct.py --checkpoint runs/CTInstruct --host 0.0.0.0   # to others, who need the printed address

docs/page.md says how to use it, and what it does against misuse.
"""

from __future__ import annotations

import secrets
import signal
import socket
from dataclasses import dataclass
from typing import Any, Literal

import torch
import uvicorn

from datasets.errors import InputError
from models import CTInstruct
from serving.answerer import Answerer
from serving.application import PageSettings, build_application
from serving.limits import GIGABYTE, Limits
from serving.session_folder import temporary_root
from serving.volume_files import served_volumes
from training.arguments import parse
from training.script import run_script


@dataclass
class HyperParameters:
    """Every setting, with its default; each is an option of the command line too."""

    checkpoint: str = ""  # a run folder (its newest checkpoint), a step or model folder, or a hub name
    folder: str = ""  # offer the CTs below this folder to every user; they are found when the server starts

    host: str = ""  # address to listen on; empty: this machine alone, without a token.  Any other asks for a token
    port: int = 7860  # 0 takes a free one

    array_axes: str | None = None  # what the axes of .npy and .npz volumes are, as LPS, or as_stored; none assumes RAS
    max_new_tokens: int = 1024  # of an answer
    # auto: bf16 on CUDA, with --quantize and on a CPU made for it, else fp32
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    # hold the language model's weights in 8 or 4 bits (torchao), for machines with little memory; int4 on a CPU alone
    quantize: Literal["none", "int8", "int4"] = "none"

    max_upload_gb: float = 4.0  # of one upload
    session_minutes: float = 60.0  # a session that nobody has used for so long ends, and its files go
    encoded_volumes: int = 2  # so many are kept in the model's memory for further questions
    temporary_folder: str = ""  # where uploads lie while their session lasts; empty: the system's

    def validate(self) -> None:
        """Raise InputError for what no server can use, naming the option."""
        if not self.checkpoint:
            raise InputError("--checkpoint is missing: name a run folder or a model folder")
        ranges = {"port": (0, 65535), "max_new_tokens": (1, 10**6), "encoded_volumes": (1, 100)}
        more = {"max_upload_gb": (0.001, 1000), "session_minutes": (0.01, 10**6)}
        for name, (low, high) in {**ranges, **more}.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"--{name} is {getattr(self, name)}: give a value from {low} to {high}")


def load_model(settings: HyperParameters) -> Any:
    """The checkpoint, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    quantize = None if settings.quantize == "none" else settings.quantize
    return CTInstruct.from_pretrained(settings.checkpoint, device, quantize=quantize, precision=settings.precision)


def listen(host: str, port: int) -> socket.socket:
    """A socket on an address of this machine; raises InputError where it cannot be had."""
    address = host or "127.0.0.1"
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family)
    except OSError as error:
        raise InputError(f"--host {address} --port {port}: {error.strerror or error}; give another") from error


def limits_of(settings: HyperParameters) -> Limits:
    """What users may do; a session holds four uploads."""
    most = int(settings.max_upload_gb * GIGABYTE)
    seconds = settings.session_minutes * 60
    return Limits(most, 4 * most, session_seconds=seconds, studies=settings.encoded_volumes)


def address_of(host: str, port: int, token: str | None) -> str:
    """What to open; a server that listens on all addresses of the machine goes by the machine's name."""
    name = "localhost" if not host else socket.gethostname() if host in ("0.0.0.0", "::") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{port}/" + (f"?token={token}" if token else "")


def main() -> None:
    """Command line; `run_script` prints an InputError as one line."""
    settings = parse(HyperParameters)
    settings.validate()
    served = served_volumes(settings.folder)
    listening = listen(settings.host, settings.port)  # before a large model is read
    port = listening.getsockname()[1]
    model = load_model(settings)
    model.array_axes = settings.array_axes
    options = model.options.with_changes(num_beams=1, max_new_tokens=settings.max_new_tokens)
    token = secrets.token_urlsafe(32) if settings.host else None
    page = PageSettings(settings.checkpoint, served, settings.array_axes, token, port, limits_of(settings))
    # uvicorn passes the signal on when it has closed: as an exception it lets the folder of uploads be removed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with temporary_root(settings.temporary_folder or None) as root:
            application = build_application(Answerer(model, options, page.limits.studies), root, page)
            config = uvicorn.Config(
                application, log_level="warning", access_log=False, server_header=False, limit_concurrency=256,
                timeout_graceful_shutdown=2,
            )  # fmt: skip
            print(f"open {address_of(settings.host, port, token)}  (Ctrl-C ends it)", flush=True)
            uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        print("closed; what was uploaded is removed", flush=True)


if __name__ == "__main__":
    run_script(main)
