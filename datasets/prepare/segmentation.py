"""Images and the masks that belong to them, for every data set whose files find each other by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets.prepare.case import Case, Findings, Mask, MaskConversion, Split
from datasets.prepare.data_set import Reader
from datasets.prepare.path_patterns import FoundPath, find_base, find_paths, glob_of

Values = int | tuple[int, ...] | None  # of a label in a mask file; None: all voxels but 0
# The fields of an image's or a mask's path -> why it is left out, or "".
Rule = Callable[[Mapping[str, str]], str]


@dataclass(frozen=True)
class Layout:
    """Where a data set's images and masks lie, and what the masks' values mean.

    images, masks: patterns (see `path_patterns`); several where a data set has parts, or is spread in several forms, of
    which an earlier one goes first.
    id: made of a path's fields, in braces; an image and the masks of its id belong together.
    patient: the patient's name, made of the image's fields.
    labels: by the task's label its value or values in the mask.
    skipped: why an image is left out, by its id.
    label_masks: a pattern a label, where each has a file of its own; a case then has the labels whose file is there.
    dicom: the images are folders of DICOM slices, the largest where there are several of one id.
    splits, hu_offsets: by the path's field `part`; "" for any other.
    unlabelled: why an image may lack a mask; empty where each must have one.
    several_masks: an id may have several masks, whose union counts (of several readers).
    unused: values that masks hold beside those of the labels.
    """

    images: tuple[str, ...]
    labels: Mapping[str, Values]
    masks: tuple[str, ...] = ()
    label_masks: Mapping[str, str] = field(default_factory=dict)
    dicom: bool = False
    id: str = "{id}"
    patient: str = "{id}"
    splits: Mapping[str, Split] = field(default_factory=dict)
    hu_offsets: Mapping[str, float] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    unlabelled: str = ""
    several_masks: bool = False
    conversion: MaskConversion = ""
    unused: tuple[int, ...] = ()


def in_order(*labels: str) -> dict[str, Values]:
    """Values for labels of which the k-th has value k, counted from 1."""
    return {label: number for number, label in enumerate(labels, start=1)}


def reader(layout: Layout, warning: str = "") -> Reader:
    """A reader for a layout that has nothing to be set.  warning: what a person should know of any copy of the set."""

    def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
        cases = read_cases(layout, source, findings)
        if cases and warning:
            findings.warnings.append(warning)
        return cases

    return read


def read_cases(
    layout: Layout, source: Path, findings: Findings, rule: Rule | None = None, image_source: Path | None = None
) -> list[Case]:
    """The cases of a data set, in the order of their ids; what is missing or odd goes to `findings`.

    rule: leaves out images and masks by their paths' fields, beside `layout.skipped`.
    image_source: where the images are that are not beside the masks.
    """
    if missing := [folder for folder in (source, image_source) if folder and not folder.is_dir()]:
        findings.problems.append(f"{missing[0]}: no such folder; give the folder that was downloaded")
        return []
    base, prefix = find_base(source, layout.images, layout.dicom)
    images = _images(layout, base, prefix, findings)
    if image_source:
        images = _images(layout, *find_base(image_source, layout.images, layout.dicom), findings) | images
    if not images:
        findings.problems.append(f"{base}: no image {_shown(layout.images)}; is this the data set, and all unpacked?")
        return []
    masks = _masks(layout, base, prefix, findings)
    if base != source and not any(masks.values()):  # images may lie a folder further down than masks
        masks = _masks(layout, source, prefix, findings)
    for id, reason in _left_out(layout, images, masks, rule):
        findings.excluded[id] = reason
        images.pop(id, None)
        for by_id in masks.values():
            by_id.pop(id, None)
    _report_unpaired(layout, base, images, masks, findings)
    cases = [_case(layout, images[id], masks, findings) for id in sorted(images)]
    return [case for case in cases if case]


def _images(layout: Layout, base: Path, prefix: str, findings: Findings) -> dict[str, FoundPath]:
    found: dict[str, FoundPath] = {}
    for pattern in layout.images:
        earlier = set(found)
        for image in find_paths(base, pattern.removeprefix(prefix), layout.dicom):
            id = layout.id.format(**image.fields)
            if id in earlier or (layout.dicom and not _slices(image.path)):
                continue
            if id in found and layout.dicom:
                found[id] = max(found[id], image, key=lambda each: _slices(each.path))
            elif id in found:
                findings.problems.append(f"{image.path}: a second image of {id}, beside {found[id].path}; keep one")
            else:
                found[id] = image
    return found


def _masks(layout: Layout, base: Path, prefix: str, findings: Findings) -> dict[str, dict[str, list[Path]]]:
    """By label, or by "" where all are in one file, the mask files of each id."""
    of_labels: dict[str, tuple[str, ...]] = {label: (pattern,) for label, pattern in layout.label_masks.items()}
    of_labels = of_labels or {"": layout.masks}
    found: dict[str, dict[str, list[Path]]] = {label: {} for label in of_labels}
    for label, patterns in of_labels.items():
        by_id = found[label]
        for pattern in patterns:
            earlier = set(by_id)
            for mask in find_paths(base, pattern.removeprefix(prefix)):
                id = layout.id.format(**mask.fields)
                if id in earlier:
                    continue
                if id in by_id and not layout.several_masks:
                    findings.problems.append(f"{mask.path}: a second mask of {id}, beside {by_id[id][0]}; keep one")
                else:
                    by_id.setdefault(id, []).append(mask.path)
    return found


def _slices(folder: Path) -> int:
    """How many files of a folder may be DICOM slices; a structure set or a segmentation is one file alone."""
    return sum(path.name[0] != "." and path.is_file() for path in folder.iterdir())


def _left_out(
    layout: Layout, images: Mapping[str, FoundPath], masks: Mapping[str, Mapping[str, object]], rule: Rule | None
) -> list[tuple[str, str]]:
    """Ids that a rule leaves out, with the reason; of a mask without an image the id alone is known."""
    every: dict[str, Mapping[str, str]] = {id: {} for by_id in masks.values() for id in by_id}
    every |= {id: image.fields for id, image in images.items()}
    reasons = {
        id: layout.skipped.get(id) or (rule({"id": id, **fields}) if rule else "") for id, fields in every.items()
    }
    return [(id, reasons[id]) for id in sorted(reasons) if reasons[id]]


def _report_unpaired(
    layout: Layout,
    base: Path,
    images: dict[str, FoundPath],
    masks: Mapping[str, Mapping[str, list[Path]]],
    findings: Findings,
) -> None:
    """Name images without masks and masks without images, and take such images out."""
    patterns = list(layout.label_masks.values()) or list(layout.masks)
    labelled = {id for by_id in masks.values() for id in by_id}
    if not labelled:
        findings.problems.append(f"{base}: {len(images)} images, but no mask {_shown(patterns)}; get the masks as well")
        images.clear()
        return
    for label, pattern in layout.label_masks.items():
        if not masks[label]:
            findings.problems.append(f"{base}: no mask of {label!r}, {_shown([pattern])}; get these masks as well")
    for id in sorted(set(images) - labelled):
        path = images.pop(id).path
        if layout.unlabelled:
            findings.excluded[id] = layout.unlabelled
        else:
            findings.problems.append(f"{path}: has no mask {_shown(patterns)}; get the mask, or remove the image")
    for id in sorted(labelled - set(images)):
        path = next(by_id[id][0] for by_id in masks.values() if id in by_id)
        findings.problems.append(f"{path}: has no image {_shown(layout.images)}; get the image, or remove the mask")


def _case(
    layout: Layout, image: FoundPath, masks: Mapping[str, Mapping[str, list[Path]]], findings: Findings
) -> Case | None:
    id, part = layout.id.format(**image.fields), image.fields.get("part", "")
    files = {label: tuple(by_id[id]) for label, by_id in masks.items() if id in by_id}
    empty = [path for path in (image.path, *(path for paths in files.values() for path in paths)) if is_empty(path)]
    findings.problems += [f"{path}: the file is empty; download it again" for path in empty]
    if empty:
        return None
    of_label = {label: files.get(label if layout.label_masks else "") for label in layout.labels}
    return Case(
        id=id,
        patient=layout.patient.format(**image.fields),
        image=image.path,
        split=layout.splits.get(part, layout.splits.get("")),
        masks={
            label: Mask(paths, as_values(layout.labels[label]), layout.conversion, layout.unused)
            for label, paths in of_label.items()
            if paths
        },
        hu_offset=layout.hu_offsets.get(part, layout.hu_offsets.get("", 0.0)),
    )


def as_values(values: Values) -> tuple[int, ...] | None:
    """Values as `Mask` has them."""
    return (values,) if isinstance(values, int) else values


def is_empty(path: Path) -> bool:
    """Whether a file holds no byte."""
    return path.is_file() and path.stat().st_size == 0


def _shown(patterns: Iterable[str]) -> str:
    return " or ".join(glob_of(pattern) for pattern in patterns)
