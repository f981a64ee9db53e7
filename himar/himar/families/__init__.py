"""One folder per model family: configuration, networks, checkpoints, eager sampler, losses."""
