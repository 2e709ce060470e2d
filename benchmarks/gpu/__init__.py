"""What `bash benchmarks/gpu.sh` measures on a GPU within nine minutes, and rehearses at tiny size on a CPU."""
