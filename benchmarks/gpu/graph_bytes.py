"""Counts what a head's half-precision graph for ONNX Runtime does and moves in one call, and predicts its least time.

    python -m benchmarks.gpu.graph_bytes --config himar-b --component dit_head --rows 256 \\
        --peak-tflops 731 --fp8-tflops 1462 --float-tflops 51 --peak-gbps 4100 [--precision fp8] [--json]

Two graphs are counted node by node (`himar_export.cost.traffic`): with every matmul by itself, and as bundles hold it,
where one matmul makes all that modulates a block. Nothing runs, no GPU and no weights are needed. Of each operator: how
many, operations, bytes, the least time if the longer of operations and bytes counts in each, and that of the bytes
alone. Then the ways to write a block's attention, from its normalised input to what its last matmul reads.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR
from himar_export.cost.cost import Peaks, Work
from himar_export.cost.report import scaled
from himar_export.cost.traffic import KINDS, NodeTraffic, OperatorTraffic, graph_traffic, traffic_by_operator
from himar_export.families.hi_mar.components import components
from himar_export.families.hi_mar.heads import head_graph
from himar_export.families.hi_mar.phases import model_info, phase_head
from himar_export.graph.component import Component
from himar_export.graph.observed import Range
from himar_export.graph.onnx_export import to_onnx
from himar_export.graph.precision import value_type
from himar_export.graph.style import GraphStyle
from himar_export.make.weights import weight_file
from himar_export.report import print_json
from himar_kernels import InputError
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.options import FiniteRange

HALF = 2


@dataclass(frozen=True)
class Forms:
    """The nodes of a head's call in both forms, and the sizes of its attention; positions is None without any."""

    separate: tuple[NodeTraffic, ...]
    packed: tuple[NodeTraffic, ...]
    positions: int | None
    width: int


def count_forms(config: str, component: str, rows: int, precision: Any = "fp16") -> Forms:
    """Export a head in both forms and count its nodes for `rows` rows or samples.

    Raises InputError for a component that is no head of the configuration.
    """
    with torch.device("meta"):
        model = HiMAR(resolve(read_config(config), {}, config)).eval().requires_grad_(False)
    parts = {part.name: part for part in components(model, None, rows, backend="onnxruntime")}
    phases = {phase.head: phase for phase in model_info(model.config).phases}
    if component not in phases:
        raise InputError(f"{component!r} is no head of {config}; its heads are {', '.join(phases)}.")
    head = phase_head(model, phases[component].name).to_empty(device="cpu")
    for tensor in (*head.parameters(), *head.buffers()):
        tensor.zero_()  # what a graph moves does not depend on its weights
    axis = next(iter(parts[component].profile))

    def counted(packs: bool) -> tuple[NodeTraffic, ...]:
        def graph(dtype: torch.dtype) -> torch.nn.Module:
            return head_graph(head, replace(GraphStyle.of("onnxruntime", dtype), packs_modulations=packs))

        one = np.ones(1, np.float32)  # nor on the range of what multiplies them
        ranges = {name: Range(-one, one, one) for name, _ in graph(value_type(precision)).named_parameters()}
        return graph_traffic(_exported(replace(parts[component], graph=graph), precision, ranges), {axis: rows})

    places = parts[component].inputs[0].shape[1:-1]
    positions = int(places[0]) if places else None
    return Forms(counted(False), counted(True), positions, int(parts[component].inputs[2].shape[-1]))


def _exported(component: Component, precision: Any, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        weights = weight_file(Path(folder))
        with weights.stream:
            return to_onnx(component, precision, weights, ranges)


def attention_forms(rows: int, width: int) -> Mapping[str, int]:
    """Return the bytes that a block's attention moves in half precision, by the way it is written.

    rows: all positions of all rows. From the normalised input to the result; every step reads its inputs and writes
    its outputs. On CUDA ONNX Runtime's kernels (cuDNN's, FlashAttention, memory-efficient) take queries, keys and
    values apart: of a packed tensor it first makes three, and adds the bias on the way.
    """
    unit, weights = rows * width * HALF, 3 * width * width * HALF
    attends = 4 * unit
    return {
        "three matmuls, the queries' bias as a pass": 6 * unit + weights + 2 * unit + attends,
        "three matmuls, the queries' bias in the matmul's epilogue (as written)": 6 * unit + weights + attends,
        "one matmul, packed (R, T, heads, 3, d)": 4 * unit + weights + 6 * unit + attends,
        "one matmul, read by stride (no kernel of ONNX Runtime's does)": 4 * unit + weights + attends,
    }


def _table(title: str, operators: tuple[OperatorTraffic, ...], half: Peaks) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("operator, then its kind", overflow="fold")
    for heading in ("nodes", "FLOPs", "bytes", "least ms", "bytes' ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind in (*KINDS, "all"):
        found = [each for each in operators if kind in (each.kind, "all")]
        for each in found if kind != "all" and len(found) > 1 else ():
            table.add_row(each.operator, *_cells([each], half))
        if found:
            table.add_row(kind, *_cells(found, half), style="bold", end_section=True)
    return table


def _cells(operators: Sequence[OperatorTraffic], half: Peaks) -> tuple[str, ...]:
    """Nodes, operations, bytes and both times of some operators together."""
    work = sum((each.work for each in operators), Work())
    times = sum(each.seconds for each in operators), replace(half, flops_per_second=None).seconds(work)
    nodes = sum(each.nodes for each in operators)
    return str(nodes), scaled(work.flops), scaled(work.bytes), *(f"{1e3 * time:.2f}" for time in times)


def _values(operators: tuple[OperatorTraffic, ...]) -> list[dict[str, Any]]:
    return [
        {
            "kind": each.kind,
            "operator": each.operator,
            "nodes": each.nodes,
            "flops": each.work.flops,
            "bytes": each.work.bytes,
            "seconds": each.seconds,
        }
        for each in operators
    ]


_POSITIVE = FiniteRange(min=0, min_open=True)


@click.command()
@click.option("--config", default="himar-b", show_default=True, help="Preset or JSON file.")
@click.option("--component", default="dit_head", show_default=True, help="A head.")
@click.option("--rows", type=click.IntRange(1), default=256, show_default=True,
              help="Rows of the call: images, twice under guidance; of an MLP head, samples.")  # fmt: skip
@click.option("--precision", type=click.Choice(["fp16", "bf16", "fp8"]), default="fp16", show_default=True)
@click.option("--peak-tflops", type=_POSITIVE, default=731.0, show_default=True, help="Of half-precision matmuls.")
@click.option(
    "--fp8-tflops",
    type=_POSITIVE,
    default=1462.0,
    show_default=True,
    help="Of fp8 matmuls; as given twice those of half precision, not measured.",
)
@click.option("--float-tflops", type=_POSITIVE, default=51.0, show_default=True, help="Of float32 matmuls.")
@click.option("--peak-gbps", type=_POSITIVE, default=4100.0, show_default=True, help="Of memory, read and written.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in plain units.")
def command(
    config: str,
    component: str,
    rows: int,
    precision: str,
    peak_tflops: float,
    fp8_tflops: float,
    float_tflops: float,
    peak_gbps: float,
    as_json: bool,
) -> None:
    """Count what a head's half-precision graphs do and move in one call."""
    tflops = {4: float_tflops, 2: peak_tflops, 1: fp8_tflops}
    peaks = {item: Peaks(each * 1e12, peak_gbps * 1e9) for item, each in tflops.items()}
    forms = count_forms(config, component, rows, precision)
    tables = {
        "every matmul by itself": traffic_by_operator(forms.separate, peaks),
        "as bundles hold it": traffic_by_operator(forms.packed, peaks),
    }
    attention = {} if forms.positions is None else attention_forms(rows * forms.positions, forms.width)
    if as_json:
        values = {
            "forms": {name: _values(operators) for name, operators in tables.items()},
            "attention_bytes": attention,
        }
        print_json({"config": config, "component": component, "rows": rows, "precision": precision, **values})
        return
    console = Console()
    for name, operators in tables.items():
        console.print(_table(f"{config}, {component}, {rows} rows, {precision}: {name}", operators, peaks[2]))
    for name, moved in attention.items():
        console.print(
            f"{scaled(moved)}B  {1e3 * moved / (peak_gbps * 1e9):.3f} ms  {name}", highlight=False, markup=False
        )


if __name__ == "__main__":
    sys.exit(run_cli(command))
