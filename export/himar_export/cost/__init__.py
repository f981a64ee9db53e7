"""Counts operations and bytes of networks, requests and training steps (docs/cost.md)."""
