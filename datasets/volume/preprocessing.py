"""How a model's inputs are made of files: the record that a checkpoint keeps with its weights.

A network sees what it was trained on only if every later use prepares volumes as training did.  Files are of three
kinds, since the release prepared them differently:

    ct_file              NIfTI, NRRD, MHA/MHD, a DICOM series: an array with its geometry
    rad_chest_ct_array   .npz with key ``ct``, as RadChestCT has them: (z, y, x), no geometry, but known axes
    array_as_is          .npy, or .npz with one other array, (H, W, D) or (1, H, W, D): no geometry
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, Literal

from datasets.errors import InputError
from datasets.volume.geometry import AS_STORED, Size3, are_axis_codes

VERSION = 1
SourceKind = Literal["ct_file", "rad_chest_ct_array", "array_as_is"]
SOURCE_KINDS: tuple[SourceKind, ...] = ("ct_file", "rad_chest_ct_array", "array_as_is")
RESIZE_MODES = ("published", "isotropic", "shrink")
CROPS = ("foreground", "none")
CLIPS = ("percentiles", "none")
RAD_CHEST_CT_AXES = "IPL"  # (z, y, x) runs superior to inferior, anterior to posterior, right to left
RAD_CHEST_CT_MOVED = "PLI"  # the same as (y, x, z), as the release moves it, without a flip
_SIZES = ("crop_size", "patch_max")
_CHOICES = {
    "normalisation": ("z-score", "window", "none"),
    "resize": RESIZE_MODES,
}


@dataclass(frozen=True)
class SourceSteps:
    """What is done to one kind of file, in this order.

    orientation: axis codes to which the array is brought, as "RAS", or "as_stored".
    crop: "foreground", to the bounding box of voxels > 0; a field of view, most millimetres of the patient's width and
    depth that are kept of that box, around its middle; or "none".
    clip: "percentiles", to 0.5 and 99.5 where max - min > 1000, "none", or the lowest and highest HU that are kept.
    normalisation: "z-score", less the mean and divided by the standard deviation of the volume; "window", less the
    middle of the HU that are kept and divided by their width / sqrt(12), the deviation of values that are spread evenly
    over them, so that the same HU are the same everywhere; or "none".
    """

    orientation: str = "RAS"
    crop: str | tuple[float, float] = "foreground"
    clip: str | tuple[float, float] = "percentiles"
    normalisation: str = "z-score"

    def __post_init__(self) -> None:
        if self.orientation != AS_STORED and not (
            isinstance(self.orientation, str) and are_axis_codes(self.orientation)
        ):
            raise InputError(
                f"orientation is {self.orientation!r}; give three axis codes such as RAS or LPS, or {AS_STORED}"
            )
        if isinstance(self.crop, list | tuple):
            object.__setattr__(self, "crop", _field_of_view(self.crop))
        elif self.crop not in CROPS:
            raise InputError(f"crop is {self.crop!r}; give one of {', '.join(CROPS)}, or most mm of width and depth")
        _check_choice("normalisation", self.normalisation)
        if isinstance(self.clip, list | tuple):
            object.__setattr__(self, "clip", _window(self.clip))
        elif self.clip not in CLIPS:
            raise InputError(f"clip is {self.clip!r}; give one of {', '.join(CLIPS)}, or two HU")
        if self.normalisation == "window" and not isinstance(self.clip, tuple):
            raise InputError("normalisation is 'window'; give the HU that are kept too (clip, or --clip_hu)")


@dataclass(frozen=True)
class Preprocessing:
    """The whole way from a file to patches; `datasets.volume.loading` and `.anyres` carry it out.

    crop_size: one patch in voxels.  patch_max: most patches of a volume.  resize: see `.anyres.resized_shape`.
    """

    crop_size: Size3
    patch_max: int
    resize: str
    ct_file: SourceSteps
    rad_chest_ct_array: SourceSteps
    array_as_is: SourceSteps

    def __post_init__(self) -> None:
        sizes = self.crop_size
        if not isinstance(sizes, list | tuple) or len(sizes) != 3 or not all(map(_is_positive, sizes)):
            raise InputError(f"crop_size is {sizes!r}; give three whole numbers of 1 or more")
        object.__setattr__(self, "crop_size", tuple(sizes))
        if not _is_positive(self.patch_max):
            raise InputError(f"patch_max is {self.patch_max!r}; give a whole number of 1 or more")
        _check_choice("resize", self.resize)

    @classmethod
    def standard(
        cls, crop_size: Sequence[int], patch_max: int, orientation: str = "RAS", resize: str = "published"
    ) -> Preprocessing:
        """This project's own: every kind oriented, cropped, clipped and normalised in the same way."""
        steps = SourceSteps(orientation)
        first, second, third = crop_size
        record = cls((first, second, third), patch_max, resize, steps, steps, steps)
        return record.with_orientation(orientation)

    @classmethod
    def released(cls, crop_size: Sequence[int] = (256, 256, 32), patch_max: int = 6) -> Preprocessing:
        """What the released model was tuned on (instruction stage).

        CT files in stored order; RadChestCT moved to (y, x, z) and not clipped; any other array as it is.
        """
        first, second, third = crop_size
        return cls(
            (first, second, third),
            patch_max,
            "published",
            ct_file=SourceSteps(AS_STORED),
            rad_chest_ct_array=SourceSteps(RAD_CHEST_CT_MOVED, clip="none"),
            array_as_is=SourceSteps(AS_STORED, crop="none", clip="none", normalisation="none"),
        )

    @property
    def orientation(self) -> str:
        """That of CT files, by which the whole is called."""
        return self.ct_file.orientation

    @property
    def clip_hu(self) -> tuple[float, float] | None:
        """The HU that CT files are clipped to, or None where none are given."""
        return self.ct_file.clip if isinstance(self.ct_file.clip, tuple) else None

    def with_clip_hu(self, window: Sequence[float]) -> Preprocessing:
        """The same with all kinds that are normalised clipped to these HU, lowest and highest."""
        return self._with_steps(clip=_window(window))

    @property
    def field_of_view(self) -> tuple[float, float] | None:
        """Most millimetres in plane that are kept of CT files, or None where all are."""
        return self.ct_file.crop if isinstance(self.ct_file.crop, tuple) else None

    def with_field_of_view(self, millimetres: Sequence[float]) -> Preprocessing:
        """The same with no more than these kept of width and depth, of all kinds that are normalised."""
        return self._with_steps(crop=_field_of_view(millimetres))

    @property
    def normalisation(self) -> str:
        """That of CT files."""
        return self.ct_file.normalisation

    def with_normalisation(self, normalisation: str) -> Preprocessing:
        """The same with this for all kinds that are normalised at all; raises InputError where it cannot be."""
        return self._with_steps(normalisation=normalisation)

    def _with_steps(self, **changes: Any) -> Preprocessing:
        """The same with these fields of all kinds that are normalised; the others were prepared elsewhere."""
        changed: dict[str, Any] = {
            kind: replace(steps, **changes)
            for kind in SOURCE_KINDS
            if (steps := self.steps(kind)).normalisation != "none"
        }
        return replace(self, **changed)

    def steps(self, source: SourceKind) -> SourceSteps:
        """What is done to a kind of file."""
        return {name: getattr(self, name) for name in SOURCE_KINDS}[source]

    def with_orientation(self, orientation: str) -> Preprocessing:
        """The same with all kinds in one orientation; "as_stored" takes RadChestCT as (y, x, z), as the release did."""
        rad_chest_ct = RAD_CHEST_CT_MOVED if orientation == AS_STORED else orientation
        return replace(
            self,
            ct_file=replace(self.ct_file, orientation=orientation),
            rad_chest_ct_array=replace(self.rad_chest_ct_array, orientation=rad_chest_ct),
            array_as_is=replace(self.array_as_is, orientation=orientation),
        )

    def with_options(self, trained: str, override: bool, options: Mapping[str, Any]) -> tuple[Preprocessing, list[str]]:
        """The record under options of the command line, and a line for each that changes it.

        trained: names what the record came with, for messages.  options: of orientation, resize, crop_size, patch_max,
        field_of_view, clip_hu and, behind it, normalisation; None is not given.
        Raises InputError for an option that differs from the record, unless ``override``, or that is no such value.
        """
        record, changes = self, []
        for name, value in options.items():
            if value is None:
                continue
            if name in ("orientation", "normalisation", "clip_hu", "field_of_view"):
                changed = getattr(record, f"with_{name}")(value)
            else:
                changed = replace(record, **{name: value})
            if changed != record:
                line = f"--{name} {_shown(value)}: {trained} was trained with {_shown(getattr(record, name))}"
                if not override:
                    instead = (
                        f"leave --{name} out" if name in _SIZES else f"leave --{name} out (--{name} none, of a recipe)"
                    )
                    raise InputError(f"{line}; {instead}, or add --override_preprocessing to differ from it")
                changes.append(f"{line}; --override_preprocessing makes it {_shown(value)}")
                record = changed
        return record, changes

    def to_dict(self) -> dict[str, Any]:
        """Version, numbers, strings and lists, fit for JSON; `from_dict` gives an equal record."""
        values: dict[str, Any] = {"version": VERSION}
        values |= {"crop_size": list(self.crop_size), "patch_max": self.patch_max, "resize": self.resize}
        return values | {kind: dict(vars(self.steps(kind))) for kind in SOURCE_KINDS}

    @classmethod
    def from_dict(cls, values: Any, file: str) -> Preprocessing:
        """What `to_dict` gave.

        Raises InputError, naming ``file`` and the field, for another version, an unknown or missing field or a value
        that cannot be.
        """
        where = f"{file}: preprocessing"
        if isinstance(values, Mapping) and "version" in values and values["version"] != VERSION:
            raise InputError(
                f"{where}.version is {values['version']!r}, this code reads {VERSION}; use the code that wrote it"
            )
        own = _exactly(values, ("version", *(field.name for field in fields(cls))), where)
        del own["version"]
        names = tuple(field.name for field in fields(SourceSteps))
        for kind in SOURCE_KINDS:
            own[kind] = _built(SourceSteps, _exactly(own[kind], names, f"{where}.{kind}"), f"{where}.{kind}")
        return _built(cls, own, where)


def print_changes(changes: Sequence[str]) -> None:
    """Show what the command line made of a model's preprocessing (see `Preprocessing.with_options`)."""
    for line in changes:
        print(f"preprocessing: {line}", flush=True)


def _built(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    try:
        return kind(**values)
    except InputError as error:
        raise InputError(f"{where}.{error}") from error


def _exactly(values: Any, names: Sequence[str], where: str) -> dict[str, Any]:
    """A copy of a JSON object that has these fields and no other."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {values!r}, it has to be an object with {', '.join(names)}")
    for name in names:
        if name not in values:
            raise InputError(f"{where}.{name} is missing; take the file as training or conversion wrote it")
    for name in values:
        if name not in names:
            raise InputError(f"{where}.{name} is not known; its fields are {', '.join(names)}")
    return dict(values)


def _window(values: Sequence[float]) -> tuple[float, float]:
    """Two numbers that can be the lowest and the highest HU; raises InputError for others."""
    if not _are_two(values) or not values[0] < values[1]:
        raise InputError(f"clip is {list(values)}; give the lowest and the highest HU that are kept, as -250 400")
    return float(values[0]), float(values[1])


def _field_of_view(values: Sequence[float]) -> tuple[float, float]:
    """Two lengths in mm; raises InputError for others."""
    if not _are_two(values) or min(values) <= 0:
        raise InputError(f"field of view is {list(values)}; give most mm of width and depth, as 240 360")
    return float(values[0]), float(values[1])


def _are_two(values: Sequence[float]) -> bool:
    """Whether these are two finite numbers."""
    return len(values) == 2 and all(type(value) in (int, float) and isfinite(value) for value in values)


def _check_choice(name: str, value: Any) -> None:
    if value not in _CHOICES[name]:
        raise InputError(f"{name} is {value!r}; give one of {', '.join(_CHOICES[name])}")


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(f"{number:g}" for number in value)
    return "none" if value is None else str(value)
