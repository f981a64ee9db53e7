"""A model family of the tests: latents that are pulled towards their class's pattern, a step at a time, with noise.

It exists to prove that a family is its own folder and one line in the registry.
"""
