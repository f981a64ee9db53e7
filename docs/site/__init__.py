"""Builds the documentation site: gathers the pages, writes the reference from code, and runs Zensical over both."""
