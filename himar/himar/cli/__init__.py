"""Exports the `himar` command."""

from .command import cli, main

__all__ = ["cli", "main"]
