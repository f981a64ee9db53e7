"""One folder per model family: its sampling loop."""
