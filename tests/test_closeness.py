"""Comparisons that hold on every CPU: what they let pass, what they refuse, and that no test has another of its own."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import (
    COMPONENT,
    MARGINS_VARIABLE,
    assert_each_near,
    assert_near,
    assert_rounded,
    assert_same_pixels,
    distance,
)

from himar.checkpoints import load_checkpoint
from himar_kernels import load_recording

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
ELEMENTWISE = {"allclose", "assert_allclose", "assert_almost_equal", "assert_array_almost_equal"}
LARGE = np.float32([1e5, -3e4, 1e-3, 0.0])


def elementwise_bounds(source: str) -> list[int]:
    """Return the lines that bound each element by itself, or the largest difference by a number written there."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if node.func.attr in ELEMENTWISE or (node.func.attr == "assert_close" and owner.endswith("testing")):
                lines.append(node.lineno)
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.LtE):
            largest, bound = ast.unparse(node.left), node.comparators[0]
            if "abs(" in largest and "max(" in largest and isinstance(bound, ast.Constant) and 0 < bound.value < 0.01:
                lines.append(node.lineno)
    return sorted(lines)


def test_no_test_bounds_elements_by_themselves():
    """Such a bound holds only where it was written; closeness.py has those that hold everywhere."""
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted(TESTS.rglob("*.py"))
        for line in elementwise_bounds(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"compare with closeness.assert_near or assert_each_near at {', '.join(found)}"


def test_bounds_on_elements_are_found_and_others_are_not():
    refused = ["torch.allclose(a, b)", "np.testing.assert_allclose(a, b)", "torch.testing.assert_close(a, b, atol=1)"]
    refused += ["np.abs(a - b).max() < 1e-4", "(a - b).abs().max().item() <= 1e-6"]
    for line in refused:
        assert elementwise_bounds(f"x = 1\nassert {line}\n") == [2], line
    for line in ("assert_close(a, b)", "np.abs(a - b).max() <= 1", "np.abs(a).max() > 0.001", "counts.max() < 0.001"):
        assert not elementwise_bounds(f"assert {line}\n"), line


def test_a_large_arrays_small_elements_may_differ_and_its_large_ones_may_not():
    nearly = LARGE + np.float32([0, 0, 1e-3, -1e-3])
    assert_near(nearly, LARGE, 1e-7)
    assert_each_near(torch.from_numpy(nearly), LARGE, 1e-7)
    wrong = LARGE * np.float32([1 + 1e-4, 1, 1, 1])
    with pytest.raises(AssertionError, match=r"latents 9\.\d+e-05 \(relative L2\) from those expected, limit 1e-05; "):
        assert_near(wrong, LARGE, COMPONENT, "latents")
    with pytest.raises(AssertionError, match=r"of the largest value\) .*furthest at \(0,\): 100010 instead of 100000"):
        assert_each_near(wrong, LARGE, COMPONENT)


@pytest.mark.parametrize("compare", [assert_near, assert_each_near])
def test_what_cannot_be_compared_is_refused(compare):
    for value in (np.nan, np.inf):
        with pytest.raises(AssertionError, match=r"inf \(.*furthest at \(1,\)"):
            compare([0.0, value], [0.0, 1.0], 1.0)
        with pytest.raises(AssertionError, match="inf"):
            compare([0.0, 1.0], [0.0, value], 1.0)
    with pytest.raises(AssertionError, match=r"shape \(1,\), expected \(2,\)"):
        compare([1.0], [1.0, 1.0], 1.0)
    with pytest.raises(AssertionError, match="inf"):
        compare([1e-9], [0.0], 1.0)
    compare([0.0], [0.0], 0.0)
    compare(np.zeros((2, 0)), np.zeros((2, 0)), 0.0)


def test_rounded_values_differ_by_units_in_the_last_place_and_pixels_by_one():
    expected = np.float32([1.0, 1e-30, 3e8])
    assert_rounded(np.nextafter(expected, np.float32(np.inf)), expected, 1)
    with pytest.raises(AssertionError, match="3 units in the last place from the value expected, limit 2"):
        assert_rounded(expected + 3 * np.spacing(expected), expected, 2)
    pixels = np.uint8([0, 255, 7])
    assert_same_pixels(np.uint8([1, 254, 7]), pixels)
    with pytest.raises(AssertionError, match="1 of 3 values differ by more than 1, by up to 255"):
        assert_same_pixels(np.uint8([0, 0, 7]), pixels)


def test_comparisons_note_the_share_of_their_limit(monkeypatch, tmp_path):
    monkeypatch.setenv(MARGINS_VARIABLE, str(tmp_path / "margins"))
    assert_near([1.25], [1.0], 0.5)
    assert (tmp_path / "margins").read_text().startswith("5.000e-01 tests/test_closeness.py::test_comparisons_note")


@torch.no_grad()
@pytest.mark.parametrize("fault", ["a weight", "the norms' epsilon", "the activation"])
def test_a_networks_small_fault_is_beyond_its_limit(fault, monkeypatch):
    """Limits that let another library's rounding pass must not let a wrong network pass."""
    model = load_checkpoint(GOLDEN / "himar-narrow-128.pth", GOLDEN / "himar-narrow-128.json")
    arrays = load_recording(GOLDEN / "himar-narrow-128.npz")
    inputs = [torch.from_numpy(arrays[f"dit/{name}"]) for name in ("x", "t", "z")]
    assert_near(model.dit_head(*inputs), arrays["dit/out"], COMPONENT)
    if fault == "a weight":
        model.dit_head.blocks[0].mlp.fc1.weight[0] *= 1.01
    elif fault == "the norms' epsilon":
        monkeypatch.setattr("himar.layers.EPS", 1e-4)
    else:
        for block in model.dit_head.blocks:
            block.mlp.gelu = "none"
    assert distance(model.dit_head(*inputs), arrays["dit/out"]) > COMPONENT
