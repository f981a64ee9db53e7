"""Runs a bundle in NVIDIA's Triton Inference Server: what `1/model.py` of `himar-export triton` calls (docs/triton.md).

`model` alone imports triton_python_backend_utils, which exists only inside the server.
"""
