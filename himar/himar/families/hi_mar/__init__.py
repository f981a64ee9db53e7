"""Implements Hi-MAR and its variants in PyTorch (docs/model.md)."""
