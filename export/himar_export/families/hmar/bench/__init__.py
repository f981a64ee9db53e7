"""HMAR's sides in a benchmark."""
