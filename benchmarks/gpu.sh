#!/usr/bin/env bash
# What this project does on one GPU, within nine minutes: utilisation, memory, training steps, answers, learning.
#
#     bash benchmarks/gpu.sh [--output FOLDER] [--rehearsal] [--parts encoder answers ...]
#
# On a machine with a CUDA torch of its own and no network, with wheels that were collected elsewhere:
#
#     bash benchmarks/gpu.sh collect wheels 3.12      # on a machine with a network, for Python 3.12 on Linux x86-64
#     WHEELS=wheels bash benchmarks/gpu.sh --output out
#
# WHEELS: a folder of wheels that are put before what Python has, without their needs: those of benchmarks/gpu/packages.txt
# in the versions of requirements.lock, for a machine that has torch and what commonly lies beside it.  PYTHON: an
# interpreter; without both, setup_env.sh makes .venv from the index, which does not count to the nine minutes.  OUT: the
# output folder, where --output names none.  Without a GPU, or with --rehearsal, everything runs at tiny size.
# The table is in results.md; the exit status is 0 where all parts were done.
set -euo pipefail
here=$PWD
absolute() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac }
case ${PYTHON:-} in */*) PYTHON=$(absolute "$PYTHON") ;; esac # one without a slash is looked up in PATH
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ "${1:-}" = collect ]; then
    folder=$(absolute "${2:?collect needs a folder}") version=${3:-3.12}
    platforms=()
    for glibc in _2_28 _2_27 _2_26 _2_24 _2_17 2014 _2_12 2010 _2_5 1; do
        platforms+=(--platform "manylinux${glibc}_x86_64")
    done
    while read -r name; do
        if ! pinned=$(grep -oE "^$name==[^ ;]+" requirements.lock); then
            echo "error: $name is not in requirements.lock" >&2
            exit 1
        fi
        case $name in
            # these come as source alone; DeepSpeed's kernels would be compiled at their first use, and none is used
            deepspeed | hjson) DS_BUILD_OPS=0 "${PYTHON:-python3}" -m pip wheel --quiet --no-deps -w "$folder" "$pinned" ;;
            *) "${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp \
                --python-version "$version" "${platforms[@]}" --dest "$folder" "$pinned" ;;
        esac
    done < benchmarks/gpu/packages.txt
    du -sh "$folder"
    exit
fi

output=${OUT:-benchmarks_output/gpu} rest=()
while [ $# -gt 0 ]; do
    case $1 in
        --output) output=${2:?--output needs a folder}; shift 2 ;;
        --output=*) output=${1#*=}; : "${output:?--output needs a folder}"; shift ;;
        *) rest+=("$1"); shift ;;
    esac
done
output=$(absolute "$output")
mkdir -p "$output"
begun=$SECONDS

if [ -n "${WHEELS:-}" ]; then
    WHEELS=$(absolute "$WHEELS")
    python=${PYTHON:-python3}
    # not into a venv: torch may lie in one itself, and would be hidden from another
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    timeout 120 "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --upgrade \
        --disable-pip-version-check --find-links "$WHEELS" --target "$site" "$WHEELS"/*.whl 2>&1 | tee "$output/setup.log"
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
    if ! "$python" -c "import SimpleITK" 2>/dev/null; then
        # 50 MB that read NRRD, MHA and DICOM, of which there is nothing here: names that stand for nothing do
        cat > "$site/SimpleITK.py" <<'STUB'
class _Nothing:
    def __getattr__(self, name):
        return _Nothing()

    def __call__(self, *values, **options):
        return _Nothing()


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Nothing()
STUB
    fi
elif [ -n "${PYTHON:-}" ]; then
    python=$PYTHON
else
    source setup_env.sh
    python=python begun=$SECONDS
fi
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

"$python" - <<'CHECK' 2>&1 | tee -a "$output/setup.log"
import sys

try:
    import torch

    import benchmarks.gpu.answers
    import benchmarks.memory_report
    import deepspeed
    import train_encoder_2D1D
except ImportError as error:
    sys.exit(f"{error}: carry its wheel in WHEELS, or install requirements.txt")
if torch.cuda.is_available():
    (torch.ones(8, 8, device="cuda") @ torch.ones(8, 8, device="cuda")).sum().item()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
else:
    print(f"torch {torch.__version__} sees no GPU: a rehearsal at tiny size")
CHECK

"$python" -m benchmarks.gpu --output "$output" --spent $((SECONDS - begun)) ${rest[@]+"${rest[@]}"} &
parts=$! status=0
trap 'kill -TERM "$parts" 2>/dev/null' TERM INT # bash alone would leave them running
wait "$parts" || status=$?
while kill -0 "$parts" 2>/dev/null; do wait "$parts" || status=$?; done # a signal ends the first wait
exit "$status"
