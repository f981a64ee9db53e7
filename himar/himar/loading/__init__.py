"""Reads checkpoints as people have them, and writes tensors: layouts, shards, wrappers, foreign files."""
