"""Compares the eager networks with plain compositions of PyTorch's own layers."""
