#!/usr/bin/env bash
# From nothing to answers and masks, on two CPU cores and without a download of weights:
#     bash demo.sh [CT]
# makes phantom CTs, pretrains the tiny encoder and trains the tiny CTInstruct on them, evaluates it on phantoms it has not
# seen, and again with the images of others and without images, says what was learned, asks it one question, and, where a
# CT is named (NIfTI, NRRD, MHA, DICOM folder), asks about that too.
# CTINSTRUCT_DEMO=short only shows that all parts run. CTINSTRUCT_DEMO_SEED gives other phantoms and weights.
set -euo pipefail
[ $# -le 1 ] || { echo "usage: bash demo.sh [CT]" >&2; exit 2; }
if [ $# -eq 1 ]; then
    [ -e "$1" ] || { echo "error: $1: no such file or folder" >&2; exit 2; }
    ct=$(realpath "$1")
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
out=${CTINSTRUCT_DEMO_OUTPUT:-demo_output}
seed=${CTINSTRUCT_DEMO_SEED:-0}
if [ "${CTINSTRUCT_DEMO:-}" = short ]; then
    count=12 pretraining=4 iterations=10 limit=12
else
    count=200 pretraining=1500 iterations=500 limit=300
fi
export DS_ACCELERATOR=${DS_ACCELERATOR:-$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
question="Where is the liver? Please output segmentation mask."

# a port of its own, so that the demo runs beside other jobs
launch() {
    local port
    port=$(python -c 'from training.distributed import free_port; print(free_port())')
    deepspeed --num_accelerators 1 --master_port "$port" "$@"
}
step() { printf '\n== %s\n' "$*"; }

step "1. $count phantom CTs"
python -m datasets.phantom --out "$out/phantoms" --count "$count" --seed "$seed" --workers "$(nproc)"

rm -rf "$out/encoder/text_encoder"  # it is learned from the reports of these phantoms
step "2. pretrain the tiny encoder, $pretraining steps of reports, diseases, organs and lesions"
launch train_encoder_2D1D.py --preset tiny --overwrite --seed "$seed" \
    --run_dir "$out/encoder" --phantoms "$out/phantoms" --cache "$out/cache" --max_iters "$pretraining" \
    --task_weights phantom_image_text=0.7,phantom_classification=1,phantom_segmentation=2,phantom_lesion_segmentation=5 \
    --deep_only_tasks phantom_lesion_segmentation --segmentation_micro_batch 2 \
    --weight_decay 0.05 --eval_interval "$pretraining"

step "3. train the tiny CTInstruct on top of it, $iterations steps of 12 questions about each of 2 phantoms"
launch train_CTInstruct.py --preset tiny --overwrite --seed "$seed" \
    --run_dir "$out/run" --pretrained_vision "$out/encoder" --query_text_encoder "$out/encoder/text_encoder" \
    --train_vision false --learning_rate 2e-3 --vision_learning_rate 3e-4 --questions_per_volume 12 --micro_batch 2 \
    --task_weights open_vqa=4,multiple_choice=4,yes_no=4,segmentation=4,diagnosis=2,report_generation=1 \
    --cache "$out/cache" --max_iters "$iterations" \
    --manifests "$out/phantoms/train.json" --validation_manifest "$out/phantoms/val.json"

step "4. evaluate on held-out phantoms"
evaluate() {
    rm -rf "$out/$1"
    python evaluate_CTInstruct.py --checkpoint "$out/run" --manifest "$out/phantoms/test.json" --output "$out/$1" \
        --cache "$out/cache" --limit "$limit" --batch_size 4 --num_beams 2 --max_new_tokens 160 --control "$2"
}
evaluate evaluation none

step "5. controls: the same questions about the images of others, and without images; what was learned"
evaluate evaluation_shuffled shuffled
evaluate evaluation_no_image no_image
python -m evaluation.learning --seed_runs "$out" --output "$out/learning"

step "6. one question about one held-out phantom"
phantom=$(python -c "import json, sys; print(json.load(open(sys.argv[1]))[0]['image_path'])" "$out/phantoms/test.json")
python evaluate_CTInstruct.py --checkpoint "$out/run" --image "$out/phantoms/$phantom" --question "$question" \
    --output "$out/phantom_answer" --num_beams 2 --max_new_tokens 160

if [ -n "${ct:-}" ]; then
    step "7. the same question about $ct"
    python evaluate_CTInstruct.py --checkpoint "$out/run" --image "$ct" --question "$question" \
        --output "$out/ct_answer" --num_beams 2 --max_new_tokens 160
fi

step "done: everything is in $out"
