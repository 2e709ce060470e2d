"""What `bash benchmarks/gpu.sh` measures on a GPU within nine minutes; on a CPU the same at tiny size, as a rehearsal."""
