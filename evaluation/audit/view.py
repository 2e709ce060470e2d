"""One case as it is looked at: the volume in HU and its masks in RAS, thinned out where they are large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from datasets.mask_files import MaskSource
from datasets.record_masks import read_source
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.images import load_image
from datasets.volume.loading import read_label_map, read_volume
from datasets.volume.preprocessed_crops import load_crop
from evaluation.audit.cases import AuditCase

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
LARGEST = 12_000_000  # voxels that are looked at; of larger volumes every second (third, ...) along an axis
PADDING_BELOW = -1500  # a constant below this is what scanners write outside their field of view


@dataclass
class View:
    """volume: (X, Y, Z) float32 in RAS; spacing in mm of its voxels; masks: bool of the same shape, by label.

    source_spacing: of the file, along RAS axes.  voxels: of each mask, counted before thinning out.
    lowest, highest: of all stored voxels, with the case's offset.
    """

    volume: np.ndarray
    spacing: tuple[float, float, float]
    source_spacing: tuple[float, float, float]
    geometry: VolumeGeometry
    lowest: float
    highest: float
    is_image: bool = False
    is_crop: bool = False
    masks: dict[str, np.ndarray] = field(default_factory=dict)
    voxels: dict[str, int] = field(default_factory=dict)

    @property
    def in_hu(self) -> bool:
        """Whether the values can be HU: no crop, no picture, and neither shares nor grey levels of 8 bits."""
        shares_or_levels = self.lowest >= 0 and self.highest <= 255
        return not (self.is_image or self.is_crop or shares_or_levels or self.highest - self.lowest < 10)

    @cached_property
    def padding(self) -> np.ndarray:
        """Where the volume holds one constant far below all else, as outside a round field of view."""
        low = self.volume == self.volume.min()
        rest = self.volume[~low]
        apart = rest.size and np.percentile(rest, 1) > self.volume.min() + 200
        is_padding = self.in_hu and self.volume.min() < PADDING_BELOW and low.mean() > 0.01 and apart
        return low if is_padding else np.zeros_like(low)

    @cached_property
    def dense(self) -> np.ndarray:
        """Voxels of tissue and bone, told from air and lung by Otsu's threshold, whatever the unit."""
        values = self.volume[~self.padding]
        low, high = np.percentile(values, (0.5, 99.5))
        otsu = sitk.OtsuThresholdImageFilter()
        otsu.Execute(sitk.GetImageFromArray(np.clip(values, low, high)[None]))
        return (self.volume > otsu.GetThreshold()) & ~self.padding

    @cached_property
    def outside(self) -> np.ndarray:
        """What lies around the body: in each axial plane, what is not dense and connected with the picture's border."""
        plane_alone = np.zeros((3, 3, 3), dtype=bool)
        plane_alone[:, :, 1] = ndimage.generate_binary_structure(2, 1)
        parts, _ = ndimage.label(~self.dense, plane_alone)
        border = np.concatenate([parts[[0, -1]].ravel(), parts[:, [0, -1]].ravel()])
        return np.isin(parts, np.unique(border[border > 0]))

    @cached_property
    def middle(self) -> np.ndarray:
        """Centre of the body in mm from the first voxel."""
        return self.centre(~self.outside)

    @property
    def extent(self) -> np.ndarray:
        """Size of the volume in mm."""
        return np.asarray(self.volume.shape) * self.spacing

    def centre(self, mask: np.ndarray) -> np.ndarray:
        """Centre of mass in mm from the first voxel; of an empty mask the volume's."""
        if not mask.any():
            return self.extent / 2
        sums = [mask.sum(axis=tuple(axis for axis in range(3) if axis != kept)) for kept in range(3)]
        return np.array([np.average(np.arange(len(s)), weights=s) for s in sums]) * self.spacing


def read_view(case: AuditCase) -> View:
    """Read a case's volume and masks.  Raises InputError for a file that is missing, damaged or on another grid."""
    is_image = case.image.suffix.lower() in IMAGE_SUFFIXES
    if is_image:
        array, geometry = load_image(case.image)
    elif case.crop:
        array, geometry = load_crop(case.image)
    else:
        array, geometry = read_volume(case.image)
    volume = array[0] + np.float32(case.hu_offset)
    steps = _steps(volume.shape, geometry.spacing)
    thin = tuple(slice(None, None, step) for step in steps)
    x, y, z = (side * step for side, step in zip(geometry.spacing, steps, strict=True))
    view = View(
        volume=np.ascontiguousarray(volume[thin]),
        spacing=(x, y, z),
        source_spacing=geometry.spacing,
        geometry=geometry,
        lowest=float(volume.min()),
        highest=float(volume.max()),
        is_image=is_image,
        is_crop=case.crop,
    )
    for label, mask in _masks(case.masks, geometry):
        view.voxels[label] = int(np.count_nonzero(mask))
        view.masks[label] = np.ascontiguousarray(mask[thin]) > 0
    return view


def _masks(sources: dict[str, MaskSource], geometry: VolumeGeometry) -> Iterator[tuple[str, np.ndarray]]:
    """Each mask; a file that several share is read once, since they follow each other."""
    path, labels = Path(), np.zeros(0)
    for name, source in sources.items():
        if source.boxes is not None or len(source.paths) != 1 or source.values is None:
            yield name, read_source(source, geometry)
            continue
        if Path(source.paths[0]) != path:
            path = Path(source.paths[0])
            labels = read_label_map(path, geometry)
        yield name, np.isin(labels, source.values)


def _steps(shape: tuple[int, ...], spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    """Every which voxel is kept along each axis: the finest axis is thinned out first."""
    steps = [1, 1, 1]
    while np.prod([-(-size // step) for size, step in zip(shape, steps, strict=True)]) > LARGEST:
        steps[int(np.argmin([side * step for side, step in zip(spacing, steps, strict=True)]))] += 1
    return steps[0], steps[1], steps[2]
