"""The benchmark of engines against the eager model they came from (docs/benchmarking.md)."""
