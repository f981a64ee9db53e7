"""Hi-MAR's two-phase loop."""
