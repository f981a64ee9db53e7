"""Writes the page of an hour's record: aims, machine, single calls, kernels, whole generations, memory, tests.

    python -m benchmarks.gpu.page h100.json          # docs/gpu/h100.md

Only what the record holds is on it: a piece that did not run is named with the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.gpu.aims import figures_of
from benchmarks.gpu.record import read_record
from himar_export.bench.measurement import COMPILED, EAGER, EAGER_FP32, ENGINES
from himar_kernels.shared.console import run_cli
from himar_kernels.shared.files import require_writable_folder, write_text
from himar_kernels.shared.options import NamedPath

KERNELS = 12
"""Rows of a table of kernels; the last adds up the others."""


def page(content: Mapping[str, Any], title: str) -> str:
    """Return the page in Markdown."""
    asked = content["asked"]
    kind = "A dry run: next to no steps, on a CPU. Its figures say nothing of a GPU. " if asked["dry_run"] else ""
    parts = [f"# {asked['model']} on {asked['machine']}",
             f"{kind}Written by `python -m benchmarks.gpu.page {title}`; how it is measured: "
             "[benchmarking.md](../benchmarking.md)."]  # fmt: skip
    for head, lines in (
        ("Aims", _aims(content)),
        ("Machine", _machine(content)),
        ("Calls of components", _calls(content)),
        ("The heads' calls, in every way", _heads(content)),
        ("Kernels of a call", _kernels(content)),
        ("Whole generations", _generations(content)),
        ("Memory of a generation", _memory(content)),
        ("C++ runtime", _cpp(content)),
        ("Tests", _tests(content)),
        ("Not measured", _left(content)),
    ):
        found = list(lines)
        if found:
            parts += [f"## {head}", "\n".join(found)]
    return "\n\n".join(parts) + "\n"


def _aims(content: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (each["aim"], f"**{each['verdict']}**", _number(each["value"]), each.get("from") or each["reason"])
        for each in content["aims"]
    ]
    yield from _table(("aim", "verdict", "measured", "from"), rows)


def _machine(content: Mapping[str, Any]) -> Iterator[str]:
    own = content["pieces"].get("peaks", {"figures": {}})["figures"]
    for name, value in own.get("environment", {}).items():
        shown = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, Mapping) else value
        yield f"* {name}: {' '.join(shown) if isinstance(shown, list) else shown}"
    if "copy" in own:
        yield f"* fastest copy: {own['copy']['bytes_per_second'] / 1e12:.3g} TB/s read and written"
    for name, value in own.get("products", {}).items():
        yield f"* matmuls of {value['size']} in {name}: {value['flops_per_second'] / 1e12:.3g} TFLOP/s"


def _calls(content: Mapping[str, Any]) -> Iterator[str]:
    sides = (EAGER, EAGER_FP32, COMPILED, ENGINES)
    for prefix in ("calls", "rows"):
        rows = [
            (piece, f"{name}, {value['rows']}" if prefix == "calls" else name,
             *(_milliseconds(value["seconds"].get(side)) for side in sides), _rate(value), _refused(value))
            for piece, name, value in figures_of(content, prefix)
        ]  # fmt: skip
        head = ("piece", "call and its rows", *(f"{side}, ms" for side in sides), "engines, TFLOP/s", "left out")
        yield from (*_table(head, rows), "")


def _heads(content: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (piece, name, value["rows"], _milliseconds(value["seconds"].get(ENGINES)), _rate(value), _refused(value))
        for piece, name, value in figures_of(content, "heads")
    ]
    yield from _table(("piece", "call", "rows", "ms", "TFLOP/s", "left out"), rows)


def _kernels(content: Mapping[str, Any]) -> Iterator[str]:
    for piece, name, value in figures_of(content, "calls"):
        for side, kernels in value["kernels"].items():
            if kernels:
                yield from (f"{piece}: {name} by {side}", "")
                rest = kernels[KERNELS - 1 :]
                rows = [(_number(each["ms"]), each["count"], f"`{each['kernel']}`") for each in kernels[: KERNELS - 1]]
                if rest:
                    total, count = sum(each["ms"] for each in rest), sum(each["count"] for each in rest)
                    rows.append((_number(total), count, f"the next {len(rest)}"))
                yield from (*_table(("ms", "count", "kernel"), rows), "")


def _generations(content: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for piece, _, value in figures_of(content, "generation"):
        for side, runs in value["seconds"].items():
            bits = {True: "yes", False: "**no**", None: ""}[value["bit_equal"].get(side)]
            ratio = value["ratios"].get(side)
            rows.append((piece, side, _number(value["seconds_per_image"][side]), len(runs), _ratio(ratio),
                         _apart(value, side), bits))  # fmt: skip
        rows += [(piece, side, "", "", "", reason, "") for side, reason in value["refused"].items()]
    head = (
        "piece",
        "side",
        "s per image",
        "runs",
        "times as fast as eager",
        "latents apart from eager's",
        "runs bit-equal",
    )
    yield from _table(head, rows)


def _memory(content: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (piece, side, *(_gigabytes(each.get(kind)) for kind in ("imported", "peak", "device", "allocated")))
        for piece, name, value in figures_of(content, "memory")
        if name == "memory"
        for side, each in value.items()
    ]
    head = ("piece", "side", "libraries, GB", "peak resident, GB", "GPU by driver, GB", "GPU by PyTorch, GB")
    yield from _table(head, rows)


def _cpp(content: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (piece, value["images"], value["runs"], _number(value["seconds_per_image"]), _number(value["median_s"]),
         _number(value["p95_s"]), _number(value["start_up_s"]))
        for piece, _, value in figures_of(content, "C++ bench")
    ]  # fmt: skip
    yield from _table(("piece", "images", "runs", "s per image", "median, s", "p95, s", "start-up, s"), rows)


def _tests(content: Mapping[str, Any]) -> Iterator[str]:
    rows = [(piece.removeprefix("tests, "), value["passed"], value["summary"], "; ".join(value["not_passed"]))
            for piece, _, value in figures_of(content, "tests, ", begun=True)]  # fmt: skip
    for piece, _, value in figures_of(content, "C++ tests"):
        said = "skipped" if value["skipped"] else "all" if value["passed"] else f"**failed**, {value['exit_code']}"
        rows.append((piece, said, value["said"][-1] if value["said"] else "", ""))
    for piece, _, value in figures_of(content, "self-test"):
        wrong = [each["name"] for each in value["comparisons"] if each["passed"] is False]
        rows.append((piece, len(value["comparisons"]) - len(wrong), "outputs compared", "; ".join(wrong)))
    yield from _table(("file", "passed", "summary", "not passed"), rows)


def _left(content: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (piece, own["state"], own.get("reason", ""))
        for piece, own in content["pieces"].items()
        if own["state"] != "done"
    ]
    yield from _table(("piece", "state", "reason"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Yield the lines of a table; none without rows. Columns that are empty throughout are left out."""
    if not rows:
        return
    shown = [place for place in range(len(head)) if any(str(row[place]) for row in rows)]
    yield f"| {' | '.join(head[place] for place in shown)} |"
    yield f"|{' --- |' * len(shown)}"
    for row in rows:
        yield f"| {' | '.join(str(row[place]).replace('|', chr(92) + '|') for place in shown)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}"


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f}"


def _rate(value: Mapping[str, Any]) -> str:
    seconds = value["seconds"].get(ENGINES)
    return "" if seconds is None else f"{value['flops'] / seconds / 1e12:.3g}"


def _refused(value: Mapping[str, Any]) -> str:
    return "; ".join(f"{side}: {reason}" for side, reason in value["refused"].items())


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    """Return a ratio with its interval; "?" where something makes it doubtful (himar_export.bench.verdict)."""
    if ratio is None:
        return ""
    interval = "" if ratio["low"] is None else f" ({ratio['low']:.2f}–{ratio['high']:.2f})"
    return f"{ratio['value']:.2f}{interval}{' ?' if ratio['doubts'] else ''}"


def _apart(value: Mapping[str, Any], side: str) -> str:
    if side not in value["apart"]:
        return ""
    limit = "not comparable" if value["limit"] is None else f"limit {value['limit']:.1e}"
    return f"{value['apart'][side]:.1e} ({limit})"


@click.command()
@click.argument("record", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=NamedPath(dir_okay=False), help="By default docs/gpu/RECORD.md.")
def main(record: Path, out: Path | None) -> None:
    """Write the page of a record."""
    content = read_record(record)
    target = out or Path("docs") / "gpu" / f"{record.stem}.md"
    require_writable_folder(target.absolute().parent)
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_text(target, page(content, record.name))
    click.echo(f"→ {target}")


if __name__ == "__main__":
    sys.exit(run_cli(main))
