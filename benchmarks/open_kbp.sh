#!/usr/bin/env bash
# Organs of real patients, from the files as downloaded to the tables of docs/real_data.md: prepares OpenKBP, trains the
# encoder and CTInstruct by the recipes of that name on two CPU cores, answers about the validation patients, about other
# patients' volumes and about none, and prints what was right.
#
#     benchmarks/open_kbp.sh OPEN_KBP_FOLDER [FOLDER]
#
# The model is then in FOLDER/tuned.  Started anew after an interruption it goes on from the last checkpoints.
set -euo pipefail
cd "$(dirname "$0")/.."
SOURCE=${1:?give the folder of OpenKBP} FOLDER=${2:-runs/open_kbp} PYTHON=${PYTHON:-python}
DATA=$FOLDER/prepared
# glibc would give the memory of each step back and fetch it anew, which is 4 % of a step
export MALLOC_MMAP_THRESHOLD_=$((8 << 30)) MALLOC_TRIM_THRESHOLD_=$((16 << 30)) MALLOC_TOP_PAD_=$((256 << 20))

"$PYTHON" -m datasets.prepare open_kbp --source "$SOURCE" --out "$DATA"
"$PYTHON" train_encoder_2D1D.py --preset compact --recipe open_kbp --manifest_dir "$DATA/pretraining" \
    --cache "$FOLDER/cache" --run_dir "$FOLDER/encoder" --resume auto
"$PYTHON" train_CTInstruct.py --preset compact --recipe open_kbp --manifests "$DATA/instruction/open_kbp_train.json" \
    --pretrained_vision "$FOLDER/encoder" --query_text_encoder "$FOLDER/encoder/text_encoder" \
    --cache "$FOLDER/cache" --run_dir "$FOLDER/tuned" --resume auto
"$PYTHON" evaluate_CTInstruct.py --checkpoint "$FOLDER/tuned" --manifest "$DATA/instruction/open_kbp_val.json" \
    --num_beams 1 --precision fp32 --control none shuffled no_image --cache "$FOLDER/cache" --output "$FOLDER/evaluation"
"$PYTHON" -m evaluation.learning.by_kind --evaluation "$FOLDER/evaluation" \
    --train "$DATA/instruction/open_kbp_train.json" --shuffled "$FOLDER/evaluation_shuffled"
"$PYTHON" -m benchmarks.beside_peer --ours "$FOLDER/evaluation"
