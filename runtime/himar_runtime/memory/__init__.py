"""Predicts the memory that a bundle takes, and refuses to load one that clearly has no room."""
