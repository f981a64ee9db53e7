"""Reads the word in which the kernels note the first value that was not finite, as HMAR's components are counted."""

from __future__ import annotations

from himar_kernels.families.registry import VAE_DECODER
from himar_kernels.shared.errors import InputError

from .sizes import CONDITIONS, MASKED_TAIL, NEXT_SCALE_TAIL

FAULT_NUMBERS = {CONDITIONS: 1, NEXT_SCALE_TAIL: 2, MASKED_TAIL: 3, VAE_DECODER: 5}
"""Numbers of components in a fault word; 5 is the VAE decoder's in every family (`cuda/state.cuh`)."""


def describe_fault(word: int) -> tuple[str, int]:
    """Return the component and the scale, from 0, that a fault word names; of logits alone a scale means anything.

    Raises InputError for 0, which is no fault, and for a word that no kernel writes.
    """
    component, scale = word & 0xFF, word >> 8
    for name, number in FAULT_NUMBERS.items():
        if number == component:
            return name, scale
    known = ", ".join(map(str, FAULT_NUMBERS.values()))
    raise InputError(f"the fault word {word} names component {component}; it must be one of {known}.")
