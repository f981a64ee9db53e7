"""Defines what a benchmark asks of a model family: its eager side, what may differ, and calls of single components."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from himar_kernels.families.registry import family_part

if TYPE_CHECKING:
    from ..bench.component_runs import Call, ComponentCall
    from ..bench.time_breakdown import Clock
    from ..bench.timing import Outputs
    from ..bench.workload import Workload
    from ..verify.compare import Comparison


class FamilyBench(Protocol):
    """A model family as `bench` knows it.

    `model` and `vae` are what `himar.family.ModelFamily` loads, `sampling` is of the family's own class, and `networks`
    is what `eager_networks` returned. phases: of the parts of a run, in order.
    """

    phases: tuple[str, ...]

    def load_vae(self, path: Path | None, model: Any) -> Any:
        """Load the autoencoder, None where generations end at latents; ConfigError where the family needs one."""
        ...

    def peak_precision(self, precisions: Mapping[str, str]) -> str:
        """Return the precision of the component that does most, in which the device's peak is measured."""
        ...

    def eager_networks(
        self, model: Any, vae: Any, precisions: Mapping[str, str], *, compiled: bool = False, clock: Clock | None = None
    ) -> Any:
        """Return copies of both networks that share their weights and run each component in its precision.

        Half precision is autocast around the component; what comes out is float32 again, as it is from an engine.

        Args:
            precisions: of each component's matmuls; float32 where it is not named.
            compiled: through torch.compile, which works when a shape is first seen.
            clock: adds up the time of each component's calls.
        """
        ...

    def run_eager(self, networks: Any, images: Any, sampling: Any, seed: int) -> Outputs:
        """Generate with PyTorch what `himar_export.bench.shown.what_is_shown` returned; of prompts their contexts.

        Returns: latents, with a VAE images, and what else the engines' results hold.
        """
        ...

    def limits(
        self, workload: Workload, usual: Outputs, reference: Outputs, engines: Callable[[], Outputs]
    ) -> dict[str, float | None]:
        """Return the largest relative error of each output of a generation, None where rounding may exceed any.

        usual, reference: of eager in the bundle's precisions and in float32; engines: gives those of the engines.
        """
        ...

    def compare_instead(self, workload: Workload, batch: int) -> Sequence[Comparison]:
        """Compare parts of the engines with eager in float32 where whole outputs have no limits; nothing is timed."""
        ...

    def parts(self, workload: Workload) -> Sequence[tuple[str, str]]:
        """Return the components that a generation runs, in order, each with its phase."""
        ...

    def eager_calls(self, model: Any) -> Mapping[str, Call]:
        """Return what runs each component with `eager_networks`, on the inputs of any call that the loop makes."""
        ...

    def component_calls(self, workload: Workload, batch: int, compiled: bool) -> list[ComponentCall]:
        """Return one call of every component as a usual step of `batch` images makes it."""
        ...


def family_bench(name: str) -> FamilyBench:
    """Return a family by its name; KeyError where this himar does not know it, InputError where it has no bench."""
    family: FamilyBench = family_part(name, "bench")
    return family
