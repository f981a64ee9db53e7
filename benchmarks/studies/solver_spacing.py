"""Measures where a solver's steps should lie: digits of short chains under other spacings than the built-in one.

Run from the repository, after `make demo` (6 minutes of one core; docs/solvers.md shows the table):

    python -m benchmarks.studies.solver_spacing demo/digits
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.record import IMAGES, require_decoder
from himar_kernels.families.hi_mar import BASE_STEPS, solvers
from himar_kernels.families.hi_mar.diffusion import base_alphas_cumprod
from himar_kernels.families.hi_mar.sampling import in_phases
from himar_kernels.shared.console import run_cli

Spacing = Callable[[int], NDArray[np.int64]]


@click.command(epilog="Example: python -m benchmarks.studies.solver_spacing demo/digits --steps 6")
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--steps", multiple=True, default=(4, 8), show_default=True, type=click.IntRange(2, 32))
@click.option("--images", default=200, show_default=True, type=IMAGES, help="Images of each setting.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of the images.")
def main(bundle: Path, steps: tuple[int, ...], images: int, seed: int) -> None:
    """Measure the digits BUNDLE with both solvers under every spacing."""
    from benchmarks.studies.measure import Judge, even_labels
    from himar_runtime import Pipeline

    require_decoder(bundle)
    pipeline, judge, labels = Pipeline.load(bundle, threads=1), Judge(), even_labels(images)
    built_in = solvers.spaced_timesteps
    try:
        for count in steps:
            for name, spacing in spacings().items():
                solvers.spaced_timesteps = spacing
                for solver in ("ddim", "dpm++"):
                    made = pipeline.generate(
                        labels, seed=seed, temperature=1.0,
                        **in_phases("low", "high", solver=solver, diffusion_steps=count),
                    )  # fmt: skip
                    assert made.images is not None
                    found = judge.figures(made.images, labels)
                    click.echo(
                        f"{count} steps, {name}, {solver}: distance {found.distance:.1f}, precision "
                        f"{found.precision:.3f}, recall {found.recall:.3f}, recognised {100 * found.recognised:.1f} %"
                    )
    finally:
        solvers.spaced_timesteps = built_in


def spacings() -> dict[str, Spacing]:
    """Return the spacings by name: even in λ between two values of it, or even in the base step."""
    level = np.log(base_alphas_cumprod() / (1 - base_alphas_cumprod())) / 2

    def even_in_level(first: float, last: float) -> Spacing:
        def spaced(n: int) -> NDArray[np.int64]:
            wanted = np.linspace(last, first, n)
            return np.rint(np.interp(-wanted, -level, np.arange(BASE_STEPS))).astype(np.int64)

        return spaced

    return {
        "λ 3 … -3 (built in)": even_in_level(-3, 3),
        "λ 3 … -4": even_in_level(-4, 3),
        "λ 3 … -5.1": even_in_level(-5.1, 3),
        "λ 5.1 … -5.1": even_in_level(-5.1, level[0]),
        "even base steps to 980": lambda n: np.rint(np.arange(1, n + 1) * 981 / n - 1).astype(np.int64),
        "even base steps to 995": lambda n: np.rint(np.linspace(0, 995, n)).astype(np.int64),
    }


if __name__ == "__main__":
    sys.exit(run_cli(main))
