"""Compares the memory that is predicted of a bundle with what a process really takes."""
