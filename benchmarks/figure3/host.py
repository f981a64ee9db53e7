"""Times what a generation takes besides its networks: the same loops around networks that answer at once.

Whole generations of a large model take hours on a few cores. Their time is that of their networks' calls, which are
few shapes and can be timed one by one, and that of everything between them, which is timed here at the real settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from himar.families.hi_mar.model import HiMAR
from himar.vae.autoencoder import AutoencoderKL
from himar_export.bench.eager import shared_copy
from himar_export.bench.generation import run_engines
from himar_export.bench.measurement import EAGER, ENGINES
from himar_export.bench.timing import seconds_of
from himar_export.bench.workload import Workload
from himar_export.families.hi_mar.bench.eager import Networks as EagerNetworks
from himar_export.families.hi_mar.bench.eager import run_eager
from himar_export.families.hi_mar.phases import condition_width, model_info, phase_head
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.phases import VAE_DECODER, ModelInfo, PhaseInfo
from himar_runtime import ComponentSpec, Networks, Pipeline
from himar_runtime.engines.engine import DeviceArray, Engine, Tensor
from himar_runtime.families.hi_mar.family import hi_mar_model


@dataclass(frozen=True)
class Call:
    """The shape of one call of a network, all that its time depends on.

    rows: of a transformer or a DiT head, samples of an MLP head, images of the decoder. known: visible positions of a
    transformer's phase; 0 for other components.
    """

    component: str
    rows: int
    known: int = 0


OnCall = Callable[[Call], object]


def host_seconds(workload: Workload, sampling: SamplingConfig, batch: int) -> dict[str, float]:
    """Return the seconds of a generation outside its networks on both sides, on a CPU.

    Draws, reverse steps, index lists and the packing to pixels; numbers are zeros, which cost what others do.
    """
    labels = workload.shown(batch)
    eager = idle_eager(workload.model, workload.vae)
    pipeline = Pipeline(workload.bundle, idle_engines(workload.networks, hi_mar_model(workload.bundle.manifest)))
    return {
        EAGER: seconds_of(lambda: run_eager(eager, labels, sampling)),
        ENGINES: seconds_of(lambda: run_engines(pipeline, labels, sampling)),
    }


def idle_engines(networks: Networks, model: ModelInfo, on_call: OnCall = lambda call: None) -> Networks:
    """Return engines in host memory that give zeros of the right shapes at once, and say how they are called."""
    return Networks({name: IdleEngine(engine.spec, model, on_call) for name, engine in networks.engines.items()})


class IdleEngine:
    """An engine that reads its inputs' shapes alone and gives zeros of its outputs'."""

    def __init__(self, spec: ComponentSpec, sizes: ModelInfo, on_call: OnCall) -> None:
        self._spec = spec
        self._model = sizes
        self._on_call = on_call
        self._bound: dict[str, Tensor] = {}
        self._zeros: dict[tuple[int, ...], NDArray[np.float32]] = {}

    @property
    def spec(self) -> ComponentSpec:
        """See Engine.spec."""
        return self._spec

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """See Engine.bind."""
        self._bound = dict(inputs)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """See Engine.run."""
        given = {**self._bound, **inputs}
        first = given[self._spec.inputs[0].name].shape
        known = 0
        if "visible" in given:
            known = given["visible"].shape[1] - self._model.buffer
            known -= given["pivots"].shape[1] if "pivots" in given else 0
        self._on_call(Call(self._spec.name, first[0], known))
        axes = {str(self._spec.inputs[0].shape[0]): first[0]}
        if self._spec.name == VAE_DECODER:
            stride = self._model.vae_stride
            axes |= {"image_height": first[2] * stride, "image_width": first[3] * stride}
        return {
            output.name: self._zero(tuple(axes[size] if isinstance(size, str) else size for size in output.shape))
            for output in self._spec.outputs
        }

    def run_on_device(self, inputs: Mapping[str, Tensor]) -> Mapping[str, DeviceArray]:
        """See Engine.run_on_device."""
        return {name: HostArray(values) for name, values in self.run(inputs).items()}

    def clone(self, lane: Any = None) -> Engine:
        """See Engine.clone."""
        return IdleEngine(self._spec, self._model, self._on_call)

    def _zero(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if shape not in self._zeros:
            self._zeros[shape] = np.zeros(shape, np.float32)
        return self._zeros[shape]


@dataclass(frozen=True)
class HostArray:
    """An output in host memory; see DeviceArray."""

    values: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, ...]:
        """See DeviceArray.shape."""
        return self.values.shape

    def numpy(self) -> NDArray[Any]:
        """See DeviceArray.numpy; a copy, as engines give."""
        return self.values.copy()


def idle_eager(model: HiMAR, vae: AutoencoderKL | None, on_call: OnCall = lambda call: None) -> EagerNetworks:
    """Return copies of the eager networks that do the same as `idle_engines`."""
    model, info = shared_copy(model), model_info(model.config)
    for phase in info.phases:
        _idle_phase(model, phase, info, on_call)
    if vae is not None:
        vae = shared_copy(vae)

        def decode(latent: torch.Tensor) -> torch.Tensor:
            on_call(Call(VAE_DECODER, len(latent)))
            return torch.zeros(len(latent), 3, *(info.vae_stride * size for size in latent.shape[2:]))

        vae.decode = decode  # type: ignore[method-assign]
    return model, vae


def _idle_phase(model: HiMAR, phase: PhaseInfo, info: ModelInfo, on_call: OnCall) -> None:
    """Put a transformer and a head that answer at once in the place of a phase's own."""
    head = phase_head(model, phase.name)
    width = condition_width(head)

    def encode(class_row: torch.Tensor, *inputs: torch.Tensor | None) -> torch.Tensor:
        known = inputs[-1]
        assert known is not None  # the last input says what is visible
        on_call(Call(phase.transformer, len(class_row), int(known[0].sum())))
        return torch.zeros(len(class_row), info.positions, info.width)

    def denoise(x: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        on_call(Call(phase.head, len(x)))
        return torch.zeros(*x.shape[:-1], x.shape[-1] * (2 if phase.kind == "mlp" else 1))

    setattr(model, f"transformer_{phase.name}", encode)
    head.condition = lambda z: z.new_zeros(*z.shape[:-1], width)  # type: ignore[method-assign]
    head.denoise = denoise  # type: ignore[method-assign,assignment]
