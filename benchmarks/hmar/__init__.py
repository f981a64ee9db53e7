"""Compares HMAR with VAR, the same network with all coarser scales in view."""
