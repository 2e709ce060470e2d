"""Every data set that can be prepared, in the order of the published tasks."""

from __future__ import annotations

from datasets.errors import InputError
from datasets.prepare.data_set import DataSet
from datasets.prepare.sets import abdomen, chest, dicom_masks, msd, pelvis, pet_ct, totalsegmentator

_MODULES = (abdomen, chest, dicom_masks, msd, pelvis, pet_ct, totalsegmentator)


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
