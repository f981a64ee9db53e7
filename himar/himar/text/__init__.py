"""Holds CLIP's networks: the text tower that gives Hi-MAR its contexts, and what a CLIP score needs beside it."""

from .files import load_text_tower, save_text_tower
from .tower import TextConfig, TextTower, encode

__all__ = ["TextConfig", "TextTower", "encode", "load_text_tower", "save_text_tower"]
