"""libhimar through its C interface, as a service in another language calls it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OK, CANCELLED = 0, 1


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
    )


@dataclass(frozen=True)
class Images:
    """What a generation of libhimar gave."""

    images: NDArray[np.uint8]
    latents: NDArray[np.float32]
    low_latents: NDArray[np.float32]
    recipes: list[str]


class Library:
    """libhimar.so; `generate` loads, generates and frees, and raises RuntimeError with the library's sentence."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.himar_last_error.restype = ctypes.c_char_p

    def generate(self, bundle: Path, labels: Sequence[int], **options: Any) -> Images:
        """options: fields of himar_generate_params."""
        call = self._library
        load, params = _LoadParams(), _GenerateParams()
        self._check(call.himar_load_params_init(ctypes.byref(load)))
        self._check(call.himar_generate_params_init(ctypes.byref(params)))
        assert load.struct_size == ctypes.sizeof(load), "himar_load_params has other fields than this test"
        assert params.struct_size == ctypes.sizeof(params), "himar_generate_params has other fields than this test"
        load.threads = 1
        params.labels = (ctypes.c_int64 * len(labels))(*labels)
        params.label_count = len(labels)
        for name, value in options.items():
            setattr(params, name, value)
        pipeline, result = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(call.himar_pipeline_load(str(bundle).encode(), ctypes.byref(load), ctypes.byref(pipeline)))
        try:
            self._check(call.himar_pipeline_generate(pipeline, ctypes.byref(params), ctypes.byref(result)))
            return Images(
                self._array(call.himar_result_images, result, ctypes.c_uint8),
                self._array(call.himar_result_latents, result, ctypes.c_float),
                self._array(call.himar_result_low_latents, result, ctypes.c_float),
                [self._recipe(result, index) for index in range(len(labels))],
            )
        finally:
            call.himar_result_free(result)
            call.himar_pipeline_free(pipeline)

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
