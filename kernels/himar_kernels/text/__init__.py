"""Turns prompts into token ids as CLIP does. Needs the `tokenizers` library, and that only when prompts are encoded."""

from .tokenizer import Tokenizer

__all__ = ["Tokenizer"]
