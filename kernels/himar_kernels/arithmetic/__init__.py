"""Holds arithmetic that no model family owns: random draws, and packing of pixels."""
