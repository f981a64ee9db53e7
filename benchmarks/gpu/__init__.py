"""Measures engines on a GPU: a short report, a full one, and how long engines take to build."""
