"""A CT file of any format as an array with its geometry, and as patches; and masks back onto the file's own grid."""

from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import (
    load_volume,
    normalize,
    read_label_map,
    read_mask,
    read_volume,
    restore_to_source,
    save_mask,
)

__all__ = [
    "VolumeGeometry",
    "load_volume",
    "normalize",
    "read_label_map",
    "read_mask",
    "read_volume",
    "restore_to_source",
    "save_mask",
]
