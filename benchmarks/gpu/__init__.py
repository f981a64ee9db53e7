"""Measures engines on a GPU: an hour in pieces, its record and its page; and how long engines take to build."""
