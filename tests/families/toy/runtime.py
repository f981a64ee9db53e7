"""The toy family in the runtime: sizes, settings, and a loop of ten lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from himar_kernels import ImageDraws, InputError, PhiloxDraws
from himar_runtime import Bundle, Networks
from himar_runtime.bundle.manifest import Reader
from himar_runtime.decode import decode
from himar_runtime.runner import Generated, ShouldContinue

CHANNELS, SIDE, SCALE = 3, 4, 2


@dataclass(frozen=True)
class ToyModel:
    """See himar_runtime.families.family.ModelSizes."""

    classes: int
    img_size: int = SIDE * SCALE
    networks: tuple[str, ...] = ("puller", "vae_decoder")
    optional: tuple[str, ...] = ()
    deferred: tuple[str, ...] = ()
    editing: tuple[str, ...] = ()
    context_shape: None = None


@dataclass(frozen=True)
class ToySampling:
    """steps: of the loop; noise: standard deviation of what each adds."""

    steps: int = 3
    noise: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """See Sampling."""
        return asdict(self)


@dataclass(frozen=True)
class Step:
    """See himar_runtime.runner.StepDone."""

    index: int
    phase: str = "pull"


class NoPreview:
    """See himar_runtime.result.PreviewSource."""

    def low_latents(self) -> Any:
        """See PreviewSource."""
        raise InputError("a toy model has no low-resolution latents.")

    preview = so_far = low_latents


class ToyRunner:
    """The loop."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def run(self, request: Any, should_continue: ShouldContinue | None) -> Generated | None:
        """See Runner."""
        cells = np.tile(np.arange(SIDE * SIDE), (len(request.labels), 1))
        shape = (len(request.labels), CHANNELS, SIDE, SIDE)
        latent = np.zeros(shape, np.float32)
        for index in range(request.sampling.steps):
            noise = request.draws.initial_noise("high", index, request.images, cells, CHANNELS)
            latent += np.float32(request.sampling.noise) * noise.transpose(0, 2, 1).reshape(shape)
            latent = self._networks["puller"].run({"class_row": request.labels, "latent": latent})["pulled"]
            if should_continue is not None and not should_continue(Step(index), NoPreview()):
                return None
        return Generated(latent, decode(self._networks["vae_decoder"], latent))

    def clone(self) -> ToyRunner:
        """See Runner."""
        return ToyRunner(self._networks.clone())


class ToyFamily:
    """See himar_runtime.families.family.RuntimeFamily."""

    changeable = ("steps", "noise")
    editing_advice = ""

    def read_model(self, reader: Reader) -> ToyModel:
        """See RuntimeFamily."""
        return ToyModel(reader.positive("classes"))

    def read_sampling(self, top: Reader) -> dict[str, ToySampling]:
        """See RuntimeFamily."""
        return {name: ToySampling(**entry.values) for name, entry in top.reader("sampling").readers()}

    def sampling_from_dict(self, values: Mapping[str, Any], source: str) -> ToySampling:
        """See RuntimeFamily."""
        return ToySampling(**values)

    def choose_sampling(
        self,
        model: ToyModel,
        named: Mapping[str, ToySampling],
        sampling: Any,
        guidance: Any,
        changes: Mapping[str, Any],
    ) -> ToySampling:
        """See RuntimeFamily."""
        if guidance is not None:
            raise InputError(f"guidance is {guidance}, but a toy model has none; leave it out.")
        chosen = sampling if isinstance(sampling, ToySampling) else named[sampling or "default"]
        return replace(chosen, **{name: value for name, value in changes.items() if value is not None})

    def edit_sampling(self, *arguments: Any) -> ToySampling:
        """See RuntimeFamily."""
        raise InputError("a toy model cannot edit images.")

    def dilation(self, asked: int | None) -> int:
        """See RuntimeFamily."""
        return 0

    def edit_kinds(self, model: ToyModel, edit: Any) -> Sequence[object]:
        """See RuntimeFamily."""
        return [None] * len(edit)

    def draws(self, seed: int) -> PhiloxDraws:
        """See RuntimeFamily."""
        return PhiloxDraws(seed)

    def image_draws(self, seeds: Sequence[int], indices: Sequence[int]) -> ImageDraws:
        """See RuntimeFamily."""
        return ImageDraws(seeds, indices)

    def steps(self, model: ToyModel, sampling: ToySampling, edit: Any = None) -> int:
        """See RuntimeFamily."""
        return sampling.steps

    def shown(self, model: ToyModel, sampling: ToySampling, edit: Any = None) -> range:
        """See RuntimeFamily."""
        return range(0)

    def no_images(self, model: ToyModel) -> Generated:
        """See RuntimeFamily."""
        side = SIDE * SCALE
        return Generated(np.zeros((0, CHANNELS, SIDE, SIDE), np.float32), np.zeros((0, side, side, 3), np.uint8))

    def first_needed(self, manifest: Any) -> tuple[str, ...]:
        """See RuntimeFamily."""
        return ()

    def resident_bytes(self, manifest: Any) -> int:
        """See RuntimeFamily."""
        return 0

    def runner(self, bundle: Bundle, networks: Networks) -> ToyRunner:
        """See RuntimeFamily."""
        return ToyRunner(networks)


FAMILY = ToyFamily()
