#!/bin/bash
# Training on two nodes of eight GPUs under SLURM:  sbatch benchmarks/slurm_nodes.sh train_CTInstruct.py --preset small ...
# Put in what your cluster asks for (partition, account), and activate the environment where it says so.
#SBATCH --job-name=ctinstruct
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=ctinstruct_%j.log

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
# source .venv/bin/activate

# One task is one rank: srun's variables say which.  The folder of the run, the data and the cache have to be on a file
# system that all nodes see.  TERM comes five minutes before the end, upon which the run saves; --resume goes on from
# there, also on another number of nodes, and begins where there is nothing yet.
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
srun --kill-on-bad-exit=1 --cpus-per-task="$OMP_NUM_THREADS" python "$@" --resume
