"""Engines that TensorRT, its lean runtime and TensorRT-RTX run."""
