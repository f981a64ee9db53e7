"""Compiles the CUDA kernels and the fused operators ahead of time."""
