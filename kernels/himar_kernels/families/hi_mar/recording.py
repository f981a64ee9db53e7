"""Replays recorded runs: their draws and latents, so that two implementations can be compared.

The layout is that of tests/golden/README.md: one .npz holds several cases, each complete in itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.draws import Phase
from himar_kernels.shared.errors import InputError
from himar_kernels.shared.recordings import load_recording

from .sampling import SamplingConfig

Arrays = Mapping[str, NDArray[Any]]

# As many as a phase may have positions; see draws.py.
_MOST_STEPS = 65536


@dataclass(frozen=True)
class RecordedRequest:
    """What a recorded case asked for and what came out.

    labels: int64 (B,), -1 of images from contexts; contexts: float32 (B, K, W), None of labels. low_latent: float32
    (B, C, s, s) and latent: (B, C, h, w), both tokens: the VAE scale is still in; of a single scale s is 0. guidance:
    float32, the scale used in every autoregressive step, low_steps + high_steps of them; of a single scale the high
    ones alone, and `sampling` keeps its defaults for phase low.
    """

    labels: NDArray[np.int64]
    sampling: SamplingConfig
    low_latent: NDArray[np.float32]
    latent: NDArray[np.float32]
    guidance: NDArray[np.float32]
    contexts: NDArray[np.float32] | None = None


class RecordedDraws:
    """Draws that replay one case of a recording. Image i of the request is row i of the recorded batch."""

    def __init__(self, arrays: Arrays, case: str) -> None:
        _check_case(arrays, case)
        self._arrays = arrays
        self._case = case
        self._low_steps = _low_steps(arrays, case)
        self._orders = _integers(arrays, f"{case}/orders", 2)

    @classmethod
    def from_file(cls, path: str | Path, case: str) -> RecordedDraws:
        """Read a .npz recording; InputError when the file or the case is missing."""
        return cls(load_recording(path), case)

    def order(self, phase: Phase, positions: int, images: NDArray[np.int64]) -> NDArray[np.int64]:
        """See Draws.order. Raises InputError when the recorded order has other positions or images."""
        name = f"{self._case}/orders"
        _check_images(name, images, len(self._orders))
        first = 0 if phase == "low" else self._orders.shape[1] - positions
        recorded = self._orders[:, first : first + positions] - first if first >= 0 else self._orders
        if not np.array_equal(np.sort(recorded, axis=1), np.tile(np.arange(positions), (len(recorded), 1))):
            raise InputError(
                f"{name} of shape {self._orders.shape} holds no order of {positions} {phase} positions; "
                f"the recording is of another model."
            )
        return recorded[images]

    def initial_noise(
        self, phase: Phase, step: int, images: NDArray[np.int64], positions: NDArray[np.int64], channels: int
    ) -> NDArray[np.float32]:
        """See Draws.initial_noise. Raises InputError, naming the array, when shapes do not fit."""
        name = self._name(phase, step, "init_noise")
        recorded = _noise(self._arrays, name, 0)[None]
        return self._rows(name, recorded, images, positions, channels)[0]

    def noise(
        self,
        phase: Phase,
        step: int,
        diffusion: Sequence[int],
        images: NDArray[np.int64],
        positions: NDArray[np.int64],
        channels: int,
    ) -> NDArray[np.float32]:
        """See Draws.noise. The recording counts in the order of use: entry j belongs to k = n-1-j."""
        name = self._name(phase, step, "noise")
        recorded = _noise(self._arrays, name, 1)
        used = len(recorded) - 1 - np.asarray(diffusion, np.int64)
        if used.size and not 0 <= used.min() <= used.max() < len(recorded):
            raise InputError(f"{name} holds {len(recorded)} diffusion steps; k = {max(diffusion)} was asked for.")
        return self._rows(name, recorded[used], images, positions, channels)

    def _name(self, phase: Phase, step: int, what: str) -> str:
        overall = step if phase == "low" else step + self._low_steps
        return f"{self._case}/step{overall:03d}/{phase}/{what}"

    def _rows(
        self,
        name: str,
        recorded: NDArray[Any],
        images: NDArray[np.int64],
        positions: NDArray[np.int64],
        channels: int,
    ) -> NDArray[np.float32]:
        """Pick the asked images and positions out of recorded noise: float32 (steps, B, r, C)."""
        steps, batch, revealed = len(recorded), len(self._orders), positions.shape[1]
        _check_images(name, images, batch)
        if recorded.ndim == 3:  # of an MLP head
            if recorded.shape[1:] != (batch * revealed, channels):
                raise InputError(
                    f"{name} has shape {recorded.shape[1:]} per diffusion step; {batch} recorded images that "
                    f"reveal {revealed} positions of {channels} channels need {(batch * revealed, channels)}."
                )
            return recorded.reshape(steps, batch, revealed, channels)[:, images].astype(np.float32, copy=False)
        if recorded.shape[1:3] != (batch, channels):
            raise InputError(
                f"{name} has shape {recorded.shape[1:]} per diffusion step; {batch} recorded images of "
                f"{channels} channels need ({batch}, {channels}, h, w)."
            )
        tokens = recorded.reshape(steps, batch, channels, -1).transpose(0, 1, 3, 2)[:, images]
        if positions.size and not 0 <= positions.min() <= positions.max() < tokens.shape[2]:
            raise InputError(f"{name} holds {tokens.shape[2]} positions; position {positions.max()} was asked for.")
        return np.take_along_axis(tokens, positions[None, :, :, None], axis=2).astype(np.float32, copy=False)


def recorded_cases(arrays: Arrays) -> list[str]:
    """Return the names of the runs that a recording holds; `t` is its components' input, not a run."""
    return sorted(name.removesuffix("/orders") for name in arrays if name.endswith("/orders") and name[:2] != "t/")


def recorded_request(arrays: Arrays, case: str) -> RecordedRequest:
    """Return the request and the results of a case; InputError names the cases present when it is missing."""
    _check_case(arrays, case)
    low_steps, high_steps = _low_steps(arrays, case), _count(arrays, f"{case}/high_steps")
    prefixes = [f"{case}/step{step:03d}/low" for step in range(low_steps)]
    prefixes += [f"{case}/step{low_steps + step:03d}/high" for step in range(high_steps)]
    latent = _array(arrays, f"{case}/latent", 4).astype(np.float32)
    low_latent = np.zeros((*latent.shape[:2], 0, 0), np.float32)
    low: dict[str, Any] = {}
    if low_steps:
        low_latent = _array(arrays, f"{case}/low_latent", 4).astype(np.float32)
        low = {"low_steps": low_steps, **_chain(arrays, case, "low", prefixes[0])}
    sampling = SamplingConfig(
        **low,
        **_chain(arrays, case, "high", prefixes[-1]),
        high_steps=high_steps,
        low_guidance=_number(arrays, f"{case}/low_guidance"),
        high_guidance=_number(arrays, f"{case}/high_guidance"),
        guidance_schedule=str(_array(arrays, f"{case}/guidance_schedule", 0)),  # type: ignore[arg-type]
        temperature=_number(arrays, f"{case}/temperature"),
    )
    if f"{case}/sampling" in arrays:
        sampling = SamplingConfig.from_dict(_settings(arrays, f"{case}/sampling"), f"{case}/sampling")
    contexts: NDArray[np.float32] | None = None
    if f"{case}/contexts" in arrays:
        contexts = _array(arrays, f"{case}/contexts", 3).astype(np.float32)
        labels = np.full(len(contexts), -1)
    else:
        labels = _integers(arrays, f"{case}/labels", 1)
    return RecordedRequest(
        labels=labels,
        contexts=contexts,
        sampling=sampling,
        low_latent=low_latent,
        latent=latent,
        guidance=np.array([_number(arrays, f"{prefix}/guidance") for prefix in prefixes], np.float32),
    )


def _check_case(arrays: Arrays, case: str) -> None:
    cases = recorded_cases(arrays)
    if case not in cases:
        raise InputError(f"the recording has no case {case!r}; it has {', '.join(cases) or 'none'}.")


def _array(arrays: Arrays, name: str, dimensions: int) -> NDArray[Any]:
    if name not in arrays:
        raise InputError(f"the recording lacks the array {name}; record it again.")
    if arrays[name].ndim != dimensions:
        raise InputError(f"{name} has shape {arrays[name].shape}; it must have {dimensions} dimensions.")
    return arrays[name]


def _integers(arrays: Arrays, name: str, dimensions: int) -> NDArray[np.int64]:
    array = _array(arrays, name, dimensions)
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} is of type {array.dtype}; it must hold integers.")
    return array.astype(np.int64)


def _noise(arrays: Arrays, name: str, leading: int) -> NDArray[Any]:
    """Noise of an MLP head, rows (…, B·r, C), or of a DiT head, grids (…, B, C, h, w), after `leading` axes."""
    if name not in arrays or arrays[name].ndim != 4 + leading:
        return _array(arrays, name, 2 + leading)
    return arrays[name]


def _chain(arrays: Arrays, case: str, phase: Phase, prefix: str) -> dict[str, Any]:
    """Solver and length of a phase's chain. One that adds noise is as long as the noise of a step, at `prefix`."""
    if f"{case}/{phase}_solver" not in arrays:
        return {f"{phase}_diffusion_steps": len(_noise(arrays, f"{prefix}/noise", 1))}
    steps = _count(arrays, f"{case}/{phase}_diffusion_steps")
    return {f"{phase}_solver": str(_array(arrays, f"{case}/{phase}_solver", 0)), f"{phase}_diffusion_steps": steps}


def _settings(arrays: Arrays, name: str) -> dict[str, Any]:
    """A case's settings as JSON, where it has some that the arrays beside it do not tell."""
    try:
        settings = json.loads(str(_array(arrays, name, 0)))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise InputError(f"{name} is {str(arrays[name])!r}; it must be a JSON object of sampling settings.")
    return settings


def _low_steps(arrays: Arrays, case: str) -> int:
    """Steps of phase low; 0 where the model has a single scale, which leaves no low latent."""
    name = f"{case}/low_steps"
    single = f"{case}/low_latent" not in arrays and int(_integers(arrays, name, 0)) == 0
    return 0 if single else _count(arrays, name)


def _count(arrays: Arrays, name: str) -> int:
    count = int(_integers(arrays, name, 0))
    if not 1 <= count <= _MOST_STEPS:
        raise InputError(f"{name} is {count}; it must be 1 to {_MOST_STEPS}.")
    return count


def _number(arrays: Arrays, name: str) -> float:
    """The number a person wrote: 2.7, where a float32 array holds 2.7000000477."""
    array = _array(arrays, name, 0)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} is of type {array.dtype}; it must be a number.")
    return float(str(array))


def _check_images(name: str, images: NDArray[np.int64], recorded: int) -> None:
    if images.size and not 0 <= images.min() <= images.max() < recorded:
        raise InputError(f"{name} holds {recorded} images; image {images.max()} was asked for.")
