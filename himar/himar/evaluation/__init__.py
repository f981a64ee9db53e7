"""Measures images the way papers do: FID, sFID, inception score, precision and recall."""
