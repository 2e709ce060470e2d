"""Records of vision pretraining, of three kinds, with paths relative to the manifest's folder.

    classification  {image_path, disease_label}: one of the task's labels; or a list of the present ones; or
                    {label: 1, 0 or null (unknown)}, where a label left out is unknown
    image_text      {image_path, report}
    segmentation    {image_path, labels, mask_path, mask_values}: a file (or a list of files that are joined) a label,
                    as a list in the order of `labels` or as {label: path}; or one multi-label file.  mask_values
                    {label: value or values} says which voxels of a label's file count; without, all that are not 0

`patient_id` is optional, and so is `hu_offset`, which is added to what the volume's file holds: -1000 where that is
HU + 1000.  The published forms (`datasets.published_pretraining`) are read as well.  In place of
`image_path` a record may have the published layout of preprocessed crops (see `datasets.volume.preprocessed_crops`):
`renorm_image`, `chwd`, and for segmentation `renorm_segmentation_dir` and `renorm_y1x1z1_y2x2z2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from datasets.label_descriptions import canonical
from datasets.mask_files import BOX_FIELD, Box, MaskValue, is_box, mask_file, refuse_values_of_others
from datasets.published_pretraining import known_labels, named_classes, our_names
from datasets.vocabulary import Kind


class PretrainingRecord(BaseModel):
    """What records of every kind have: one volume.

    preprocessed: the file is a normalised crop (`renorm_image`).  chwd: the shape that the crop must have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[Kind]
    image_path: Annotated[str, Field(min_length=1)]
    patient_id: str = ""
    hu_offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    preprocessed: bool = False
    chwd: tuple[int, int, int, int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _published_names(cls, values: Any) -> Any:
        return our_names(values, cls.kind) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _crops_are_normalised(self) -> Self:
        if self.preprocessed and self.hu_offset:
            raise ValueError("hu_offset: a preprocessed crop (renorm_image) is not in HU; leave it out")
        return self

    def files(self) -> list[tuple[str, str]]:
        """(field, path) of every file that is needed."""
        return [("renorm_image" if self.preprocessed else "image_path", self.image_path)]

    def in_task(self, labels: Sequence[str], loss: str | None) -> Self:
        """The record with its labels spelled as in the task's; ValueError (``field: what``) where it does not fit."""
        return self

    def located(self, folder: Path) -> Self:
        """The record with absolute paths; the volume's path stands for the patient where none is named."""
        path = str(folder / self.image_path)
        return self.model_copy(update={"image_path": path, "patient_id": self.patient_id or path})


class ClassificationRecord(PretrainingRecord):
    """A volume and its classes.

    disease_label: in the manifest one of the three forms above, or a published one; after `in_task` one label for a
    task of loss "CE", or {label: 1, 0 or None (unknown)} for one of loss "BCE".
    class_numbers: of the published form, until `in_task` names the classes.
    """

    kind: ClassVar[Kind] = "classification"
    disease_label: str | dict[str, int | None] | list[str]
    class_numbers: int | list[int] | None = None

    @field_validator("disease_label", mode="before")
    @classmethod
    def _label_or_labels(cls, value: Any) -> Any:
        if isinstance(value, dict) and all(truth in (0, 1, None) for truth in value.values()):
            return {label: None if truth is None else int(truth) for label, truth in value.items()}
        if (isinstance(value, str) and value.strip()) or (
            isinstance(value, list) and all(isinstance(label, str) for label in value)
        ):
            return value
        raise ValueError(
            "give a label, a list of the present labels, or {label: 1, 0 or null}; or the number of a class, or a list "
            "of 0 or 1 for each label"
        )

    def in_task(self, labels: Sequence[str], loss: str | None) -> Self:
        given = self.disease_label
        if self.class_numbers is not None:
            given = named_classes(self.class_numbers, labels)
        truth = given if isinstance(given, dict) else dict.fromkeys([given] if isinstance(given, str) else given, 1)
        truth = _spelled(truth, labels, "disease_label")
        if loss != "CE":
            if not isinstance(given, dict):
                truth = {label: truth.get(label, 0) for label in labels}
            return self.model_copy(update={"disease_label": truth, "class_numbers": None})
        present = [label for label, value in truth.items() if value == 1]
        if len(present) != 1:
            raise ValueError(f"disease_label: {len(present)} labels are present; this task knows exactly one a volume")
        return self.model_copy(update={"disease_label": present[0], "class_numbers": None})


class ImageTextRecord(PretrainingRecord):
    """A volume and what was written about it."""

    kind: ClassVar[Kind] = "image_text"
    report: str

    @field_validator("report")
    @classmethod
    def _report_has_text(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is empty")
        return value


class SegmentationRecord(PretrainingRecord):
    """A volume and the masks of `labels`: what is not listed was not annotated; a listed one may be absent.

    names: the labels in the task's spelling, from `in_task`; `labels` are as manifest and mask files spell them.
    mask_path: one multi-label file, or a file (or files that are joined) a label, in order.  For a preprocessed crop
    `mask_folder` holds a file a label; `mask_boxes`, one a label or one for all, tell where in the crop a smaller mask
    lies (None: label absent).
    """

    kind: ClassVar[Kind] = "segmentation"
    labels: Annotated[list[str], Field(min_length=1)]
    names: list[str] = []
    mask_path: str | list[str | Annotated[list[str], Field(min_length=1)]] | None = None
    mask_values: dict[str, int | Annotated[list[int], Field(min_length=1)]] | None = None
    mask_folder: str | None = Field(default=None, alias="renorm_segmentation_dir")
    mask_boxes: list[Box | None] | None = Field(default=None, alias="renorm_y1x1z1_y2x2z2")

    @field_validator("mask_boxes", mode="before")
    @classmethod
    def _absent_is_false(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        value = [value] if len(value) == 6 and all(type(number) is int for number in value) else value
        return [box or None for box in value]

    @model_validator(mode="before")
    @classmethod
    def _masks_by_label(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        paths, numbers = values.get("mask_path"), values.get("mask_values")
        by_label = paths if isinstance(paths, dict) else numbers
        if "labels" not in values and isinstance(by_label, dict):
            values = {**values, "labels": list(by_label)}
        if isinstance(paths, dict) and isinstance(values["labels"], list):
            if missing := [label for label in values["labels"] if label not in paths]:
                raise ValueError(f"mask_path: no file for {missing[0]!r}")
            values = {**values, "mask_path": [paths[label] for label in values["labels"]]}
        return values

    @model_validator(mode="after")
    def _parts_fit(self) -> SegmentationRecord:
        if len({canonical(label) for label in self.labels}) < len(self.labels):
            raise ValueError("labels: one is listed twice")
        if (self.mask_path is None) == (self.mask_folder is None):
            raise ValueError("mask_path: give it, or for a preprocessed crop renorm_segmentation_dir, and not both")
        if isinstance(self.mask_path, list) and len(self.mask_path) != len(self.labels):
            raise ValueError(f"mask_path: {len(self.mask_path)} files for {len(self.labels)} labels")
        if isinstance(self.mask_path, str) and (self.mask_values is not None or len(self.labels) > 1):
            if missing := [label for label in self.labels if label not in (self.mask_values or {})]:
                raise ValueError(f"mask_values: no value for {missing[0]!r}")
        elif self.mask_values:
            if self.mask_folder is not None:
                raise ValueError("mask_values: the masks of a preprocessed crop have none; leave them out")
            refuse_values_of_others(self.mask_values, self.labels)
        if self.mask_boxes is not None and len(self.mask_boxes) not in (1, len(self.labels)):
            raise ValueError(f"{BOX_FIELD}: {len(self.mask_boxes)} boxes for {len(self.labels)} labels")
        if bad := [box for box in self.mask_boxes or [] if box is not None and not is_box(box)]:
            raise ValueError(
                f"{BOX_FIELD}: {list(bad[0])} is no box; give [y1, x1, z1, y2, x2, z2] with y1 < y2 and so on"
            )
        return self

    @property
    def values(self) -> list[MaskValue] | None:
        """The value or values of each label in its files, None where every voxel that is not 0 counts; None for all."""
        return [self.mask_values.get(label) for label in self.labels] if self.mask_values else None

    @property
    def boxes(self) -> list[Box | None] | None:
        """A box for each label; None where none was given."""
        boxes = self.mask_boxes
        return boxes * len(self.labels) if boxes is not None and len(boxes) == 1 else boxes

    def files(self) -> list[tuple[str, str]]:
        found = super().files()
        if self.mask_folder is not None:
            boxes = self.boxes or [(0,) * 6] * len(self.labels)
            present = [label for label, box in zip(self.labels, boxes, strict=True) if box is not None]
            return found + [("renorm_segmentation_dir", mask_file(self.mask_folder, label)) for label in present]
        return found + [("mask_path", path) for paths in self.mask_files for path in paths]

    @property
    def mask_files(self) -> list[list[str]]:
        """The files of each label's mask; of one multi-label file that alone, once."""
        entries = [self.mask_path] if isinstance(self.mask_path, str) else self.mask_path or []
        return [[entry] if isinstance(entry, str) else entry for entry in entries]

    def in_task(self, labels: Sequence[str], loss: str | None) -> Self:
        return self.model_copy(update={"names": list(_spelled(dict.fromkeys(self.labels), labels, "labels"))})

    def located(self, folder: Path) -> Self:
        def absolute(paths: Any) -> Any:
            return list(map(absolute, paths)) if isinstance(paths, list) else paths and str(folder / paths)

        changes = {"mask_path": absolute(self.mask_path), "mask_folder": absolute(self.mask_folder)}
        return super().located(folder).model_copy(update=changes)

    def only(self, labels: Sequence[str]) -> Self | None:
        """The record without labels that are not among `labels`; None if none is left."""
        wanted = {canonical(label) for label in labels}
        kept = [index for index, label in enumerate(self.labels) if canonical(label) in wanted]
        changes: dict[str, Any] = {"labels": [self.labels[index] for index in kept]}
        if isinstance(self.mask_path, list):
            changes["mask_path"] = [self.mask_path[index] for index in kept]
            changes["mask_values"] = {
                label: value for label, value in (self.mask_values or {}).items() if label in changes["labels"]
            }
        if self.boxes is not None:
            changes["mask_boxes"] = [self.boxes[index] for index in kept]
        return self.model_copy(update=changes) if kept else None


SCHEMAS: dict[str, type[PretrainingRecord]] = {
    "classification": ClassificationRecord,
    "image_text": ImageTextRecord,
    "segmentation": SegmentationRecord,
}


def _spelled(given: dict[str, Any], labels: Sequence[str], field: str) -> dict[str, Any]:
    """The same with keys spelled as in `labels`; ValueError for one that is not there."""
    known = known_labels(labels)
    if unknown := [label for label in given if canonical(label) not in known]:
        shown = ", ".join(labels[:8]) + (", ..." if len(labels) > 8 else "")
        raise ValueError(f"{field}: {unknown[0]!r} is not a label of this task ({shown})")
    return {known[canonical(label)]: value for label, value in given.items()}
