# Sourced by demo.sh, reproduce.sh and benchmarks/open_kbp.sh once python has the requirements: how training starts here.
# Exports DS_ACCELERATOR (cuda or cpu) and glibc's settings; sets `cores`, `ranks` and `precision`, the option of training
# on this CPU: --precision autocast where it multiplies bf16, else fp32; empty on a GPU, where the recipe's own holds.
# PYTHON names another interpreter than python.

read -r DS_ACCELERATOR precision cores < <("${PYTHON:-python}" -c 'import os, torch
from datasets.cores import usable_cores
from models.precision import cpu_multiplies_bf16
device = os.environ.get("DS_ACCELERATOR") or ("cuda" if torch.cuda.is_available() else "cpu")
print(device, "autocast" if cpu_multiplies_bf16() else "fp32", usable_cores())')
export DS_ACCELERATOR
if [ "$DS_ACCELERATOR" = cpu ]; then precision="--precision=$precision"; else precision=; fi
ranks=1
if [ "$DS_ACCELERATOR" = cpu ] && [ "$cores" -gt 1 ]; then ranks=2; fi  # two ranks of one thread beat two threads

# glibc gives large blocks back to the system at once and gets them anew page by page: on the CPU it is faster to keep them
export MALLOC_MMAP_THRESHOLD_=$((8 << 30)) MALLOC_TRIM_THRESHOLD_=$((16 << 30)) MALLOC_TOP_PAD_=$((256 << 20))
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
