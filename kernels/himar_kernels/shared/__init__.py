"""Holds what all rooms share besides arithmetic: errors, files, console, options of commands."""
