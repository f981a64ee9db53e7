"""Recorded runs: a run's draws, codes and latents, replayed so that two implementations can be compared.

The layout is that of tests/golden/README.md: one .npz holds several cases, each with its labels and every forward. How
a case was sampled stands in the .npz (`{case}/guidance`, `top_k`, `top_p`, `all_scales`), or in the .json of the same
name, or is read off what the run did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels.shared.errors import ConfigError, InputError
from himar_kernels.shared.recordings import load_recording as read_arrays

from .inferred_settings import infer_settings
from .sampling import SamplingConfig, recorded_settings

Arrays = Mapping[str, NDArray[Any]]

_SETTINGS = tuple(field.name for field in fields(SamplingConfig) if field.name != "schedule")


@dataclass(frozen=True)
class RecordedForward:
    """One forward of a recorded run: its place, the codes drawn at all cells, those masked, the map after it.

    drawn, codes: int64 (B, T); None in a smooth run. confidence: float32 (B, T). masked: bool (B, T), None where the
    next-scale network ran. keep: bool (B, T, V), the codes that survived the filter. x, cond, uncond, logits: float32
    arrays of the recording, None where it has none; logits may be of the first images alone.
    """

    scale: int
    step: int
    keep: NDArray[np.bool_] | None
    drawn: NDArray[np.int64] | None
    confidence: NDArray[np.float32] | None
    masked: NDArray[np.bool_] | None
    codes: NDArray[np.int64] | None
    x: NDArray[np.float32] | None
    cond: NDArray[np.float32] | None
    uncond: NDArray[np.float32] | None
    logits: NDArray[np.float32] | None

    @property
    def cells(self) -> int:
        """T, the cells of its scale."""
        known = self.drawn if self.drawn is not None else self.logits
        if known is None:
            raise InputError(f"the recorded forward of scale {self.scale} holds neither codes nor logits.")
        return known.shape[1]


@dataclass(frozen=True)
class RecordedRequest:
    """What a recorded case asked for and what came out.

    labels: int64 (B,). f_hat: float32 (b, Cv, H, H) after each scale, b ≤ B images; image: float32 (3, 16H, 16H) in
    [0, 1] of image 0, or None.
    """

    labels: NDArray[np.int64]
    sampling: SamplingConfig
    forwards: tuple[RecordedForward, ...]
    f_hat: tuple[NDArray[np.float32], ...]
    image: NDArray[np.float32] | None

    @property
    def codes(self) -> NDArray[np.int64]:
        """Final codes (B, L) of all scales. Raises InputError for a smooth run, which has none."""
        last = {forward.scale: forward.codes for forward in self.forwards}
        if any(codes is None for codes in last.values()):
            raise InputError("the recorded run is a smooth preview, which draws no codes.")
        return np.concatenate([codes for codes in last.values() if codes is not None], axis=1)


class RecordedDraws:
    """Draws that replay one case of a recording. Image i of the request is row i of the recorded batch."""

    def __init__(self, arrays: Arrays, case: str) -> None:
        self._draws = {
            (int(arrays[f"{name}/scale"]), int(arrays.get(f"{name}/step", np.array(0)))): name
            for name in _forwards(arrays, case)
        }
        self._arrays = arrays
        self._case = case

    @classmethod
    def from_file(cls, path: str | Path, case: str) -> RecordedDraws:
        """Read a .npz recording; InputError when the file or the case is missing."""
        return cls(load_recording(path), case)

    def uniforms(self, scale: int, step: int, images: NDArray[np.int64], cells: int) -> NDArray[np.float32]:
        """See Draws.uniforms. Raises InputError, naming the array, when the recording has no such draws."""
        drawn = self._rows("uniform", scale, step, images, (cells,))
        if drawn.size and not 0 <= drawn.min() <= drawn.max() < 1:
            raise InputError(
                f"{self._case} holds uniforms from {drawn.min()} to {drawn.max()}; they must be in [0, 1)."
            )
        return drawn

    def gumbel(self, scale: int, images: NDArray[np.int64], cells: int, codes: int) -> NDArray[np.float32]:
        """See Draws.gumbel. Raises InputError, naming the array, when the recording has no such draws."""
        return self._rows("gumbel", scale, 0, images, (cells, codes))

    def _rows(
        self, what: str, scale: int, step: int, images: NDArray[np.int64], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        if (scale, step) not in self._draws:
            raise InputError(
                f"{self._case} has no forward of scale {scale}, step {step}; replay it with its own schedule."
            )
        name = f"{self._draws[scale, step]}/{what}"
        recorded = _array(self._arrays, name, 1 + len(shape))
        if recorded.shape[1:] != shape:
            raise InputError(f"{name} has shape {recorded.shape} of images, but {shape} is asked of each image.")
        if images.size and not 0 <= images.min() <= images.max() < len(recorded):
            raise InputError(f"{name} holds {len(recorded)} images; image {images.max()} was asked.")
        return recorded[images].astype(np.float32)


def load_recording(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read every array of a .npz recording, and from a .json beside it the settings of its cases.

    Raises InputError when the .npz is no such file; a .json that says nothing of sampling is passed over.
    """
    arrays = read_arrays(path)
    for case, settings in _beside(Path(path).with_suffix(".json")).items():
        for name in _SETTINGS:
            if name in settings:
                arrays.setdefault(f"{case}/{name}", np.array(settings[name]))
    return arrays


def recorded_cases(arrays: Arrays) -> list[str]:
    """Return the names of the runs that a recording holds."""
    return sorted(name.removesuffix("/forward00/scale") for name in arrays if name.endswith("/forward00/scale"))


def recorded_request(arrays: Arrays, case: str) -> RecordedRequest:
    """Return the request and the results of a case; InputError names the cases present when it is missing."""
    forwards = tuple(_forward(arrays, name) for name in _forwards(arrays, case))
    labels = _array(arrays, f"{case}/labels", 1)
    if labels.dtype.kind not in "iu":
        raise InputError(f"{case}/labels is of type {labels.dtype}; it must hold integers.")
    scales = 1 + max(forward.scale for forward in forwards)
    return RecordedRequest(
        labels=labels.astype(np.int64),
        sampling=_sampling(arrays, case, forwards),
        forwards=forwards,
        f_hat=tuple(_array(arrays, f"{case}/f_hat{scale:02d}", 4) for scale in range(scales)),
        image=_array(arrays, f"{case}/image_row0", 3) if f"{case}/image_row0" in arrays else None,
    )


def recorded_samples(request: RecordedRequest) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Return the codes drawn in each forward by (scale, step), for a replay that forces them."""
    return {(each.scale, each.step): each.drawn for each in request.forwards if each.drawn is not None}


def recorded_masks(request: RecordedRequest) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """Return the cells that each masked forward redrew by (scale, step), for a replay that forces them."""
    return {(each.scale, each.step): each.masked for each in request.forwards if each.masked is not None}


def _forward(arrays: Arrays, name: str) -> RecordedForward:
    def optional(what: str, dimensions: int) -> Any:
        return _array(arrays, f"{name}/{what}", dimensions) if f"{name}/{what}" in arrays else None

    logits, keep, masked = optional("logits", 3), optional("keep", 3), optional("masked", 2)
    drawn, codes = optional("sample", 2), optional("codes", 2)
    if keep is not None and logits is not None:
        keep = np.unpackbits(keep, axis=-1, count=logits.shape[-1]).astype(np.bool_)
    return RecordedForward(
        scale=int(arrays[f"{name}/scale"]),
        step=int(arrays.get(f"{name}/step", np.array(0))),
        keep=keep,
        drawn=None if drawn is None else drawn.astype(np.int64),
        confidence=optional("confidence", 2),
        masked=None if masked is None else masked.astype(np.bool_),
        codes=None if codes is None else codes.astype(np.int64),
        x=optional("x", 3),
        cond=optional("cond", 3),
        uncond=optional("uncond", 3),
        logits=logits,
    )


def _sampling(arrays: Arrays, case: str, forwards: Sequence[RecordedForward]) -> SamplingConfig:
    """Settings as they stand in the arrays; what is not said there follows from what the run did."""
    said = {name: arrays[f"{case}/{name}"].item() for name in _SETTINGS if f"{case}/{name}" in arrays}
    found = infer_settings(case, forwards, missing=[name for name in _SETTINGS if name not in said])
    try:
        return SamplingConfig.from_dict({**found, **recorded_settings(said)}, f"recorded case {case!r}")
    except ConfigError as error:
        raise InputError(str(error)) from error


def _beside(path: Path) -> dict[str, dict[str, Any]]:
    """Settings by case of a recording's .json, {} where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    cases = dict(values.get("sampling") or {}) if isinstance(values, dict) else {}
    if isinstance(values, dict) and isinstance(values.get("smooth"), dict):
        cases["smooth"] = {**values["smooth"], "smooth": True}
    return {case: recorded_settings(settings) for case, settings in cases.items() if isinstance(settings, dict)}


def _forwards(arrays: Arrays, case: str) -> list[str]:
    """Names of a case's forwards, in order. Raises InputError when the case is missing."""
    cases = recorded_cases(arrays)
    if case not in cases:
        raise InputError(f"the recording has no case {case!r}; it has {', '.join(cases) or 'none'}.")
    prefix = f"{case}/forward"
    names = {name.rpartition("/")[0] for name in arrays if name.startswith(prefix) and name.endswith("/scale")}
    return sorted(names, key=lambda name: int(name.removeprefix(prefix)))


def _array(arrays: Arrays, name: str, dimensions: int) -> NDArray[Any]:
    if name not in arrays:
        raise InputError(f"the recording lacks the array {name}; record it again.")
    if arrays[name].ndim != dimensions:
        raise InputError(f"{name} has shape {arrays[name].shape}; it must have {dimensions} dimensions.")
    return arrays[name]
