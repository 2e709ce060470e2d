"""Every data set that can be prepared, in the order of the published tasks."""

from __future__ import annotations

from types import ModuleType

from datasets.errors import InputError
from datasets.prepare.data_set import DataSet
from datasets.prepare.sets import (
    abdomen,
    cc_ccii,
    chest,
    ct_rate,
    dicom_masks,
    images_2d,
    inspect,
    m3d,
    msd,
    open_kbp,
    own,
    pelvis,
    pet_ct,
    rad_chest_ct,
    radgenome,
    radimagenet,
    rp3d,
    sat_ds,
    totalsegmentator,
)

# Of two data sets that make the same manifest `all` takes the earlier one.
_MODULES: tuple[ModuleType, ...] = (
    *(images_2d, radimagenet, rad_chest_ct, cc_ccii, radgenome, inspect, rp3d, ct_rate, m3d),
    *(abdomen, chest, msd, dicom_masks, pet_ct, totalsegmentator, pelvis, open_kbp, sat_ds, own),
)


def data_sets() -> dict[str, DataSet]:
    """By name."""
    return {data_set.name: data_set for module in _MODULES for data_set in module.DATA_SETS}


def find_data_set(name: str) -> DataSet:
    """One by its name, case and hyphens aside; raises InputError that lists what there is."""
    known = data_sets()
    found = known.get(name.lower().replace("-", "_"))
    if found is None:
        raise InputError(f"{name!r} is not a data set; choose from {', '.join(known)}")
    return found
