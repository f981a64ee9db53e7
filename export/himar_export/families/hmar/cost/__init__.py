"""Counts the work of HMAR: its networks, generations and training steps."""
