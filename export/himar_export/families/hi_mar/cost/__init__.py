"""Counts the work of Hi-MAR: its networks, generations and training steps."""
