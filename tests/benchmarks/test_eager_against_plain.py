"""The eager networks against compositions written from the paper's facts alone: equal outputs, or no timing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from closeness import COMPONENT, assert_near

from himar_export.bench.verdict import Ratio
from himar_kernels.console import run_cli

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("eager_against_plain", BENCHMARKS / "eager_against_plain.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass asks for it
    spec.loader.exec_module(module)
    return module


def test_every_eager_component_equals_its_plain_composition(benchmark: Any) -> None:
    with torch.inference_mode():
        for name, ours, plain in benchmark.pairs("digits", 2):
            found, expected = ours(), plain()
            assert_near(found, expected, COMPONENT, name)


def test_eager_components_run_no_more_operations_than_plain_ones(benchmark: Any) -> None:
    """Times say little on a busy machine; counts say that nothing is done twice."""
    index_lists = 4  # a transformer's: rows that know unequally many positions are refused
    with torch.inference_mode():
        for name, ours, plain in benchmark.pairs("digits", 2):
            more = index_lists if name.startswith("transformer") else 0
            assert benchmark.operations(ours) <= benchmark.operations(plain) + more, name


def test_operations_are_counted_without_views(benchmark: Any) -> None:
    x = torch.ones(4, 4)
    assert benchmark.operations(lambda: (x.transpose(0, 1)[1:] + x[1:]) @ x) == 2


def test_what_differs_is_not_timed(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def timed() -> torch.Tensor:
        calls.append(1)
        return torch.ones(3)

    monkeypatch.setattr(benchmark, "pairs", lambda *_: [("dit_head", timed, lambda: torch.full((3,), 1.001))])
    with pytest.raises(benchmark.DifferError, match=r"digits dit_head: outputs are 1\.0e-03 apart"):
        next(benchmark.measure("digits", 1, 6, 0.0))
    assert len(calls) == 1


def test_a_row_says_how_many_times_as_fast_himar_is(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(sides: Any, repeats: int, *_: Any) -> dict[str, tuple[tuple[float, ...], ...]]:
        return {side.name: ((0.002,) if side.name == "himar" else (0.003,),) * repeats for side in sides}

    monkeypatch.setattr(benchmark, "pairs", lambda *_: [("mlp_head", lambda: torch.ones(3), lambda: torch.ones(3))])
    monkeypatch.setattr(benchmark, "take_turns", seconds)
    row = next(benchmark.measure("digits", 1, 6, 0.0))
    assert (row.himar, row.plain, row.ratio.value) == pytest.approx((2.0, 3.0, 1.5))


def test_what_cannot_be_compared_or_written_is_refused_before_measuring(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("it measured"))
    for options, code, expected in (
        (["--config", "digits", "--config", "mar-b"], 1, "mar-b has a single scale, but the plain networks have two"),
        (["--config", "himar-b-dit-both"], 1, "has pivots 'condition' and heads 'dit' and 'dit', but the plain"),
        (["--config", "nope"], 1, "error: configuration 'nope' is neither a preset"),
        (["--markdown", str(tmp_path / "no" / "x.md")], 1, "cannot be written: No such file or directory"),
        (["--markdown", ""], 2, "the path is empty"),
        (["--warm-up", "-1"], 2, "-1.0 is not in the range x>=0"),
        (["--warm-up", "inf"], 2, "is not a finite number"),
    ):
        assert run_cli(benchmark.main, options) == code
        assert expected in capsys.readouterr().err


def test_the_table_is_written_whole_and_ctrl_c_ends_with_130(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    row = benchmark.Row("digits", 1, "dit_head", 1.0, 2.0, Ratio(2.0, 1.9, 2.1, ()), 0.0, (3, 4))
    monkeypatch.setattr(benchmark, "measure", lambda *_: [row])
    table = tmp_path / "x.md"
    asked = ["--config", "digits", "--batch", "1", "--markdown", str(table)]
    assert run_cli(benchmark.main, asked) == 0
    assert table.read_text().splitlines()[2].startswith("| digits | 1 | dit_head | 1.00 | 2.00 | 2.00 (1.90 … 2.10)")

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "measure", interrupted)
    assert run_cli(benchmark.main, asked) == 130
    assert list(tmp_path.iterdir()) == [table]
