"""Draw assets/people_masks.png: what an encoder that saw person phantoms alone finds on a real CT.

python assets/make_people_masks_figure.py RUN CT

RUN: of `train_encoder_2D1D.py --preset compact --recipe people`.  CT: TotalSegmentator's example (Apache-2.0), which
may be shown with attribution.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from matplotlib.patches import Patch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.phantom_transfer.scoring import find_masks  # noqa: E402
from models.checkpoints.pretrained_vision import load_pretraining  # noqa: E402
from models.checkpoints.run_folder import resolve_model_folder  # noqa: E402

ORGANS = ("left lung", "right lung", "heart", "aorta", "liver", "spleen", "left kidney", "right kidney", "spine")


def main() -> None:
    """Write the figure."""
    if len(sys.argv) != 3:
        sys.exit("error: give the folder of a run and a CT")
    run, path = Path(sys.argv[1]), Path(sys.argv[2])
    model = load_pretraining(resolve_model_folder(run)).eval()
    found = find_masks(model, str(run / "text_encoder"), path, ORGANS)
    image = nib.as_closest_canonical(nib.load(path))
    names = np.zeros(image.shape, np.uint8)
    for number, mask in enumerate(found.values(), 1):
        turned = nib.as_closest_canonical(nib.Nifti1Image(mask.astype(np.uint8), nib.load(path).affine))
        names[np.asarray(turned.dataobj) > 0] = number
    hu = np.asarray(image.dataobj)
    colours = plt.get_cmap("tab10")([0, 1, 2, 3, 4, 5, 6, 9, 8, 7])  # grey, the last, would not show
    depth, height = hu.shape[1:]
    cuts = [np.s_[:, depth // 2], np.s_[:, 2 * depth // 5], np.s_[..., 3 * height // 4], np.s_[..., 9 * height // 10]]
    figure, axes = plt.subplots(2, len(cuts), figsize=(3 * len(cuts), 6.4))
    for column, cut in enumerate(cuts):
        # from the front and from below, so that the patient's left is on the right
        picture, drawn = (np.flip(np.asarray(array[cut]).T, axis=(0, 1)) for array in (hu, names))
        for row in range(2):
            axes[row, column].imshow(picture, cmap="gray", vmin=-200, vmax=300)
            axes[row, column].axis("off")
        overlay = colours[np.clip(drawn.astype(int) - 1, 0, 9)]
        overlay[..., 3] = 0.55 * (drawn > 0)
        axes[1, column].imshow(overlay)
    handles = [Patch(color=colours[number], label=organ) for number, organ in enumerate(ORGANS)]
    figure.legend(handles=handles, loc="lower center", ncol=len(ORGANS), fontsize=7, frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(HERE / "people_masks.png", dpi=90)


if __name__ == "__main__":
    main()
