"""Masks as a DICOM segmentation of the series that they were found in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from highdicom.color import CIELabColor
from pydicom.uid import generate_uid

from datasets.errors import InputError
from datasets.export.coded_names import Code, coded_name
from datasets.export.dicom_source import in_one_line, read_dicom_source
from datasets.export.label_maps import check_count, label_map
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.overlay import mask_colours
from datasets.whole_files import written_whole

MANUFACTURER = "CTInstruct"
VERSION = "0.1.0"
ALGORITHM = Code("123110", "DCM", "Artificial Intelligence")
_SERIES_NUMBER = 300


def save_dicom_segmentation(
    masks: Mapping[str, np.ndarray], geometry: VolumeGeometry, path: str | Path
) -> pydicom.Dataset:
    """Write masks, by name, as one binary DICOM SEG; returns it.

    masks: (H, W, D) on the loaded grid.  Frames have the positions of the source's slices, and name them; overlapping
    masks stay whole.  Empty masks are left out.

    Raises InputError where all are empty, or where the volume was not read from a DICOM series.
    """
    path, source = Path(path), read_dicom_source(geometry)
    kept = {name: np.asarray(mask) for name, mask in masks.items() if np.any(mask)}
    if not kept:
        raise InputError(f"{path}: every mask is empty, and a DICOM segmentation needs one that is not")
    check_count(kept)
    with in_one_line(Path(geometry.source)):
        segmentation = hd.seg.Segmentation(
            source_images=source.images,
            pixel_array=_frames(kept, geometry, source.places),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_descriptions(kept),
            series_instance_uid=str(generate_uid()),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=str(generate_uid()),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MANUFACTURER,
            software_versions=VERSION,
            device_serial_number="1",
            content_label="CTINSTRUCT",
            content_description="Masks by CTInstruct, for research",
            series_description="CTInstruct masks",
        )
    save_dataset(segmentation, path)
    return segmentation


def save_dataset(data: pydicom.Dataset, path: Path) -> None:
    """Write a DICOM object; the file is there whole or not at all."""
    with written_whole([path]) as (draft,):
        data.save_as(draft, enforce_file_format=True)


def concept(code: Code) -> hd.sr.CodedConcept:
    """A code as highdicom has it."""
    return hd.sr.CodedConcept(code.value, code.scheme, code.meaning)


def _frames(masks: Mapping[str, np.ndarray], geometry: VolumeGeometry, places: list[int]) -> np.ndarray:
    """Masks as the source's files or frames lie: a label map (n, rows, columns), or where masks overlap one of each."""
    labels, overlap = label_map(masks)
    if not overlap:
        return _in_order(geometry.to_source(labels), places)
    apart = [_in_order(geometry.to_source((mask != 0).astype(np.uint8)), places) for mask in masks.values()]
    return np.stack(apart, axis=-1)


def _in_order(array: np.ndarray, places: list[int]) -> np.ndarray:
    frames = np.zeros((len(places), array.shape[1], array.shape[0]), dtype=np.uint8)
    frames[places] = array.transpose(2, 1, 0)
    return frames


def _descriptions(masks: Mapping[str, np.ndarray]) -> list[hd.seg.SegmentDescription]:
    algorithm = hd.AlgorithmIdentificationSequence(MANUFACTURER, concept(ALGORITHM), VERSION)
    found = []
    for number, (label, colour) in enumerate(zip(masks, mask_colours(len(masks)), strict=True), start=1):
        name = coded_name(label)
        description = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=" ".join(label.replace("\\", " ").split())[:64] or f"mask {number}",
            segmented_property_category=concept(name.category),
            segmented_property_type=concept(name.kind),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=str(generate_uid()),
            tracking_id=f"{number} {label}"[:64],
            anatomic_regions=[concept(name.region)] if name.region else None,
            display_color=CIELabColor.from_rgb(*(round(255 * channel) for channel in colour)),
        )
        if name.side:
            kind = description.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [concept(name.side)]
        found.append(description)
    return found
