"""Measures a running himar-serve from outside: latency, throughput, and where the time goes."""
