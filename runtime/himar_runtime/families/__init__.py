"""Holds one folder per model family: its sampling loop."""
