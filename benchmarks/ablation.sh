#!/usr/bin/env bash
# The encoder ablation at --preset tiny --recipe phantom: every encoder with every set of objectives, as many steps each,
# on the same phantoms and with the optimiser and rates of that recipe, two runs side by side on a core each.  Makes the
# table:
#
#     benchmarks/ablation.sh [FOLDER] [STEPS]
#
# PHANTOMS names phantoms that are there already.  A run that has its scores is not trained again, so the script can be
# started anew after an interruption; after a change of what is in here give another FOLDER.
set -euo pipefail
cd "$(dirname "$0")/.."
export FOLDER=${1:-runs/ablation} STEPS=${2:-800} PYTHON=${PYTHON:-python}
export PHANTOMS=${PHANTOMS:-$FOLDER/phantoms} DS_ACCELERATOR=cpu OMP_NUM_THREADS=1
mkdir -p "$FOLDER/logs"

if [ ! -f "$PHANTOMS/cases.json" ]; then  # 1,142 to train on, 98 to validate
    "$PYTHON" -m datasets.phantom --out "$PHANTOMS" --count 1240 --seed 0 --workers 2 --split 0.92 0.08 0 \
        --prevalence 0.2 --questions-per-case 1 --in-plane 2.2 3.0 --between 3.4 5.0
fi

train() {
    local name="$1_${2//,/_}" run="$FOLDER/runs/$1_${2//,/_}"
    if [ -f "$run/validation.json" ]; then return; fi
    local lesions=(--deep_only_tasks)  # none: there are no masks
    if [[ $2 == *segmentation* ]]; then  # masks of the findings, for the deep maps and tokens alone
        lesions=(phantom_lesion_segmentation=3 --deep_only_tasks phantom_lesion_segmentation)
    fi
    local slices=()  # the 3D encoders learn masks of whole patches
    if [ "$1" = 2D1D ]; then slices=(--mask_slices 16); fi
    "$PYTHON" "train_encoder_$1.py" --preset tiny --recipe phantom --phantoms "$PHANTOMS" --cache "$FOLDER/cache" \
        --run_dir "$run" --overwrite --kinds "$2" --max_iters "$STEPS" --eval_interval "$STEPS" \
        --micro_batch 4 --segmentation_micro_batch 1 --validation_samples 100 "${slices[@]}" \
        --task_weights phantom_image_text=0.7 phantom_classification=3 phantom_segmentation=3 "${lesions[@]}" \
        >"$FOLDER/logs/$name.log" 2>&1 || { echo "$name failed, see $FOLDER/logs/$name.log" >&2; return 1; }
}
export -f train

for kinds in image_text,classification,segmentation image_text,segmentation image_text,classification image_text; do
    for encoder in 2D1D ViT3D ResNet3D; do
        echo "$encoder $kinds"
    done
done | xargs -P 2 -L 1 bash -c 'train "$0" "$1"'

"$PYTHON" -m evaluation.ablation "$FOLDER"/runs/* --output "$FOLDER/table"
