"""A CT file of any format as an array with its geometry, and as patches; and masks back onto the file's own grid.

    load_volume         file -> what the encoder sees, (1, H, W, D) float32: oriented, cropped, normalised
    read_volume         file -> the same in stored units (HU), neither cropped nor normalised
    read_mask           mask files -> (n, H, W, D) uint8 on the grid of a loaded volume
    read_label_map      mask file -> labels (H, W, D) on the grid of a loaded volume
    normalize           clip to percentiles, zero mean, unit deviation
    restore_to_source   mask on the loaded grid -> mask on the file's own grid
    save_mask           mask on the loaded grid -> NIfTI on the file's own grid
    VolumeGeometry      how a loaded array lies in its file
    VolumeError         raised for a file that cannot be used, with one line that names it

What works on tensors is imported from its own module, so that arrays can be read without torch:

    anyres.patchify        loaded volume -> patches for the encoder (P, c0, c1, c2), slice marks, and their placement
    anyres.place_mask      masks on the loaded grid -> masks on the padded grid of the patches
    restore.restore_masks  mask logits on the padded grid -> binary masks on the loaded grid
    cache.VolumeLoader     file -> patches, through a cache folder
"""

from datasets.volume.geometry import VolumeError, VolumeGeometry
from datasets.volume.loading import (
    load_volume,
    read_label_map,
    read_mask,
    read_volume,
    restore_to_source,
    save_mask,
)
from datasets.volume.normalisation import normalize

__all__ = [
    "VolumeError",
    "VolumeGeometry",
    "load_volume",
    "normalize",
    "read_label_map",
    "read_mask",
    "read_volume",
    "restore_to_source",
    "save_mask",
]
