"""Builds engines with TensorRT and TensorRT-RTX and proves their precision (docs/tensorrt.md)."""
