"""Defines `himar-export debug`: the wrong layer of a component, and what must stay in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from himar.cli.options import weights_option
from himar_kernels.shared.console import FAILURE, require_extra
from himar_kernels.shared.options import FiniteRange, NamedPath

from ..debug.choices import EMULATE, FLOAT32, REFERENCES, RUNNERS
from .progress import progress_bar


@click.command(epilog="Example: himar-export debug bundle --component dit_head --checkpoint model.pth --limit 1e-3")
@click.argument("bundle", type=NamedPath())
@click.option("--component", required=True, help="Component to look at, as `inspect` names it.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]),
              help="Precision to look at it in, with --checkpoint; the bundle's if not given.")  # fmt: skip
@click.option("--checkpoint", type=NamedPath(), help="What the bundle was built from: its weights are the reference's.")
@weights_option
@click.option(
    "--vae", type=NamedPath(), help="KL-VAE checkpoint, where the component is its decoder; HMAR's tokenizer."
)
@click.option("--text", type=NamedPath(), help="Folder of a CLIP model, where the component is its text tower.")
@click.option("--recording", type=NamedPath(), help="Recorded run whose inputs to take, instead of the self-test's.")
@click.option("--case", help="Case of the recording; all of them if not given.")
@click.option("--limit", type=FiniteRange(min=0, min_open=True),
              help="Largest relative L2 that passes; what `verify` takes if not given.")  # fmt: skip
@click.option("--runner", type=click.Choice(RUNNERS), default=EMULATE, show_default=True,
              help="What computes the layers: the graph rounded as on a GPU, or a real engine, its layers marked as "
                   "outputs.")  # fmt: skip
@click.option("--device", default="cpu", show_default=True, help="Where ONNX Runtime runs: cpu, cuda or cuda:N.")
@click.option("--against", type=click.Choice(REFERENCES), default=FLOAT32, show_default=True,
              help="Reference: the float32 graph, PyTorch's network of --checkpoint, or ONNX Runtime on "
                   "--device.")  # fmt: skip
@click.option("--all", "every", is_flag=True, help="Show every layer, not only those that matter.")
@click.option("--json", "as_json", is_flag=True, help="Print every layer as JSON, which `build --fp32-layers` reads.")
def debug(as_json: bool, every: bool, case: str | None, recording: Path | None, **options: Any) -> int:
    """Find the layer of BUNDLE's component that leaves the float32 reference, and what must stay in float32.

    Half precision is computed in emulation, rounded as on a GPU, unless --runner names an engine. The exit code is 0
    where the outputs are within the limit. docs/debugging.md shows how to go about wrong images.
    """
    require_extra("debug", "polygraphy", "torch", "onnx", "onnxscript")
    if recording is None and case is not None:
        raise click.UsageError("--case needs --recording.")
    from himar.device import use_threads

    from ..debug.report import print_report, print_report_json
    from ..debug.run import DebugRequest
    from ..debug.run import debug as run_debug

    use_threads()
    with progress_bar(as_json) as advance:
        report = run_debug(DebugRequest(recording=recording, case=case, **options), advance)
    if as_json:
        print_report_json(report)
    else:
        print_report(report, every)
    return 0 if report.passed else FAILURE
