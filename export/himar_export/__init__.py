"""himar."""
