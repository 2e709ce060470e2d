"""A volume of a session as a report in one HTML file, and a whole session as an archive."""

from __future__ import annotations

import base64
import datetime
import io
import json
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import jinja2

from datasets.vocabulary import NEW_TOKENS
from datasets.volume.loading import read_volume
from datasets.volume.overlay import overlay_image
from serving.safe_names import download_name
from serving.sessions import OpenedVolume, Session

TEMPLATES = Path(__file__).resolve().parent / "templates"
_MOST_DRAWN_VOXELS = 2**31  # of all masks of the picture together


def report_html(volume: OpenedVolume, checkpoint: str, array_axes: str | None = None) -> str:
    """Questions, answers, confidences, and a picture of the masks; nothing in it is fetched or executed."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    masks = list(volume.masks.values())
    picture, drawn = _picture(volume, array_axes)
    return environment.get_template("session.html.j2").render(
        volume=volume,
        checkpoint=checkpoint,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        asked=[
            (asked, readable(asked.answer), sorted(asked.confidences.items(), key=_falling)) for asked in volume.asked
        ],
        masks=masks,
        picture=picture,
        not_drawn=len(masks) - drawn,
    )


def readable(answer: str) -> str:
    """An answer without its special tokens."""
    for token in NEW_TOKENS:
        answer = answer.replace(token, "")
    return " ".join(answer.split()).replace(" .", ".").replace(" ,", ",")


def session_archive(session: Session, checkpoint: str, path: Path, array_axes: str | None = None) -> Path:
    """session.json with all that was asked; for each volume its report and masks.  The CTs are not in it."""
    described = []
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for number, volume in enumerate(list(session.volumes.values()), start=1):
            folder = f"{number}_{download_name(volume.file.name)}"
            files = {}
            for mask in list(volume.masks.values()):
                files[mask.id] = f"{folder}/{download_name(mask.name)}_{mask.id}.nii.gz"
                archive.write(mask.path, files[mask.id], ZIP_STORED)
            archive.writestr(f"{folder}/report.html", report_html(volume, checkpoint, array_axes))
            described.append({**volume.described(), "files": files})
        told = {"checkpoint": checkpoint, "volumes": described}
        archive.writestr("session.json", json.dumps(told, indent=2, ensure_ascii=False))
    return path


def _picture(volume: OpenedVolume, array_axes: str | None) -> tuple[str, int]:
    """An overlay as the address of an <img>, and how many masks are on it."""
    array, whole = read_volume(volume.file.path, array_axes=array_axes)
    stored = list(volume.masks.values())[: max(1, _MOST_DRAWN_VOXELS // array.size)]
    masks = {mask.name: whole.from_source(volume.read(mask).array) for mask in stored}
    image = overlay_image(array[0], masks, whole.spacing, window="auto" if volume.file.in_hu else None)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", len(stored)


def _falling(item: tuple[str, float]) -> float:
    return -item[1]
