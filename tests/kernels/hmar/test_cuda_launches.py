"""A launch of the family's kernels that does not fit must be refused before it runs, and arguments stand in order."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import pytest

from himar_kernels import InputError, Launch
from himar_kernels.build.sources import KERNEL_NAMES, source_directory
from himar_kernels.families.hmar import Scales, launches
from himar_kernels.families.hmar.faults import FAULT_NUMBERS, describe_fault

GRID = {"batch": 2, "H": 8, "C": 32}
SIZES: dict[str, dict[str, Any]] = {
    "draw_codes": {
        "weight": 1.5, "top_p": 0.96, "top_k": 900, "scale": 3, "step": 1, "component": 2, "batch": 2, "halves": 2,
        "T": 16, "V": 4096,
    },
    "mix_codes": {
        "weight": 1.5, "top_p": 0.96, "lift": 1.25, "temperature": 0.2, "top_k": 900, "scale": 3, "component": 2,
        "batch": 2, "halves": 2, "T": 16, "V": 4096, "C": 32,
    },
    "least_confident": {"count": 5, "batch": 2, "T": 9},
    "least_confident_of_each": {"batch": 2, "T": 9},
    "show_masked": {"batch": 2, "halves": 2, "T": 9},
    "upsample_codes": {**GRID, "p": 3},
    "add_contribution": {**GRID, "k": 2},
    "scale_words": {"batch": 2, "halves": 2, "p": 3, "side": 8, "C": 32},
    "nearest_codes": {"N": 18, "V": 4096, "C": 32},
    "subtract": {"count": 4096},
    "join_past": {"N": 24, "P": 14, "T": 9, "C": 64},
}  # fmt: skip
POINTERS = {
    "draw_codes": "codes confidence logits uniforms masked origins fault",
    "mix_codes": "words logits gumbel embedding origins fault",
    "least_confident": "chosen confidence among",
    "least_confident_of_each": "chosen confidence among counts",
    "show_masked": "shown masked",
    "upsample_codes": "grid codes embedding up",
    "add_contribution": "own latent grid weights biases",
    "scale_words": "words latent own masked down",
    "nearest_codes": "codes words embedding",
    "subtract": "rest part",
    "join_past": "joined past own",
}
OPTIONAL = {
    "draw_codes": ["uniforms", "masked"],
    "mix_codes": ["gumbel"],
    "least_confident": ["among"],
    "least_confident_of_each": ["among"],
    "add_contribution": ["latent"],
}
TYPES = {"u32": ctypes.c_uint32, "double": ctypes.c_double}


def launch(name: str, **changes: Any) -> Launch:
    return getattr(launches, name)(**{**addresses(name), **SIZES[name], **changes})


def addresses(name: str) -> dict[str, int]:
    return {pointer: 4096 * (1 + place) for place, pointer in enumerate(POINTERS[name].split())}


@pytest.mark.parametrize("name", SIZES)
def test_every_launch_passes_what_its_kernel_takes_in_the_kernel_s_order(name):
    text = (source_directory() / "entries.cuh").read_text(encoding="utf-8")
    found = re.search(rf"HIMAR_KERNEL\(himar_{name}, {name}, [\w:]+,\s*\(([^)]*)\)", text)
    assert found and f"himar_{name}" in KERNEL_NAMES
    made, values = launch(name), {**addresses(name), **SIZES[name]}
    expected = []
    for parameter in found[1].split(","):
        kind, argument = parameter.strip().rsplit(" ", 1)
        expected.append((ctypes.c_uint64 if kind.endswith("*") else TYPES[kind], values[argument]))
    assert [(type(argument), argument.value) for argument in made.arguments] == expected
    assert made.name == f"himar_{name}" and made.blocks >= 1 and made.threads <= 256


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("draw_codes", {"V": 4097}, "V is 4097; it must be 1 to 4096"),
        ("draw_codes", {"top_k": 4097}, "top_k is 4097; it must be 0 to 4096"),
        ("draw_codes", {"top_p": 0.0}, "top_p is 0; it must be above 0"),
        ("draw_codes", {"top_p": 1.5}, "top_p is 1.5; it must be above 0"),
        ("draw_codes", {"top_p": float("nan")}, "top_p is nan"),
        ("draw_codes", {"weight": float("inf")}, "weight is inf"),
        ("draw_codes", {"scale": 65536}, "scale is 65536"),
        ("draw_codes", {"step": 65536}, "step is 65536"),
        ("draw_codes", {"component": 0}, "component is 0"),
        ("draw_codes", {"halves": 3}, "halves is 3"),
        ("draw_codes", {"T": 65537}, "T is 65537"),
        ("draw_codes", {"batch": 2**30}, "cells was asked"),
        ("mix_codes", {"temperature": 0.0}, "temperature is 0; it must be a finite number above 0"),
        ("mix_codes", {"lift": float("nan")}, "lift is nan"),
        ("mix_codes", {"V": 4097}, "V is 4097; it must be 1 to 4096"),
        ("mix_codes", {"top_p": 0.0}, "top_p is 0; it must be above 0"),
        ("show_masked", {"T": 0}, "T is 0"),
        ("least_confident", {"count": 10}, "count is 10; it must be 0 to 9"),
        ("least_confident", {"T": 0}, "T is 0"),
        ("least_confident_of_each", {"T": 0}, "T is 0"),
        ("show_masked", {"halves": 3}, "halves is 3"),
        ("show_masked", {"T": 65537}, "T is 65537"),
        ("upsample_codes", {"p": 257}, "p is 257"),
        ("upsample_codes", {"H": 0}, "H is 0"),
        ("upsample_codes", {"batch": 2**24}, "values was asked"),
        ("add_contribution", {"k": 4}, "k is 4; it must be 0 to 3"),
        ("add_contribution", {"C": 0}, "C is 0"),
        ("scale_words", {"side": 257}, "side is 257"),
        ("scale_words", {"p": 0}, "p is 0"),
        ("scale_words", {"halves": 0}, "halves is 0"),
        ("scale_words", {"own": None}, "own and masked are given together"),
        ("scale_words", {"masked": None}, "own and masked are given together"),
        ("nearest_codes", {"V": 4097}, "V is 4097; it must be 1 to 4096"),
        ("nearest_codes", {"N": 2**27}, "values was asked"),
        ("subtract", {"count": 0}, "count is 0"),
        ("join_past", {"N": 0}, "N is 0"),
        ("join_past", {"P": -1}, "P is -1"),
        ("join_past", {"T": 0}, "T is 0"),
        ("join_past", {"N": 2**28}, "quads of channels was asked"),
    ],
)
def test_what_does_not_fit_is_refused(name, changes, named):
    with pytest.raises(InputError, match=named):
        launch(name, **changes)


def test_every_scale_of_the_largest_models_fits():
    """The sides of 1024 px, with as many images at once as 139 GiB hold the logits of."""
    scales, batch = Scales([1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64]), 8
    for scale, (side, cells) in enumerate(zip(scales.sides, scales.cells, strict=True)):
        drawn = launch("draw_codes", batch=batch, T=cells, scale=scale)
        assert (drawn.blocks, drawn.threads) == (min(batch * cells, 4096), 256)
        launch("least_confident", batch=batch, T=cells, count=cells)
        launch("show_masked", batch=batch, T=cells)
        launch("upsample_codes", batch=batch, p=side, H=64)
        launch("add_contribution", batch=batch, H=64)
        launch("scale_words", batch=batch, p=side, side=64)
        launch("join_past", N=2 * batch * 22, P=scales.starts[scale], T=cells, C=1920)  # d30's trunk


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_a_fault_word_names_component_and_scale(number):
    component, scale = describe_fault(number | 7 << 8)
    assert (FAULT_NUMBERS[component], scale) == (number, 7)


@pytest.mark.parametrize("word", [0, 4, 6 | 2 << 8])
def test_a_word_that_no_kernel_writes_is_refused(word):
    with pytest.raises(InputError, match=f"the fault word {word} names component {word & 255}"):
        describe_fault(word)


@pytest.mark.parametrize("name", SIZES)
def test_an_address_that_is_missing_is_refused_unless_the_kernel_does_without(name):
    for pointer in POINTERS[name].split():
        if pointer in OPTIONAL.get(name, []):
            launch(name, **{pointer: None})
        elif not (name == "scale_words" and pointer in ("own", "masked")):
            with pytest.raises(InputError, match=f"{pointer} has no address"):
                launch(name, **{pointer: 0})
    launch("scale_words", own=None, masked=None)
