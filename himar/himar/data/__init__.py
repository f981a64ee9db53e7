"""Reads images and caches their latents."""
