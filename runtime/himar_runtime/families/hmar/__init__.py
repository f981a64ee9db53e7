"""HMAR's loop over scales."""
