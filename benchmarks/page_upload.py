"""Memory and seconds of the page's server while it takes a large DICOM series, shows it and answers about it.

    python -m benchmarks.page_upload --checkpoint demo_output/run [--gigabytes 2] [--folder DIR]

A synthetic CT of slices of 512 x 512 is written to a temporary folder, which needs twice the series' size and half a
gigabyte more.  A server is started and the series sent to it over HTTP, as the page does.  Printed are the seconds of
each step, how long the server's processors worked in it, and its most resident memory above that before the upload
(Linux only).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import httpx2 as httpx
import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parents[1]
GB = 10**9
SIDE = 512  # voxels of a slice along each axis
BOUNDARY = "a-boundary-that-no-slice-holds-b6f1c0"


def write_series(folder: Path, count: int) -> None:
    """A body with lungs in HU, 0.7 x 0.7 x 0.5 mm, one file a slice."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    body = ((columns - 256) / 200) ** 2 + ((rows - 256) / 140) ** 2 < 1
    lung = ((np.abs(columns - 256) - 86) / 60) ** 2 + ((rows - 250) / 80) ** 2
    noise = np.random.default_rng(0).normal(0, 12, (8, SIDE, SIDE))
    series, study, frame = generate_uid(), generate_uid(), generate_uid()
    for index in range(count):
        hu = np.where(body, 40, -1000)
        hu = np.where(lung + ((index - count / 2) / (count / 3)) ** 2 < 1, -800, hu) + noise[index % len(noise)]
        one = pydicom.Dataset()
        one.SOPClassUID, one.SOPInstanceUID, one.Modality = CTImageStorage, generate_uid(), "CT"
        one.SeriesInstanceUID, one.StudyInstanceUID, one.FrameOfReferenceUID = series, study, frame
        one.InstanceNumber, one.PixelSpacing = index + 1, [0.7, 0.7]
        one.ImageOrientationPatient, one.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-179, -179, 0.5 * index - 1000]
        one.Rows, one.Columns, one.SamplesPerPixel, one.PhotometricInterpretation = SIDE, SIDE, 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        one.RescaleSlope, one.RescaleIntercept = 1, 0
        one.PixelData = hu.astype("<i2").tobytes()
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = CTImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.save_as(folder / f"{index:05}.dcm", enforce_file_format=True)


def multipart(folder: Path, name: str) -> Iterator[bytes]:
    """The body of an upload of a folder, a file at a time."""
    for path in sorted(folder.iterdir()):
        header = f'content-disposition: form-data; name="files"; filename="{name}/{path.name}"'
        yield f"--{BOUNDARY}\r\n{header}\r\n\r\n".encode() + path.read_bytes() + b"\r\n"
    yield f"--{BOUNDARY}--\r\n".encode()


class ServerMemory:
    """Most resident memory of another process since `begin`, in bytes; sampled every 20 ms."""

    def __init__(self, process: int) -> None:
        self._status = Path(f"/proc/{process}/status")
        self._peak = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> int:
        """Forget the peak so far; gives what is held now."""
        self._peak = self._now()
        return self._peak

    @property
    def peak(self) -> int:
        return max(self._peak, self._now())

    def _now(self) -> int:
        rows = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
        return int(rows["VmRSS"].split()[0]) * 1024

    def _watch(self) -> None:
        try:
            while not threading.Event().wait(0.02):
                self._peak = max(self._peak, self._now())
        except (OSError, KeyError):  # the server has ended
            return


class Steps:
    """Of each step: seconds, seconds of processors, and most memory above the start, of the server."""

    def __init__(self, process: int) -> None:
        self._process = process
        self._memory = ServerMemory(process)
        self._start = self._memory.begin()
        self.rows: list[tuple[str, float, float, float]] = []
        self.begin()

    def begin(self) -> None:
        self._memory.begin()
        self._began, self._worked = perf_counter(), self._processor_seconds()

    def end(self, name: str) -> None:
        """The step that began last, or since the end of the one before, is over."""
        worked = self._processor_seconds() - self._worked
        self.rows.append((name, perf_counter() - self._began, worked, (self._memory.peak - self._start) / GB))
        self.begin()

    def _processor_seconds(self) -> float:
        fields = Path(f"/proc/{self._process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(address: str, series: Path, steps: Steps) -> None:
    """Send the series, look at it, ask two questions, and close it."""
    with httpx.Client(base_url=address, timeout=7200, trust_env=False) as user:
        user.post("/api/session").raise_for_status()
        kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}

        def body() -> Iterator[bytes]:
            yield from multipart(series, "study")
            steps.end("sent and written to disk")

        steps.begin()
        answer = user.post("/api/volumes", content=body(), headers=kind)
        if answer.status_code != 200:
            raise SystemExit(f"refused: {answer.text}")
        steps.end("read, and copied for the viewer")
        told = answer.json()["volumes"][0]
        place = f"/api/volumes/{told['id']}"
        shown = len(user.get(f"{place}/image.nii").content)
        steps.end("the copy fetched")
        print(
            f"opened {told['shape']}, the viewer's copy has {shown / GB:.2f} GB; {' '.join(told['notes'])}", flush=True
        )
        question = {"question": "Where is the liver? Please output segmentation mask."}
        for name in ("a question, with reading for the model", "another question"):
            answered = user.post(f"{place}/questions", json=question).text
            steps.end(name)
            print(answered.strip().split("\n\n")[-2][-300:], flush=True)
        user.delete("/api/session")
        steps.end("closed")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a run or a model folder; a small one, to measure the page")
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the series")
    parser.add_argument("--folder", help="where to write it; by default the system's temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        series = Path(temporary, "study")
        series.mkdir()
        write_series(series, max(5, round(options.gigabytes * GB / (2 * SIDE**2))))
        size = sum(path.stat().st_size for path in series.iterdir())
        command = [sys.executable, "serve_CTInstruct.py", "--checkpoint", options.checkpoint, "--port", "0"]
        command += ["--temporary_folder", temporary, "--max_new_tokens", "40"]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                address = next(line.split()[1] for line in server.stdout if line.startswith("open "))
                steps = Steps(server.pid)
                measure(address, series, steps)
            finally:
                server.terminate()
                server.wait()
        table = Table(title=f"{len(list(series.iterdir()))} slices, {size / GB:.2f} GB")
        for heading in ("", "s", "of a processor", "most GB above the start"):
            table.add_column(heading, justify="right" if heading else "left")
        for name, *figures in steps.rows:
            table.add_row(name, *(f"{figure:.1f}" for figure in figures))
    Console().print(table)


if __name__ == "__main__":
    main()
