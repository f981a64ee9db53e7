"""Exports Hi-MAR's components as graphs, and records its eager sampler."""
