"""Codes of images: made by a tokenizer, kept in a cache, and read by training."""
