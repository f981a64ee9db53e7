"""The `himar-export` command."""
