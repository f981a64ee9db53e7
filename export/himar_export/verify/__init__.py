"""Compares engines with the eager model, from recordings."""
