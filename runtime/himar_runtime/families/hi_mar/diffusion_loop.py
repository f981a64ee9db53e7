"""The diffusion loops of both kinds of heads: from an autoregressive step's condition to tokens (docs/model.md §5).

The condition is bound once per autoregressive step, and again where another number of halves runs; only the state and
the timestep travel per diffusion step. State, guidance and updates are float32 on the host whatever the engines'
precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from himar_kernels.families.hi_mar import (
    AnyChain,
    Evaluations,
    Predictions,
    Sites,
    Step,
    dit_head_step,
    mlp_head_step,
    renoise_known,
)
from himar_kernels.shared.errors import not_finite
from himar_runtime.engines.engine import Engine, Tensor


def sample_revealed(
    engine: Engine,
    chain: AnyChain,
    evaluations: Evaluations,
    sites: Sites,
    condition: NDArray[np.float32],
    temperature: float,
) -> NDArray[np.float32]:
    """Sample the tokens of the revealed positions, one by one, with an MLP head.

    Args:
        condition: (H·B·r, W), H = 2 halves [conditional; unconditional] under guidance, else 1.

    Returns: tokens (B, r, C). Raises EngineError when they are not finite.
    """
    shape = (*sites.positions.shape, sites.channels)
    head = _Head(engine, chain, evaluations, sites, condition)
    x = sites.initial_noise().reshape(-1, sites.channels)
    start: NDArray[np.float32] | None = None
    for k, noise in sites.down(chain):
        prediction, guidance = head.predict(k, x)
        noise = None if noise is None else noise.reshape(x.shape)
        x, start = mlp_head_step(chain, k, x, prediction, guidance, noise, temperature, start)
    require_finite(x, engine.spec.name, sites.step)
    return x.reshape(shape)


@dataclass(frozen=True)
class HeldHead:
    """A DiT head in two parts: modulations gives what the norms of held take, as outputs and inputs of the same names.

    The first takes timestep and condition, the second x; together they give what the head gives.
    """

    modulations: Engine
    held: Engine


def sample_all(
    engine: Engine | HeldHead,
    chain: AnyChain,
    evaluations: Evaluations,
    sites: Sites,
    condition: Tensor,
    tokens: NDArray[np.float32],
    known: NDArray[np.bool_],
    temperature: float,
) -> NDArray[np.float32]:
    """Denoise all n positions of a phase with a DiT head; known ones follow their tokens (B, n, C).

    Args:
        engine: of the head; its two parts where its modulations are held.
        condition: (H·B, n, W), H = 2 halves under guidance, else 1; may stay on the device.
        known: bool (B, n), True where the token is fixed.

    Returns: tokens (B, n, C), the known ones unchanged. Raises EngineError when they are not finite.
    """
    kind = _HeldHead if isinstance(engine, HeldHead) else _Head
    head = kind(engine, chain, evaluations, sites, condition)  # type: ignore[arg-type]
    initial = sites.initial_noise()
    x = initial
    start: NDArray[np.float32] | None = None
    for k, noise in sites.down(chain):
        if head.halves[k]:  # nothing else reads what known positions hold
            x = renoise_known(chain, k, x, tokens, initial, known)
        prediction, guidance = head.predict(k, x)
        x, start = dit_head_step(chain, k, x, prediction, guidance, noise, temperature, start)
    require_finite(x, head.name, sites.step)
    return np.where(known[..., None], tokens, x)


def require_finite(values: NDArray[np.float32], component: str, step: Step) -> None:
    """Raise EngineError, naming the component, the phase and the step, unless every value is finite."""
    if not np.isfinite(values).all():
        raise not_finite(component, f" in phase {step.phase}, step {step.index}")


class _Head:
    """An engine down one chain, run where the settings ask for it: see `Evaluations.halves`."""

    def __init__(
        self, engine: Engine, chain: AnyChain, evaluations: Evaluations, sites: Sites, condition: Tensor
    ) -> None:
        self._engine = engine
        self.name = engine.spec.name
        self._timesteps = chain.timesteps
        self._condition = condition
        self._rows = condition.shape[0] // sites.step.halves
        self._bound = 0
        self._predictions = Predictions(evaluations, sites.step.guidance, sites.channels)
        self.halves = evaluations.halves(len(chain), sites.step.halves)

    def predict(self, k: int, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """Return the prediction at k of the state x (rows, …, C), and the guidance still to be applied to it."""
        halves, prediction = self.halves[k], None
        if halves:
            rows = np.concatenate([x] * halves)  # both halves see the same state
            prediction = self._run(k, rows, halves)
        return self._predictions.at(k, prediction, self._rows)

    def _run(self, k: int, rows: NDArray[np.float32], halves: int) -> NDArray[np.float32]:
        """Evaluate the head at k for so many halves, whose rows of the state are given."""
        if halves != self._bound:
            self._engine.bind({"condition": self._of_halves(self._condition, halves)})
            self._bound = halves
        return self._engine.run({"x": rows, "timestep": self._timesteps[k : k + 1]})["prediction"]

    def _of_halves(self, tensor: Tensor, halves: int) -> Tensor:
        """Return the first rows of a tensor of all halves, as it is where those are all."""
        rows = halves * self._rows
        if rows == tensor.shape[0]:
            return tensor
        return (tensor if isinstance(tensor, np.ndarray) else tensor.numpy())[:rows]


class _HeldHead(_Head):
    """A DiT head in two parts, whose modulations are made where `Evaluations.modulated` says and held in between.

    They stay where the first part leaves them, and the second takes them from there.
    """

    def __init__(
        self, parts: HeldHead, chain: AnyChain, evaluations: Evaluations, sites: Sites, condition: Tensor
    ) -> None:
        super().__init__(parts.held, chain, evaluations, sites, condition)
        self._maker = parts.modulations
        self._timesteps = evaluations.held_timesteps(chain.timesteps, self.halves)
        self._modulated = evaluations.modulated(self.halves)
        self._made: Mapping[str, Tensor] = {}
        self._conditions = 0

    def _run(self, k: int, rows: NDArray[np.float32], halves: int) -> NDArray[np.float32]:
        if made := self._modulated[k]:
            if made != self._conditions:
                self._maker.bind({"condition": self._of_halves(self._condition, made)})
                self._conditions = made
            self._made = self._maker.run_on_device({"timestep": self._timesteps[k : k + 1]})
        if made or halves != self._bound:
            self._engine.bind({name: self._of_halves(tensor, halves) for name, tensor in self._made.items()})
            self._bound = halves
        return self._engine.run({"x": rows})["prediction"]
