"""CUDA for the resident loop: a GPU's memory, streams and graphs, and our kernels loaded on it.

Needs cuda-python (`pip install 'himar[kernels]'`); nothing is imported before a device is opened.
"""
