"""Measures the throughput of training steps."""
