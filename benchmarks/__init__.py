"""Scripts that print the figures in docs/. Run them as modules from the repository: python -m benchmarks.house."""
