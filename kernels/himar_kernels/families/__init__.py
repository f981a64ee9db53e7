"""One folder per model family: what lies between its networks."""
