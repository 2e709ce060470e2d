"""One phantom patient: from a seed and an index to voxels, masks and the truth about them.

Everything of case ``index`` comes from random streams named after what they decide (grid, anatomy, each finding,
noise), all seeded by (seed, index, name). A case is therefore the same whatever the number of cases or workers. Leaving
a finding out changes neither the anatomy nor the noise; another finding may then take the room that it left.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from datasets.errors import InputError
from datasets.phantom.anatomy import BOTTOM, STRUCTURES, TOP, Anatomy
from datasets.phantom.findings import paint_findings
from datasets.phantom.lesions import DISEASES, LATERAL, LESIONS, RIGHT_OFFSET, Finding
from datasets.phantom.organs import paint_anatomy
from datasets.phantom.scene import Pose, Scene
from datasets.phantom.shapes import rotation
from datasets.volume.declared_size import MAX_VOXELS
from datasets.volume.geometry import are_axis_codes

ORIENTATIONS = ("RAS", "LPS", "LAS", "RPS", "LPI", "RAI", "LAI", "PIR", "PSL", "ASL", "SRA", "IPL")
HU_RANGE = (-1024, 3071)
BODY_SCALES = (0.4, 1.5)  # below, organs are lost between voxels
SPACINGS = (0.1, 50.0)  # mm; above, so are bodies


@dataclass(frozen=True)
class CaseOptions:
    """How phantoms are drawn.

    prevalence: probability of each finding, drawn independently. body_scale: size range relative to a standard adult;
    small bodies keep volumes small. in_plane, between: ranges of the spacing in mm. max_voxels: spacings that would
    exceed it are drawn again. orientations: axis codes of the stored array. Raises InputError for values that make no
    patient.
    """

    prevalence: float = 0.3
    body_scale: tuple[float, float] = (0.62, 0.78)
    in_plane: tuple[float, float] = (0.7, 1.5)
    between: tuple[float, float] = (1.0, 5.0)
    max_voxels: float = 4e6
    orientations: tuple[str, ...] = ORIENTATIONS

    def __post_init__(self) -> None:
        if not 0 <= self.prevalence <= 1:
            raise InputError(f"--prevalence {self.prevalence}: give a probability, from 0 to 1")
        low, high = self.body_scale
        if not BODY_SCALES[0] <= low <= high <= BODY_SCALES[1]:
            raise InputError(f"--body-scale {low} {high}: give two rising values within {BODY_SCALES}")
        for low, high in (self.in_plane, self.between):
            if not SPACINGS[0] <= low <= high <= SPACINGS[1]:
                raise InputError(
                    f"--in-plane, --between, --spacing-scale: spacings from {low} to {high} mm are no range within "
                    f"{SPACINGS} mm"
                )
        if not 1 <= self.max_voxels <= MAX_VOXELS:
            raise InputError(f"--max-voxels {self.max_voxels}: give a number from 1 to {MAX_VOXELS}")
        for code in self.orientations:
            if not are_axis_codes(code):
                raise InputError(f"--orientations {code}: give axis codes, one letter each of L/R, A/P and I/S, as LPS")


@dataclass
class PhantomCase:
    """One patient in stored orientation, with one affine for all arrays.

    ct: int16 HU.  structures, lesions, sites (of the lesions that are counted): uint8 label maps.  right: boolean, what
    lies on the right of the patient's middle.
    """

    seed: int
    index: int
    ct: np.ndarray
    structures: np.ndarray
    lesions: np.ndarray
    sites: np.ndarray
    right: np.ndarray
    affine: np.ndarray
    orientation: str
    findings: dict[str, Finding]
    cardiothoracic_ratio: float

    @property
    def targets(self) -> dict[str, int]:
        """0 or 1 for each CT-RATE disease, in their order."""
        return {name: int(name in self.findings) for name in DISEASES}

    @cached_property
    def written_lesions(self) -> np.ndarray:
        """The lesion map as it is written, in which left and right parts, and sites, differ (`lesion_parts`)."""
        lateral = np.isin(self.lesions, [LESIONS[name] for name in LATERAL])
        return np.where(self.sites > 0, self.sites, self.lesions + np.uint8(RIGHT_OFFSET) * (lateral & self.right))


def stream(seed: int, index: int, name: str) -> np.random.Generator:
    """The random generator of one decision of one case."""
    return np.random.default_rng([seed, index, zlib.crc32(name.encode())])


def draw_findings(seed: int, index: int, prevalence: float) -> list[str]:
    """Which findings a case has: each with the same probability, independent of all others."""
    chance = stream(seed, index, "labels").random(len(DISEASES))
    return [name for name, value in zip(DISEASES, chance, strict=True) if value < prevalence]


def draw_grid(rng: np.random.Generator, options: CaseOptions) -> tuple[tuple[int, int, int], np.ndarray, Pose]:
    """Draw the grid's shape, its spacing (mm, RAS axes, slices along the third) and the pose of the body in it."""
    scale = rng.uniform(*options.body_scale) * rng.uniform(0.96, 1.04, 3)
    turn = rotation(rng.uniform(-6, 6, 3))
    centre = np.array([0.0, -8.0, (TOP + BOTTOM) / 2]) * scale
    shift = rng.uniform(-6, 6, 3) - turn @ centre
    extent = np.array([2 * 192.0, 2 * 148.0, (TOP - BOTTOM) * rng.uniform(0.98, 1.04)]) * scale
    extent[:2] += rng.uniform(0, 24, 2)
    for _ in range(1000):
        in_plane, between = rng.uniform(*options.in_plane), rng.uniform(*options.between)
        if np.prod(extent) / (in_plane**2 * between) <= options.max_voxels:
            break
    else:
        raise InputError(
            f"no spacing in plane {options.in_plane} mm and between slices {options.between} mm keeps a phantom below "
            f"{options.max_voxels:.0f} voxels: raise --max-voxels or lower --body-scale"
        )
    spacing = np.round([in_plane, in_plane, between], 3)
    across, deep, high = (int(n) for n in np.ceil(extent / spacing))
    return (across, deep, high), spacing, Pose(scale, turn, shift)


def build_case(
    seed: int, index: int, options: CaseOptions | None = None, findings: Collection[str] | None = None
) -> PhantomCase:
    """Build one phantom.

    Args:
        findings: the findings to paint instead of the drawn ones (names of ``DISEASES``).
    Raises:
        InputError: unknown finding, or options that no grid satisfies.
    """
    options = options or CaseOptions()
    present = draw_findings(seed, index, options.prevalence) if findings is None else list(findings)
    if unknown := sorted(set(present) - set(DISEASES)):
        raise InputError(f"unknown finding {unknown[0]!r}: choose from {', '.join(DISEASES)}")
    scene = Scene(*draw_grid(stream(seed, index, "grid"), options))
    anatomy = Anatomy.draw(stream(seed, index, "anatomy"), "Cardiomegaly" in present)
    paint_anatomy(scene, anatomy, stream(seed, index, "texture"))
    records = paint_findings(scene, anatomy, present, lambda name: stream(seed, index, name))
    if "Cardiomegaly" in present:  # nothing is painted: what shows it is the heart itself
        scene.lesions[(scene.structures == STRUCTURES["heart"]) & (scene.lesions == 0)] = LESIONS["Cardiomegaly"]
    scanner = stream(seed, index, "scanner")
    scene.add_noise(stream(seed, index, "noise"), scanner.uniform(10, 20))
    code = str(scanner.choice(options.orientations))
    affine = np.diag([*scene.spacing, 1.0])
    affine[:3, 3] = scene.first_voxel + np.round(scanner.uniform(-150, 150, 3), 2)
    way = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(code))
    ct = np.clip(np.rint(scene.hu), *HU_RANGE).astype(np.int16)
    right = scene.coordinates(scene.whole)[0] > 0

    def stored(array: np.ndarray) -> np.ndarray:
        return np.asfortranarray(apply_orientation(array, way))

    return PhantomCase(
        seed=seed,
        index=index,
        ct=stored(ct),
        structures=stored(scene.structures),
        lesions=stored(scene.lesions),
        sites=stored(scene.sites),
        right=stored(right),
        affine=affine @ inv_ornt_aff(way, scene.shape),
        orientation=code,
        findings=records,
        cardiothoracic_ratio=anatomy.cardiothoracic_ratio,
    )


def nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzip-compressed NIfTI file without any time stamp or file name in it: the same input gives the same bytes."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(image.to_bytes())
    return packed.getvalue()
