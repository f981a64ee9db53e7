"""Exports the `himar-export` command."""

from .command import cli, main

__all__ = ["cli", "main"]
