"""Controls: the questions of a manifest without their own images, to show that answers come from the voxels.

``shuffled`` asks every question about another patient's volumes, ``no_image`` without any.  Answers are still scored
against the question's own truth, so a figure under a control shows how much the words of the questions alone give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from datasets.errors import InputError
from datasets.manifest import InstructionRecord

Control = Literal["none", "shuffled", "no_image"]


def questions_under(control: Control, records: Sequence[InstructionRecord]) -> dict[str, InstructionRecord]:
    """By id, the records of a manifest whose question is asked otherwise under ``control``, as it is asked then.

    shuffled: patients, in the manifest's order, each take the volumes of the next, the last those of the first; so all
    questions about a volume go to the same other one.  Of patients with several volumes the k-th stands for the k-th,
    counted round where there are fewer.  It depends on the whole manifest: hand over all records, before any limit.
    no_image: the image parts are left out, and with them every visual token of the prompt.  A prompt without any is new
    to a model that was tuned on images only.  There is nothing to decode a mask from, so none is given.

    Questions without a volume stay as they are.

    Raises:
        InputError: shuffled, and the manifest has volumes of fewer than two patients, or two neighbours share one.
    """
    with_image = [record for record in records if record.image_path]
    if control == "no_image":
        return {record.id: _without_images(record) for record in with_image}
    return _shuffled(with_image) if control == "shuffled" else {}


def _without_images(record: InstructionRecord) -> InstructionRecord:
    words = [part for part in record.question if part.type == "text"]
    if not words:
        raise InputError(f"--control no_image: question '{record.id}' has no text, so nothing would be asked")
    return record.model_copy(update={"question": words, "image_path": []})


def _shuffled(records: Sequence[InstructionRecord]) -> dict[str, InstructionRecord]:
    volumes: dict[str, dict[str, int]] = {}  # patient: the place of each volume among the patient's own
    offsets = {path: record.hu_offset for record in records for path in record.image_path}
    for record in records:
        own = volumes.setdefault(record.patient_id, {})
        for path in record.image_path:
            own.setdefault(path, len(own))
    patients = list(volumes)
    if len(patients) < 2:
        raise InputError(
            f"--control shuffled: the manifest has volumes of {len(patients)} patient(s); another patient's volume "
            "needs at least two (patient_id tells them apart)"
        )
    following = dict(zip(patients, [*patients[1:], patients[0]], strict=True))
    asked = {}
    for record in records:
        own, others = volumes[record.patient_id], list(volumes[following[record.patient_id]])
        if shared := own.keys() & set(others):
            raise InputError(
                f"--control shuffled: patients '{record.patient_id}' and '{following[record.patient_id]}' share the "
                f"volume {min(shared)}; give one patient_id to all questions about it"
            )
        paths = [others[own[path] % len(others)] for path in record.image_path]
        asked[record.id] = record.model_copy(update={"image_path": paths, "hu_offset": offsets[paths[0]]})
    return asked


def stretched(mask: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A mask (H, W, D) of another volume on a grid of ``shape``, by nearest neighbour at the same relative position.

    The two arrays are stretched onto each other: voxel i of n takes the voxel that holds the point (i + 1/2) / n of the
    axis.  Both are loaded alike, in one orientation and cropped to the body (``--orientation as_stored``: in whatever
    orientation their files have), so that a mask which shows nothing but where an organ usually lies still overlaps:
    that is the part of Dice which the control is to measure.
    """
    places = [(2 * np.arange(n) + 1) * old // (2 * n) for n, old in zip(shape, mask.shape, strict=True)]
    return mask[np.ix_(*places)]
