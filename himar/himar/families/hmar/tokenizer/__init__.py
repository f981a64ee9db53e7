"""The multi-scale tokenizer between images and codes: network, files, sizes, training (docs/hmar-model.md §3)."""
