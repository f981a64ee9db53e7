"""What heads move in both forms: the packed one reads the condition once per block and does the same operations."""

import json

import pytest

from benchmarks.gpu.graph_bytes import Forms, attention_forms, command, count_forms
from himar_kernels import InputError
from himar_kernels.shared.console import run_cli

WIDTH, MLP_WIDTH, BLOCKS, POSITIONS, ROWS = 64, 96, 3, 64, 6


def totals(nodes) -> tuple[int, int, int]:
    """Nodes, operations and bytes."""
    return len(nodes), sum(node.work.flops for node in nodes), sum(node.work.bytes for node in nodes)


@pytest.fixture(scope="module")
def dit() -> Forms:
    return count_forms("digits", "dit_head", ROWS)


@pytest.mark.parametrize(("component", "width", "matmuls", "rows"),
                         [("dit_head", WIDTH, 5 * BLOCKS + 1, ROWS * POSITIONS),
                          ("mlp_head", MLP_WIDTH, 3 * BLOCKS + 1, ROWS)])  # fmt: skip
def test_packing_saves_a_read_of_the_condition_for_every_matmul_that_it_saves(dit, component, width, matmuls, rows):
    forms = dit if component == "dit_head" else count_forms("digits", component, ROWS)
    (nodes, flops, moved), (packed_nodes, packed_flops, packed_moved) = totals(forms.separate), totals(forms.packed)
    assert (nodes - packed_nodes, flops, moved - packed_moved) == (matmuls, packed_flops, matmuls * rows * width * 2)


def test_a_dit_heads_operations_are_those_of_the_formula(dit):
    """A block's modulations, its four matmuls and its attention; what embeds x, and the last layer."""
    m, w, channels = ROWS * POSITIONS, WIDTH, 4
    block = 2 * m * w * w * (6 + 3 + 1 + 8) + 4 * m * POSITIONS * w
    assert totals(dit.packed)[1] == BLOCKS * block + 2 * m * w * (2 * w + 2 * channels)
    assert (dit.positions, dit.width) == (POSITIONS, w)


def test_fp8_does_the_same_operations_and_moves_fewer_bytes(dit):
    eighths = count_forms("digits", "dit_head", ROWS, "fp8").packed
    (_, flops, moved), (_, half_flops, half_moved) = totals(eighths), totals(dit.packed)
    assert flops == half_flops and moved < 0.9 * half_moved
    assert {node.operator.split()[0] for node in eighths if node.item == 1} == {"LinearFp8", "LinearGeluTanhFp8"}


def test_unpacking_costs_attention_more_than_reading_the_input_three_times():
    with_a_pass, written, packed, by_stride = attention_forms(100, 32).values()
    assert by_stride < written < with_a_pass < packed
    assert with_a_pass - written == packed - with_a_pass == 2 * 100 * 32 * 2


def test_the_command_prints_both_forms(capsys):
    assert run_cli(command, ["--config", "digits", "--rows", "2", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    operators = {name: [each["operator"] for each in rows] for name, rows in values["forms"].items()}
    assert f"MatMul {WIDTH}×{6 * WIDTH}" in operators["as bundles hold it"]
    assert f"MatMul {WIDTH}×{6 * WIDTH}" not in operators["every matmul by itself"]
    assert run_cli(command, ["--config", "digits", "--component", "mlp_head", "--rows", "2"]) == 0
    assert "as bundles hold it" in capsys.readouterr().out


def test_what_is_no_head_is_named():
    with pytest.raises(InputError, match=r"'transformer_low' is no head of digits; its heads are mlp_head, dit_head"):
        count_forms("digits", "transformer_low", 2)
