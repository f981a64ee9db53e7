"""HMAR: next-scale prediction with masked refinement, and its multi-scale tokenizer (docs/hmar-model.md)."""
