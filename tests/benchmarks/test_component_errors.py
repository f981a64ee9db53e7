"""The command behind docs/fp8.md's table of components."""

from __future__ import annotations

from benchmarks.studies import component_errors
from himar_kernels.shared.console import run_cli


def test_coarser_types_lie_further_from_float32(digits_bundle, capsys) -> None:
    assert run_cli(component_errors.main, [str(digits_bundle), "--component", "mlp_head"]) == 0
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()]
    assert lines[0][1:] == ["`mlp_head`"]
    found = {cells[0]: float(cells[1]) for cells in lines[2:]}
    assert tuple(found) == component_errors.ROWS
    fp16, int8, fp8, wider = found.values()
    assert 0 < fp16 < 0.1 < int8 < fp8 < 5
    assert abs(wider - fp8) < 0.05 * fp8  # four binary digits are the error, not the range


def test_a_network_that_the_model_lacks_is_a_sentence(digits_bundle, capsys) -> None:
    assert run_cli(component_errors.main, [str(digits_bundle), "--component", "head"]) == 1
    assert "the model has no component 'head'; it has transformer_low" in capsys.readouterr().err
