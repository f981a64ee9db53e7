"""HMAR's components as graphs, and its recordings."""
