#!/usr/bin/env bash
# From the data sets' downloads to the paper's tables:
#     bash reproduce.sh [--root /data] [--out FOLDER]          prints the commands of the full size, and runs nothing
#     bash reproduce.sh --scale rehearsal [--out FOLDER]       runs all of them on miniatures, on two CPU cores
# Started again, the rehearsal goes on where it stopped.  docs/reproduce.md says what each step is.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
PYTHON=python source ./machine_env.sh
exec python -m benchmarks.reproduction "$@"
