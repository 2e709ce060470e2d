"""Masks that do not lie on their image as they are, written anew as NIfTI on the image's own grid.

    rotated_matlab    FUMPE's `Mask` (rows, columns, slices), which is turned by 90 degrees against the slices: turned
                      back by -90 degrees in plane, its k-th slice belongs to the k-th DICOM slice in the order of
                      their files' names
    reversed_slices   Pancreas-CT's labels: where the label's affine places it on the image's grid, as it is; else its
                      array, slices reversed, lies on the DICOM slices sorted from feet to head
    resampling        a mask on another grid, to the image's by the nearest voxel (--resample_masks)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from nibabel.processing import resample_from_to
from scipy.io import loadmat

from datasets.prepare.case import Case, Mask
from datasets.prepare.whole_files import written_whole
from datasets.volume.dicom_series import read_dicom_series
from datasets.volume.geometry import VolumeError, same_grid
from datasets.volume.readers import RawVolume, read_raw

LABEL_TOLERANCE = 0.05  # CT-ORG's slope leaves 0.988 of a 1 and 3.012 of a 3
