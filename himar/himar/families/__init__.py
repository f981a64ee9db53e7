"""Holds one folder per model family: configuration, networks, checkpoints, eager sampler, losses."""
