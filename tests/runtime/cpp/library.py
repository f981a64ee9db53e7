"""libhimar through its C interface, as a service in another language calls it."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import Draws
from himar_kernels.families.hi_mar import Phase

OK, CANCELLED = 0, 1
PHASES: tuple[Phase, Phase] = ("low", "high")
# What the C interface has enumerations for.
_NUMBERS = {"linear": 1, "constant": 2, "ddpm": 1, "ddim": 2, "dpm++": 3}


class _LoadParams(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("device", ctypes.c_char_p),
        ("backend", ctypes.c_char_p),
        ("threads", ctypes.c_int32),
    )


class _GenerateParams(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("labels", ctypes.POINTER(ctypes.c_int64)),
        ("label_count", ctypes.c_size_t),
        ("seed", ctypes.c_uint64),
        ("first_index", ctypes.c_uint64),
        ("sampling", ctypes.c_char_p),
        ("guidance", ctypes.c_double),
        ("low_guidance", ctypes.c_double),
        ("high_guidance", ctypes.c_double),
        ("temperature", ctypes.c_double),
        ("low_steps", ctypes.c_int32),
        ("high_steps", ctypes.c_int32),
        ("low_diffusion_steps", ctypes.c_int32),
        ("high_diffusion_steps", ctypes.c_int32),
        ("guidance_schedule", ctypes.c_int),
        ("on_step", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("draws", ctypes.c_void_p),
        ("low_solver", ctypes.c_int),
        ("high_solver", ctypes.c_int),
    )


class _NoiseRequest(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("phase", ctypes.c_int),
        ("step", ctypes.c_int32),
        ("k", ctypes.c_int32),
        ("images", ctypes.POINTER(ctypes.c_uint32)),
        ("positions", ctypes.POINTER(ctypes.c_uint32)),
        ("batch", ctypes.c_int64),
        ("position_count", ctypes.c_int64),
        ("channels", ctypes.c_int64),
    )


_Order = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.c_void_p,
)
_Noise = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_NoiseRequest), ctypes.POINTER(ctypes.c_float), ctypes.c_void_p)


class _Draws(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("order", _Order),
        ("noise", _Noise),
        ("user", ctypes.c_void_p),
    )


def _as_c(draws: Draws) -> _Draws:
    """himar_draws that answers from `draws`."""

    def order(phase: int, images: Any, batch: int, positions: int, out: Any, user: Any) -> int:
        of = np.ctypeslib.as_array(images, (batch,)).astype(np.int64)
        np.ctypeslib.as_array(out, (batch, positions))[:] = draws.order(PHASES[phase], positions, of)
        return 1

    def noise(request: Any, out: Any, user: Any) -> int:
        asked = request.contents
        phase, shape = PHASES[asked.phase], (asked.batch, asked.position_count)
        images = np.ctypeslib.as_array(asked.images, shape[:1]).astype(np.int64)
        positions = np.ctypeslib.as_array(asked.positions, shape).astype(np.int64)
        if asked.k < 0:
            drawn = draws.initial_noise(phase, asked.step, images, positions, asked.channels)
        else:
            drawn = draws.noise(phase, asked.step, [asked.k], images, positions, asked.channels)[0]
        np.ctypeslib.as_array(out, (*shape, asked.channels))[:] = drawn
        return 1

    return _Draws(ctypes.sizeof(_Draws), _Order(order), _Noise(noise), None)


@dataclass(frozen=True)
class Images:
    """What a generation of libhimar gave."""

    images: NDArray[np.uint8] | None
    latents: NDArray[np.float32]
    low_latents: NDArray[np.float32]
    recipes: list[str]


class Library:
    """libhimar.so; `generate` loads, generates and frees, and raises RuntimeError with the library's sentence."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.himar_last_error.restype = ctypes.c_char_p

    def generate(self, bundle: Path, labels: Sequence[int], draws: Draws | None = None, **options: Any) -> Images:
        """draws: in place of a seed. options: fields of himar_generate_params, with Python's words for enumerations."""
        call = self._library
        decodes = "vae_decoder" in json.loads((bundle / "manifest.json").read_text())["components"]
        load, params = _LoadParams(), _GenerateParams()
        self._check(call.himar_load_params_init(ctypes.byref(load)))
        self._check(call.himar_generate_params_init(ctypes.byref(params)))
        assert load.struct_size == ctypes.sizeof(load), "himar_load_params has other fields than this test"
        assert params.struct_size == ctypes.sizeof(params), "himar_generate_params has other fields than this test"
        load.threads = 1
        params.labels = (ctypes.c_int64 * len(labels))(*labels)
        params.label_count = len(labels)
        given = None if draws is None else _as_c(draws)
        params.draws = None if given is None else ctypes.addressof(given)
        for name, value in options.items():
            assert name in dict(_GenerateParams._fields_), f"himar_generate_params has no {name}"
            if isinstance(value, str):
                value = value.encode() if name == "sampling" else _NUMBERS[value]
            setattr(params, name, value)
        pipeline, result = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(call.himar_pipeline_load(str(bundle).encode(), ctypes.byref(load), ctypes.byref(pipeline)))
        try:
            self._check(call.himar_pipeline_generate(pipeline, ctypes.byref(params), ctypes.byref(result)))
            return Images(
                self._array(call.himar_result_images, result, ctypes.c_uint8) if decodes else None,
                self._array(call.himar_result_latents, result, ctypes.c_float),
                self._array(call.himar_result_low_latents, result, ctypes.c_float),
                [self._recipe(result, index) for index in range(len(labels))],
            )
        finally:
            call.himar_result_free(result)
            call.himar_pipeline_free(pipeline)

    def previews(self, bundle: Path, labels: Sequence[int], seed: int) -> list[NDArray[np.uint8]]:
        """The preview after every step, uint8 (B, P, P, 3)."""
        seen: list[NDArray[np.uint8]] = []

        def look(progress: int, user: Any) -> int:
            pixels, shape = ctypes.POINTER(ctypes.c_uint8)(), (ctypes.c_int64 * 4)()
            preview = self._library.himar_progress_preview
            self._check(preview(ctypes.c_void_p(progress), ctypes.byref(pixels), shape))
            seen.append(np.ctypeslib.as_array(pixels, tuple(shape)).copy())
            return 1

        on_step = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(look)
        self.generate(bundle, labels, seed=seed, on_step=ctypes.cast(on_step, ctypes.c_void_p))
        return seen

    def _array(self, accessor: Any, result: ctypes.c_void_p, kind: Any) -> NDArray[Any]:
        data, shape = ctypes.POINTER(kind)(), (ctypes.c_int64 * 4)()
        self._check(accessor(result, ctypes.byref(data), shape))
        return np.ctypeslib.as_array(data, tuple(shape)).copy()

    def _recipe(self, result: ctypes.c_void_p, index: int) -> str:
        text = ctypes.c_char_p()
        self._check(self._library.himar_result_recipe(result, ctypes.c_size_t(index), ctypes.byref(text)))
        assert text.value is not None
        return text.value.decode()

    def _check(self, status: int) -> None:
        if status not in (OK, CANCELLED):
            raise RuntimeError(self._library.himar_last_error().decode())
