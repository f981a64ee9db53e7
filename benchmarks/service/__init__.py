"""Puts the HTTP services under load."""
