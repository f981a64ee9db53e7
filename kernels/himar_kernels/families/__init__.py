"""Holds one folder per model family: what lies between its networks."""
