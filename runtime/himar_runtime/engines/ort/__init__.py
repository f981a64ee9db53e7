"""Runs engines with ONNX Runtime."""
