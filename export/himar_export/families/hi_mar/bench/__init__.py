"""Hi-MAR's sides in a benchmark."""
