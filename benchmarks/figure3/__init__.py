"""Repeats the paper's figure 3: seconds per image against steps, for eager and engines."""
