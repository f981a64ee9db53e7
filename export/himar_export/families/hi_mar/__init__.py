"""Hi-MAR's components as exportable graphs, and recordings of its eager sampler."""
