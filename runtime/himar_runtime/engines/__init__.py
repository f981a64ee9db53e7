"""Runs engines, whatever their backend."""
