#!/usr/bin/env bash
# From the data sets' downloads to the paper's tables:
#     bash reproduce.sh [--root /data] [--out FOLDER]          prints the commands of the full size, and runs nothing
#     bash reproduce.sh --scale rehearsal [--out FOLDER]       runs all of them on miniatures, on two CPU cores
# Started again, the rehearsal goes on where it stopped.  docs/reproduce.md says what each step is.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
export DS_ACCELERATOR=${DS_ACCELERATOR:-$(python -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')}
# glibc gives large blocks back to the system at once and gets them anew page by page: on the CPU it is faster to keep them
export MALLOC_MMAP_THRESHOLD_=$((8 << 30)) MALLOC_TRIM_THRESHOLD_=$((16 << 30)) MALLOC_TOP_PAD_=$((256 << 20))
exec python -m benchmarks.reproduction "$@"
