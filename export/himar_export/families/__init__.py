"""Holds one folder per model family: its components as exportable graphs, and recordings of its eager runs."""
