#!/usr/bin/env bash
# From nothing to answers and masks, on two CPU cores and without a download of weights:
#     bash demo.sh [CT]
# makes phantom CTs, pretrains the tiny encoder and trains the tiny CTInstruct on them, evaluates it on phantoms it has not
# seen, and again with the images of others and without images, says what was learned, and asks it one question.
# Where a CT is named (NIfTI, NRRD, MHA, DICOM folder), another, larger encoder and model learn organs of phantoms of people,
# and draw a dozen of them in that CT: the chest phantoms of the rest are too unlike people for that.
# The screen shows progress and what was learned; all that the parts print, tables of the controls too, is in demo_output/logs.
# CTINSTRUCT_DEMO=short only shows that all parts run. CTINSTRUCT_DEMO_SEED gives other phantoms and weights.
set -euo pipefail
[ $# -le 1 ] || { echo "usage: bash demo.sh [CT]" >&2; exit 2; }
if [ $# -eq 1 ]; then
    [ -e "$1" ] || { echo "error: $1: no such file or folder" >&2; exit 2; }
    ct=$(realpath "$1")
fi
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
PYTHON=python source ./machine_env.sh
if [ -n "${ct:-}" ]; then  # a file that cannot be read is told before all the work
    python -c 'import sys
from datasets.commands import told
from datasets.volume.loading import load_volume
sys.exit(told(lambda path: int(load_volume(path) is None))(sys.argv[1]))' "$ct"
fi
out=${CTINSTRUCT_DEMO_OUTPUT:-demo_output}
seed=${CTINSTRUCT_DEMO_SEED:-0}
if [ "${CTINSTRUCT_DEMO:-}" = short ]; then
    count=12 test=2 pretraining=4 iterations=10
    people=44 people_split=(0.5 0.5 0) people_voxels=1e5 people_pretraining=4 people_iterations=4
else
    count=1240 test=44 pretraining=1300 iterations=1000
    people=500 people_split=(0.9 0.1 0) people_voxels=6e5 people_pretraining=1500 people_iterations=150
fi
# of the trunk, and such as a person knows; others, as mandible or stomach: evaluate_CTInstruct.py --segment (docs/phantoms.md)
organs=("left lung" "right lung" heart aorta liver spleen "left kidney" "right kidney" spine "left hip" "right hip")
organs+=("urinary bladder")
question="Where is the liver? Please output segmentation mask."

# launch LOG SCRIPT ...: on a port of its own, so that the demo runs beside other jobs
launch() {
    local log=$out/logs/$1.log starter=(python)  # for one rank no launcher: it would ignore CUDA_VISIBLE_DEVICES
    mkdir -p "$out/logs"
    if [ "$ranks" -gt 1 ]; then
        starter=(deepspeed --num_accelerators "$ranks" --master_port)
        starter+=("$(python -c 'from training.distributed import free_port; print(free_port())')")
    fi
    if ! OMP_NUM_THREADS=$((cores / ranks)) "${starter[@]}" "${@:2}" 2>&1 |
        tee "$log" | progress; then
        printf '\nerror: %s failed; the end of %s:\n' "$2" "$log" >&2
        tail -n 30 "$log" >&2
        exit 1
    fi
}
# of a log: how far it is, once a minute, and how it ended
progress() {
    local line next=0
    while IFS= read -r line; do
        case $line in
            *validation/* | *_recall_*) ;;
            step\ *) if [ "$SECONDS" -ge "$next" ]; then next=$((SECONDS + 60)) && echo "${line%%  *}  train ${line##*  train }"; fi ;;
            finished\ * | predictions,* | warning:*) echo "$line" ;;
        esac
    done
}
step() { printf '\n== %s\n' "$*"; }

step "1. phantom CTs: $count to learn from, $test more for the test"
phantoms() {
    python -m datasets.phantom --out "$out/$1" --count "$2" --seed "$3" --workers "$cores" --prevalence 0.2 "${@:4}"
}
phantoms phantoms "$count" "$seed" --split 0.94 0.06 0 --questions-per-case 16 --in-plane 2.2 3.0 --between 3.4 5.0
phantoms test_phantoms "$test" $((seed + 2000)) --split 0 0 1 --questions-per-case 6 \
    --body-scale 0.58 0.82 --in-plane 1.9 2.6 --between 3.0 5.4 --orientations RPI LSA SLP AIR PRS ILA

# products in bf16 where the CPU has them, and AdamW for the transformers, spare a third of a step (docs/demo_recipe.md)
rm -rf "$out/encoder/text_encoder"  # it is learned from the reports of these phantoms
step "2. pretrain the tiny encoder, $pretraining steps of reports, diseases and their details, organs and lesions"
launch pretraining train_encoder_2D1D.py --preset tiny --recipe phantom --overwrite --seed "$seed" \
    --run_dir "$out/encoder" --phantoms "$out/phantoms" --cache "$out/cache" \
    --micro_batch $((8 / ranks)) --segmentation_micro_batch $((2 / ranks)) \
    --max_iters "$pretraining" --eval_interval "$pretraining" ${precision:+"$precision"} --muon_attention false

step "3. train the tiny CTInstruct on top of it, $iterations steps of 20 questions about each of 6 phantoms"
launch tuning train_CTInstruct.py --preset tiny --recipe phantom --overwrite --seed "$seed" \
    --run_dir "$out/run" --pretrained_vision "$out/encoder" --query_text_encoder "$out/encoder/text_encoder" \
    --manifests "$out/phantoms/train.json" --validation_manifest "$out/phantoms/val.json" --cache "$out/cache" \
    --max_iters "$iterations" --eval_interval $((iterations / 2)) ${precision:+"$precision"} \
    --mask_volumes $((2 / ranks))

step "4. evaluate on held-out phantoms, and for control with the images of others and without images (some minutes)"
rm -rf "$out"/evaluation*
launch evaluation evaluate_CTInstruct.py --checkpoint "$out/run" --manifest "$out/test_phantoms/test.json" \
    --output "$out/evaluation" --control none shuffled no_image --cache "$out/cache" --batch_size 20 \
    --num_beams 1 --max_new_tokens 280 --precision fp32
python -m evaluation.learning --seed_runs "$out" --output "$out/learning"

step "5. one question about one held-out phantom"
phantom=$(python -c "import json, sys; print(json.load(open(sys.argv[1]))[0]['image_path'])" "$out/test_phantoms/test.json")
python evaluate_CTInstruct.py --checkpoint "$out/run" --image "$out/test_phantoms/$phantom" --question "$question" \
    --output "$out/phantom_answer" --num_beams 2 --max_new_tokens 160

if [ -n "${ct:-}" ]; then
    step "6. phantoms of people: $people"
    python -m datasets.phantom --style people --out "$out/people" --count "$people" --seed "$seed" --workers "$cores" \
        --split "${people_split[@]}" --questions-per-case 16 --max-voxels "$people_voxels"

    rm -rf "$out/people_encoder/text_encoder"
    step "7. pretrain the compact encoder on their organs, $people_pretraining steps"
    launch people_pretraining train_encoder_2D1D.py --preset compact --recipe people --overwrite --seed "$seed" \
        --run_dir "$out/people_encoder" --phantoms "$out/people" --cache "$out/cache" \
        --segmentation_micro_batch $((2 / ranks)) --max_iters "$people_pretraining" ${precision:+"$precision"}

    step "8. train a CTInstruct on top of it to ask for organs, $people_iterations steps, and note what its volumes are like"
    launch people_tuning train_CTInstruct.py --preset compact --recipe people --overwrite --seed "$seed" \
        --run_dir "$out/people_run" --pretrained_vision "$out/people_encoder" \
        --query_text_encoder "$out/people_encoder/text_encoder" --manifests "$out/people/train.json" \
        --cache "$out/cache" --max_iters "$people_iterations" ${precision:+"$precision"}
    python -m evaluation.familiarity --checkpoint "$out/people_run" --limit 100 \
        --known "$out/people/train.json" --held_out "$out/people/val.json"

    step "9. organs of $ct"
    python evaluate_CTInstruct.py --checkpoint "$out/people_run" --image "$ct" --segment "${organs[@]}" --output "$out/ct_answer"
fi

step "done: everything is in $out"
echo "look at a phantom and ask about it in a browser: python serve_CTInstruct.py --checkpoint $out/run --folder $out/test_phantoms/volumes"
