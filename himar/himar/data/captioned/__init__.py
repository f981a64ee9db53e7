"""Latents of images with captions: what training from text reads."""
