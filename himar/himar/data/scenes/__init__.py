"""Makes `scenes`: one or two coloured digits on a canvas, with captions that a program can check."""
