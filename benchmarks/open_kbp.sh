#!/usr/bin/env bash
# Organs of real patients, from the files as downloaded to the tables of docs/real_data.md: prepares OpenKBP, trains the
# encoder and CTInstruct by the recipes of that name on two CPU cores, notes what its volumes are like, answers about the
# validation patients, about other patients' volumes and about none, and prints what was right.
#
#     benchmarks/open_kbp.sh OPEN_KBP_FOLDER [FOLDER]
#
# The model is then in FOLDER/tuned.  Started anew on the same machine after an interruption it goes on from the last
# checkpoints.
set -euo pipefail
cd "$(dirname "$0")/.."
SOURCE=${1:?give the folder of OpenKBP} FOLDER=${2:-runs/open_kbp} PYTHON=${PYTHON:-python}
DATA=$FOLDER/prepared
source ./machine_env.sh

# train SCRIPT ...: masks are learned on two volumes a step, whatever the ranks
train() {
    set -- "$@" --preset narrow --recipe open_kbp --cache "$FOLDER/cache" --resume auto ${precision:+"$precision"}
    if [ "$ranks" = 1 ]; then  # the launcher would take the first GPU, whichever CUDA_VISIBLE_DEVICES names
        "$PYTHON" "$@"
        return
    fi
    local port  # of its own, so that it runs beside other jobs
    port=$("$PYTHON" -c 'from training.distributed import free_port; print(free_port())')
    OMP_NUM_THREADS=$((cores / ranks)) "$PYTHON" -m deepspeed.launcher.runner --num_accelerators "$ranks" \
        --master_port "$port" "$@"
}

"$PYTHON" -m datasets.prepare open_kbp --source "$SOURCE" --out "$DATA"
train train_encoder_2D1D.py --manifest_dir "$DATA/pretraining" --run_dir "$FOLDER/encoder" \
    --segmentation_micro_batch $((2 / ranks))
train train_CTInstruct.py --manifests "$DATA/instruction/open_kbp_train.json" --run_dir "$FOLDER/tuned" \
    --pretrained_vision "$FOLDER/encoder" --query_text_encoder "$FOLDER/encoder/text_encoder" --mask_volumes $((2 / ranks))
"$PYTHON" -m evaluation.familiarity --checkpoint "$FOLDER/tuned" --known "$DATA/instruction/open_kbp_train.json" \
    --held_out "$DATA/instruction/open_kbp_val.json" || echo "the model will not warn of other volumes" >&2
"$PYTHON" evaluate_CTInstruct.py --checkpoint "$FOLDER/tuned" --manifest "$DATA/instruction/open_kbp_val.json" \
    --num_beams 1 --precision fp32 --control none shuffled no_image --cache "$FOLDER/cache" --output "$FOLDER/evaluation"
"$PYTHON" -m evaluation.learning.by_kind --evaluation "$FOLDER/evaluation" \
    --train "$DATA/instruction/open_kbp_train.json" --shuffled "$FOLDER/evaluation_shuffled" --picture "$FOLDER/masks.png"
"$PYTHON" -m benchmarks.beside_peer --ours "$FOLDER/evaluation"
