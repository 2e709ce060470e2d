"""What was found in one manifest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from datasets.manifest_rows import Fault


@dataclass
class LabelVoxels:
    """Of one label: masks that were looked at, those without a voxel, and the values that their files hold."""

    looked_at: int = 0
    empty: int = 0
    asked: set[int] = field(default_factory=set)  # none where all that is not 0 counts
    held: Counter[int] = field(default_factory=Counter)  # by value, in how many files


@dataclass
class ManifestReport:
    """One manifest (or split).

    faults: (row, what), of which none may be there for a run; row -1 for the manifest as a whole.
    notes: what may be right, but a person should know.
    images, masks: files whose headers were looked at.
    off_grid: mask files that lie up to half a voxel off their volume, with the distance in voxels.
    without_truth: records that ask for classes of which none is known.
    voxels: by label; empty where no voxels were looked at.
    """

    where: str
    records: int = 0
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: int = 0
    masks: int = 0
    off_grid: dict[str, float] = field(default_factory=dict)
    asking_classes: int = 0
    without_truth: int = 0
    voxels: dict[str, LabelVoxels] = field(default_factory=dict)

    @property
    def lines(self) -> list[str]:
        """Each fault as a line that names file and row."""
        return [f"{self.where}: " + (f"row {row}, {what}" if row >= 0 else what) for row, what in self.faults]

    @property
    def bad_rows(self) -> set[int]:
        """Rows that a run has to leave out."""
        return {row for row, _ in self.faults if row >= 0}

    @property
    def unusable(self) -> list[str]:
        """Lines of what leaving rows out does not mend."""
        lines = [f"{self.where}: {what}" for row, what in self.faults if row < 0]
        return lines or ([] if self.records else [f"{self.where}: no row is good"])

    @property
    def counts(self) -> str:
        """The counts on one line."""
        looked_at = sum(label.looked_at for label in self.voxels.values())
        parts = [f"{self.records} records", f"{self.images} images", f"{self.masks} masks"]
        parts += [f"{len(self.off_grid)} masks less than half a voxel off"] if self.off_grid else []
        parts += [f"{self.without_truth} records without a known target"] if self.without_truth else []
        if looked_at:
            parts.append(
                f"{sum(label.empty for label in self.voxels.values())} of {looked_at} masks looked at are empty"
            )
        return ", ".join([*parts, f"{len(self.faults)} faults"])
