"""Benchmarks engines against the eager model that they came from (docs/benchmarking.md)."""
