"""Runs engines with TensorRT, its lean runtime and TensorRT-RTX."""
