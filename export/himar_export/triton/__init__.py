"""Writes a bundle as a model of NVIDIA's Triton Inference Server."""
