"""Measures what a bundle's engines take in memory, and reports what is predicted from it."""
