"""The eager networks against compositions written from the paper's facts alone: equal outputs, or no timing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.eager import against_plain as eager_against_plain
from himar_export.bench.verdict import Ratio
from himar_kernels.shared.console import run_cli
from tests.closeness import COMPONENT, assert_near


def test_every_eager_component_equals_its_plain_composition() -> None:
    with torch.inference_mode():
        for name, ours, plain in eager_against_plain.pairs("digits", 2):
            found, expected = ours(), plain()
            assert_near(found, expected, COMPONENT, name)


def test_eager_components_run_no_more_operations_than_plain_ones() -> None:
    """Times say little on a busy machine; counts say that nothing is done twice."""
    index_lists = 4  # a transformer's: rows that know unequally many positions are refused
    with torch.inference_mode():
        for name, ours, plain in eager_against_plain.pairs("digits", 2):
            more = index_lists if name.startswith("transformer") else 0
            assert eager_against_plain.operations(ours) <= eager_against_plain.operations(plain) + more, name


def test_operations_are_counted_without_views() -> None:
    x = torch.ones(4, 4)
    assert eager_against_plain.operations(lambda: (x.transpose(0, 1)[1:] + x[1:]) @ x) == 2


def test_what_differs_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def timed() -> torch.Tensor:
        calls.append(1)
        return torch.ones(3)

    monkeypatch.setattr(eager_against_plain, "pairs", lambda *_: [("dit_head", timed, lambda: torch.full((3,), 1.001))])
    with pytest.raises(eager_against_plain.DifferError, match=r"digits dit_head: outputs are 1\.0e-03 apart"):
        next(eager_against_plain.measure("digits", 1, 6, 0.0))
    assert len(calls) == 1


def test_a_row_says_how_many_times_as_fast_himar_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(sides: Any, repeats: int, *_: Any) -> dict[str, tuple[tuple[float, ...], ...]]:
        return {side.name: ((0.002,) if side.name == "himar" else (0.003,),) * repeats for side in sides}

    ones = torch.ones(3)
    monkeypatch.setattr(eager_against_plain, "pairs", lambda *_: [("mlp_head", lambda: ones, lambda: ones)])
    monkeypatch.setattr(eager_against_plain, "take_turns", seconds)
    row = next(eager_against_plain.measure("digits", 1, 6, 0.0))
    assert (row.himar, row.plain, row.ratio.value) == pytest.approx((2.0, 3.0, 1.5))


def test_what_cannot_be_compared_or_written_is_refused_before_measuring(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(eager_against_plain, "measure", lambda *_: pytest.fail("it measured"))
    for options, code, expected in (
        (["--config", "digits", "--config", "mar-b"], 1, "mar-b has a single scale, but the plain networks have two"),
        (["--config", "himar-b-dit-both"], 1, "has pivots 'condition' and heads 'dit' and 'dit', but the plain"),
        (["--config", "nope"], 1, "error: configuration 'nope' is neither a preset"),
        (["--markdown", str(tmp_path / "no" / "x.md")], 1, "cannot be written: No such file or directory"),
        (["--markdown", ""], 2, "the path is empty"),
        (["--warm-up", "-1"], 2, "-1.0 is not in the range x>=0"),
        (["--warm-up", "inf"], 2, "is not a finite number"),
    ):
        assert run_cli(eager_against_plain.main, options) == code
        assert expected in capsys.readouterr().err


def test_the_table_is_written_whole_and_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = eager_against_plain.Row("digits", 1, "dit_head", 1.0, 2.0, Ratio(2.0, 1.9, 2.1, ()), 0.0, (3, 4))
    monkeypatch.setattr(eager_against_plain, "measure", lambda *_: [row])
    table = tmp_path / "x.md"
    asked = ["--config", "digits", "--batch", "1", "--markdown", str(table)]
    assert run_cli(eager_against_plain.main, asked) == 0
    assert table.read_text().splitlines()[2].startswith("| digits | 1 | dit_head | 1.00 | 2.00 | 2.00 (1.90 … 2.10)")

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(eager_against_plain, "measure", interrupted)
    assert run_cli(eager_against_plain.main, asked) == 130
    assert list(tmp_path.iterdir()) == [table]
