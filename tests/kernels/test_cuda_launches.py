"""A launch that does not fit must be refused before it runs: on a device it would overwrite other memory."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numpy as np
import pytest

from himar_kernels import InputError
from himar_kernels.build.sources import KERNEL_NAMES, source_directory
from himar_kernels.families.hi_mar import (
    STEP_STATE,
    Step,
    build_chain,
    chain_table,
    describe_fault,
    launches,
    step_state,
)

LOW = {"batch": 2, "halves": 2, "r": 3, "C": 16}
HIGH = {"batch": 2, "halves": 2, "N": 64, "C": 16}
# Sizes that fit, with every address left out.
SIZES: dict[str, dict[str, Any]] = {
    "ranks": {"phase": 1, "batch": 2, "n": 64},
    "index_lists": {"batch": 2, "halves": 2, "context": 4, "always": 0, "n": 64, "positions": 320},
    "reveal_low": {"batch": 2, "halves": 2, "S": 64, "r": 3, "W": 8, "D": 8},
    "start_low": LOW,
    "mlp_step": {**LOW, "S": 64},
    "mlp_solve": {**LOW, "S": 64},
    "start_high": HIGH,
    "dit_step": HIGH,
    "dit_solve": HIGH,
    "keep_prediction": {"rows": 6, "halves": 2, "evaluated": 1, "order": 1, "outputs": 2, "C": 16},
    "forecast": {"rows": 6, "halves": 2, "order": 1, "outputs": 2, "C": 16},
    "check_finite": {"count": 1000, "component": 2},
    "latents": {"vae_scale": 0.2, "batch": 2, "n": 64, "channels": 16},
    "pack": {"batch": 2, "area": 1024},
}
POINTERS = {
    "ranks": "ranks origins",
    "index_lists": "visible sources revealed ranks state",
    "reveal_low": "head_condition pivots condition engine_pivots revealed state fault",
    "start_low": "x timestep state timesteps origins revealed noise",
    "mlp_step": "x timestep low_tokens state timesteps chain prediction origins revealed noise fault",
    "mlp_solve": "x start timestep low_tokens state timesteps chain prediction revealed fault",
    "start_high": "x initial timestep state timesteps chain tokens ranks origins noise",
    "dit_step": "x timestep tokens state timesteps chain prediction initial ranks origins noise fault",
    "dit_solve": "x start timestep tokens state timesteps chain prediction initial ranks fault",
    "keep_prediction": "settled differences gap state prediction",
    "forecast": "settled differences state",
    "check_finite": "values state fault",
    "latents": "latents tokens",
    "pack": "pixels images fault",
}


def launch(name: str, **changes: Any) -> launches.Launch:
    addresses = {pointer: 4096 * (1 + i) for i, pointer in enumerate(POINTERS[name].split())}
    return getattr(launches, name)(**{**addresses, **SIZES[name], **changes})


def kernel_parameters() -> dict[str, list[tuple[str, str]]]:
    """Type and name of every kernel's parameters, as entries.cuh lists them."""
    text = (source_directory() / "entries.cuh").read_text(encoding="utf-8")
    entries = re.findall(r"HIMAR_KERNEL\((himar_\w+), \w+, [\w:]+,\s*\(([^)]*)\)", text)
    return {
        name: [tuple(parameter.strip().rsplit(" ", 1)) for parameter in parameters.split(",")]  # type: ignore[misc]
        for name, parameters in entries
    }


def test_every_launch_passes_what_its_kernel_takes_in_the_kernel_s_order():
    kinds = {"u32": ctypes.c_uint32, "u64": ctypes.c_uint64, "float": ctypes.c_float}
    parameters = kernel_parameters()
    assert tuple(parameters) == KERNEL_NAMES
    for name in SIZES:
        made = launch(name)
        pointers = {pointer: 4096 * (1 + i) for i, pointer in enumerate(POINTERS[name].split())}
        expected = []
        for kind, parameter in parameters[made.name]:
            value = pointers[parameter] if kind.endswith("*") else SIZES[name][parameter]
            expected.append((ctypes.c_uint64 if kind.endswith("*") else kinds[kind], pytest.approx(value)))
        assert [(type(argument), argument.value) for argument in made.arguments] == expected
        assert made.blocks >= 1
        assert made.threads <= 256


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("ranks", {"n": 65537}, "n is 65537"),
        ("ranks", {"n": 0}, "n is 0"),
        ("ranks", {"batch": 0}, "batch is 0"),
        ("ranks", {"phase": 2}, "phase is 2"),
        ("index_lists", {"halves": 3}, "halves is 3"),
        ("index_lists", {"positions": 63}, "64 positions are embedded.* only 63"),
        ("index_lists", {"context": -1}, "context is -1"),
        ("index_lists", {"n": 65537, "positions": 70000}, "n is 65537"),
        ("reveal_low", {"r": 0}, "r is 0"),
        ("reveal_low", {"r": 65}, "r is 65; it must be 1 to 64"),
        ("reveal_low", {"W": 0}, "W is 0"),
        ("reveal_low", {"D": 0}, "D is 0"),
        ("start_low", {"C": 2**18 + 1}, "C is 262145"),
        ("start_low", {"r": 0}, "r is 0"),
        ("start_low", {"halves": 0}, "halves is 0"),
        ("mlp_step", {"r": 65}, "r is 65"),
        ("mlp_step", {"batch": 2**30}, "quads of channels was asked"),
        ("mlp_solve", {"r": 65}, "r is 65"),
        ("mlp_solve", {"batch": 2**30}, "quads of channels was asked"),
        ("start_high", {"N": 65537}, "N is 65537"),
        ("dit_step", {"C": 0}, "C is 0"),
        ("dit_step", {"halves": 4}, "halves is 4"),
        ("dit_solve", {"N": 65537}, "N is 65537"),
        ("dit_solve", {"halves": 4}, "halves is 4"),
        ("keep_prediction", {"order": 3}, "order is 3"),
        ("keep_prediction", {"outputs": 3}, "outputs is 3"),
        ("keep_prediction", {"evaluated": 0}, "evaluated is 0"),
        ("keep_prediction", {"halves": 1, "evaluated": 2}, "evaluated is 2; it must be 1 to 1"),
        ("forecast", {"rows": 0}, "rows is 0"),
        ("forecast", {"rows": 2**29}, "quads of channels was asked"),
        ("forecast", {"halves": 3}, "halves is 3"),
        ("check_finite", {"component": 9}, "component is 9"),
        ("check_finite", {"count": 0}, "count is 0"),
        ("latents", {"vae_scale": 0.0}, "vae_scale is 0.0"),
        ("latents", {"vae_scale": float("nan")}, "vae_scale is nan"),
        ("latents", {"batch": 2**22}, "values was asked"),
        ("pack", {"area": 0}, "area is 0"),
        ("pack", {"batch": 2**22}, "pixels was asked"),
    ],
)
def test_sizes_out_of_range_are_refused(name, changes, named):
    with pytest.raises(InputError, match=named):
        launch(name, **changes)


@pytest.mark.parametrize("name", SIZES)
def test_an_address_that_is_missing_is_refused_unless_it_is_the_noise(name):
    for pointer in POINTERS[name].split():
        if pointer == "noise":
            launch(name, noise=None)
            continue
        with pytest.raises(InputError, match=f"{pointer} has no address"):
            launch(name, **{pointer: 0})


@pytest.mark.parametrize(("solver", "row"), [("ddpm", "ChainRow"), ("ddim", "SolverRow"), ("dpm++", "SolverRow")])
def test_a_chain_s_table_has_the_columns_in_the_kernels_order(solver, row):
    chain = build_chain(solver, 7)
    table = chain_table(chain)
    assert table.shape == (7, 8)
    assert table.dtype == np.float32
    text = "".join((source_directory() / f"{name}.cuh").read_text() for name in ("diffusion", "solver"))
    fields = re.findall(rf"struct {row} \{{(.*?)\}}", text, re.DOTALL)[0]
    names = re.findall(r"float (\w+);", fields)
    assert len(names) == 8
    for column, name in enumerate(names):
        assert np.array_equal(table[:, column], np.zeros(7) if name == "unused" else getattr(chain, name))


def test_faults_are_named():
    assert describe_fault(1) == ("transformer_low", 0)
    assert describe_fault(4 | 300 << 8) == ("dit_head", 300)
    assert [describe_fault(word)[0] for word in (6, 7, 8)] == ["mlp_head_high", "dit_head_low", "text_encoder"]
    for word in (0, 9, 256):
        with pytest.raises(InputError, match=f"fault word {word} names component"):
            describe_fault(word)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"step": Step("low", 65536, 4, 3, 1, 1.0, 10)}, "step 65536"),
        ({"step": Step("low", 0, 4, 4, 0, 1.0, 10)}, "reveals 0 of 4"),
        ({"step": Step("low", 0, 4, 1, 5, 1.0, 10)}, "reveals 5 of 4"),
        ({"step": Step("low", 0, 4, 3, 1, 1.0, 1)}, "chain of 1"),
        ({"step": Step("low", 0, 4, 3, 1, 1.0, 1001)}, "chain of 1001"),
    ],
)
def test_a_state_that_the_kernels_cannot_count_is_refused(changes, named):
    assert STEP_STATE.itemsize == 64
    fits = {"step": Step("low", 0, 4, 3, 1, 1.0, 10), "temperature": 1.0}
    with pytest.raises(InputError, match=named):
        step_state(**{**fits, **changes})
