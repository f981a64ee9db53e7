"""Engines, whatever runs them."""
