"""The `himar` command."""
