"""Masks in the formats of viewers lie, in millimetres, where they were, as readers of other projects see them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import highdicom as hd
import nibabel as nib
import nrrd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from datasets.errors import InputError
from datasets.export.masks import save_masks, write_formats
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_volume
from tests.ct_files import random_affine, write_dicom, write_nifti
from tests.test_dicom_series import edit, enhanced

SHAPE = (14, 11, 9)


def points(affine: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Places (n, 3) of a mask's voxels in mm, sorted."""
    found = (affine[:3, :3] @ np.argwhere(mask).T).T + affine[:3, 3]
    return found[np.lexsort(found.round(3).T)]


def masks_of(geometry: VolumeGeometry, overlapping: bool = False) -> dict[str, np.ndarray]:
    """Random masks on the loaded grid, so that no flip or permutation of axes goes unseen."""
    labels = np.random.default_rng(3).integers(0, 5, geometry.shape)
    masks = {"left kidney": labels == 1, "liver tumor": labels == 2, "something strange": labels == 3}
    if overlapping:
        masks["liver"] = labels > 1
    return {name: mask.astype(np.uint8) for name, mask in masks.items()}


def world(geometry: VolumeGeometry, mask: np.ndarray) -> np.ndarray:
    """Of a mask on the loaded grid, LPS."""
    return points(np.diag([-1, -1, 1, 1]) @ np.asarray(geometry.affine), mask)


def cropped(path: Path) -> VolumeGeometry:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tilt
        whole = read_volume(path)[1]
    first, second, third = whole.shape
    return whole.cropped((1, 2, 1), (first - 2, second - 1, third - 1))


def series(folder: Path, angle: float = 0.0, shear: float = 0.0) -> Path:
    """A CT series with the files in shuffled order, rotated in plane by an angle and with slices shifted upwards."""
    ct = np.random.default_rng(1).integers(-512, 700, SHAPE).astype(np.int16) * 2
    row, column = [np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0]

    def change(data: pydicom.Dataset) -> None:
        x, y, z = (float(v) for v in data.ImagePositionPatient)
        data.ImageOrientationPatient = [round(v, 10) for v in (*row, *column)]
        data.ImagePositionPatient = [x, round(y + shear * z, 6), z]

    return edit(write_dicom(folder, ct), change)


SERIES = {
    "straight": lambda d: series(d / "s"),
    "oblique": lambda d: series(d / "s", np.deg2rad(12)),
    "tilted gantry": lambda d: series(d / "s", np.deg2rad(5), 0.3),
    "enhanced": lambda d: enhanced(d / "e" / "e.dcm", np.random.default_rng(1).integers(0, 700, SHAPE) * 2),
}


def segment_points(path: Path) -> dict[str, np.ndarray]:
    """Each segment's voxels in mm, from the frames' own positions, by pydicom alone."""
    data = pydicom.dcmread(path)
    shared, frames = data.SharedFunctionalGroupsSequence[0], data.pixel_array
    names = {segment.SegmentNumber: segment.SegmentLabel for segment in data.SegmentSequence}
    row, column = np.reshape([float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3))
    rows, columns = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    found: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
    for frame, groups in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array([float(v) for v in groups.PlanePositionSequence[0].ImagePositionPatient])
        name = names[groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber]
        at = np.argwhere(frame)
        found[name].append(place + at[:, 1:] * columns * row + at[:, :1] * rows * column)
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    return {name: parts[np.lexsort(parts.round(3).T)] for name, parts in joined.items()}


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("kind", SERIES)
def test_dicom_segments_lie_in_the_series(kind, overlapping, tmp_path):
    geometry = cropped(SERIES[kind](tmp_path))
    masks = masks_of(geometry, overlapping)
    (path,) = save_masks(masks | {"empty": np.zeros(geometry.shape, np.uint8)}, geometry, tmp_path / "out" / "seg.dcm")
    found = segment_points(path)
    assert list(found) == list(masks)
    for name, mask in masks.items():
        np.testing.assert_allclose(found[name], world(geometry, mask), atol=1e-3)


def test_a_dicom_segmentation_refers_to_its_series_in_codes(tmp_path):
    folder = series(tmp_path / "s")
    geometry = cropped(folder)
    masks = masks_of(geometry)
    save_masks(masks, geometry, tmp_path / "seg.dcm")
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    sources = {str(d.SOPInstanceUID): d for d in map(pydicom.dcmread, folder.iterdir())}
    first = next(iter(sources.values()))
    for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
        assert getattr(segmentation, name) == getattr(first, name)
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        place = groups.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose([float(v) for v in sources[source].ImagePositionPatient], place, atol=1e-6)
    kidney, tumor, strange = (segmentation.get_segment_description(number) for number in (1, 2, 3))
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert tumor.anatomic_regions[0].meaning == "Liver" and tumor.segmented_property_type.value == "108369006"
    assert strange.segmented_property_type.scheme_designator == "99CTINSTRUCT"
    # highdicom's own reader, on the grid of the source
    volume = segmentation.get_volume(segment_numbers=[1])
    got = points(volume.affine, volume.array[..., 0])
    np.testing.assert_allclose(got, world(geometry, masks["left kidney"]), atol=1e-3)


def slicer_points(path: Path) -> dict[str, np.ndarray]:
    """Each segment's voxels in mm, as its fields say, by pynrrd."""
    array, header = nrrd.read(str(path))
    layers = array if array.ndim == 4 else array[None]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = header["space directions"][-3:].T, header["space origin"]
    found, number = {}, 0
    while f"Segment{number}_ID" in header:
        field = lambda key, n=number: header[f"Segment{n}_{key}"]  # noqa: E731
        mask = layers[int(field("Layer"))] == int(field("LabelValue"))
        spans = [(int(axis.min()), int(axis.max())) for axis in np.nonzero(mask)]
        assert field("Extent") == " ".join(f"{low} {high}" for low, high in spans)
        found[field("Name")], number = points(affine, mask), number + 1
    return found


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("codes", ["LPS", "SAR", "oblique", "tilted gantry"])
def test_a_slicer_segmentation_keeps_every_voxel(codes, overlapping, tmp_path):
    if codes == "tilted gantry":
        path = series(tmp_path / "s", np.deg2rad(5), 0.3)
    else:
        rng = np.random.default_rng(5)
        affine = random_affine("RSP" if codes == "oblique" else codes, (0.7, 0.9, 2.5), rng, 25 * (codes == "oblique"))
        path = write_nifti(tmp_path / "a.nii.gz", rng.normal(size=SHAPE).astype(np.float32), affine)
    geometry = cropped(path)
    masks = masks_of(geometry, overlapping)
    (path,) = save_masks(masks, geometry, tmp_path / "masks.seg.nrrd")
    found = slicer_points(path)
    assert list(found) == list(masks)
    for name, mask in masks.items():
        np.testing.assert_allclose(found[name], world(geometry, mask), atol=1e-3)
    header = nrrd.read_header(str(path))
    assert "~SCT^64033007^Kidney~SCT^7771000^Left~" in header["Segment0_Tags"]
    assert len({header[f"Segment{n}_Color"] for n in range(len(masks))}) == len(masks)
    if not overlapping and codes != "tilted gantry":  # ITK, which Slicer reads with
        image = sitk.ReadImage(str(path))
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        got = points(affine, sitk.GetArrayFromImage(image).T == 2)
        np.testing.assert_allclose(got, world(geometry, masks["liver tumor"]), atol=1e-3)


def test_a_label_map_has_names_and_the_smaller_structure_on_top(tmp_path, caplog):
    rng = np.random.default_rng(5)
    source = write_nifti(tmp_path / "a.nii.gz", rng.normal(size=SHAPE).astype(np.float32), random_affine(
        "PIR", (0.7, 0.9, 2.5), rng, 25))  # fmt: skip
    geometry = cropped(source)
    masks = masks_of(geometry, overlapping=True)
    image, names = save_masks(masks, geometry, tmp_path / "organs.nii.gz")
    assert json.loads(names.read_text()) == {str(n): name for n, name in enumerate(masks, start=1)}
    assert names.name == "organs.json" and "voxels are of several masks" in caplog.text
    loaded = nib.load(image)
    labels = np.asarray(loaded.dataobj)
    assert labels.shape == nib.load(source).shape and np.allclose(loaded.affine, nib.load(source).affine)
    liver = masks["liver"] & ~masks["liver tumor"] & ~masks["something strange"]
    for value, mask in enumerate([*list(masks.values())[:3], liver], start=1):
        flipped = np.diag([-1, -1, 1, 1]) @ loaded.affine
        np.testing.assert_allclose(points(flipped, labels == value), world(geometry, mask), atol=1e-3)


def test_what_cannot_be_written_is_said_in_one_line(tmp_path, caplog):
    nifti = write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=SHAPE), np.eye(4))
    geometry = read_volume(nifti)[1]
    masks = masks_of(geometry)
    with pytest.raises(InputError, match=r"a\.nii\.gz: is no DICOM series"):
        save_masks(masks, geometry, tmp_path / "x.dcm")
    with pytest.raises(InputError, match=r"end the name in one of these"):
        save_masks(masks, geometry, tmp_path / "x.png")
    with pytest.raises(InputError, match="0 masks: one file holds from 1 to 255"):
        save_masks({}, geometry, tmp_path / "x.nii.gz")
    written = write_formats(masks, geometry, tmp_path / "out", ["dicom-seg", "labels"])
    assert [path.name for path in written] == ["out_labels.nii.gz", "out_labels.json"]
    assert "no dicom-seg" in caplog.text
    folder = edit(series(tmp_path / "s"), lambda data: delattr(data, "FrameOfReferenceUID"))
    for empty, complaint in ((False, "has no FrameOfReferenceUID"), (True, "every mask is empty")):
        if empty:
            edit(folder, lambda data: setattr(data, "FrameOfReferenceUID", "1.2.3"))
        place = read_volume(folder)[1]
        with pytest.raises(InputError, match=complaint):
            save_masks({"liver": np.full(place.shape, int(not empty), np.uint8)}, place, tmp_path / "x.dcm")


def test_what_anonymising_took_away_is_put_in_its_place(tmp_path):
    """As in a public series: instance, series and study UIDs are empty, the file's own header still has the first."""

    def anonymise(data: pydicom.Dataset) -> None:
        for name in ("SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
            setattr(data, name, "")

    folder = edit(series(tmp_path / "s"), anonymise)
    geometry = cropped(folder)
    masks = masks_of(geometry)
    written = [pydicom.dcmread(save_masks(masks, geometry, tmp_path / name)[0]) for name in ("a.dcm", "b.dcm")]
    (first, second) = written
    assert first.StudyInstanceUID == second.StudyInstanceUID != "" and first.SOPInstanceUID != second.SOPInstanceUID
    named = {
        groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        for groups in first.PerFrameFunctionalGroupsSequence
    }
    kept = {str(pydicom.dcmread(path).file_meta.MediaStorageSOPInstanceUID) for path in folder.iterdir()}
    assert named <= kept and len(named) == 7  # the crop has 7 of the 9 slices
    found = segment_points(tmp_path / "a.dcm")["left kidney"]
    np.testing.assert_allclose(found, world(geometry, masks["left kidney"]), atol=1e-3)
