"""libhimar through its C interface, as a service in another language calls it."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OK, CANCELLED = 0, 1
INTERFACE = 2
# What the C interface has enumerations for.
_NUMBERS: dict[Any, int] = {"linear": 1, "constant": 2, "ddpm": 1, "ddim": 2, "dpm++": 3}
_SWITCHES = {False: 1, True: 2}


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
        ("hi_mar", ctypes.c_void_p),
        ("on_step", ctypes.c_void_p),
        ("user", ctypes.c_void_p),
        ("draws", ctypes.c_void_p),
        ("hmar", ctypes.c_void_p),
        ("prompts", ctypes.POINTER(ctypes.c_char_p)),
        ("prompt_count", ctypes.c_size_t),
        ("contexts", ctypes.c_void_p),
        ("context_count", ctypes.c_size_t),
        ("seeds", ctypes.POINTER(ctypes.c_uint64)),
        ("seed_count", ctypes.c_size_t),
        ("indices", ctypes.POINTER(ctypes.c_uint32)),
        ("index_count", ctypes.c_size_t),
    )


class _EditParams(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("images", ctypes.POINTER(ctypes.c_uint8)),
        ("image_shape", ctypes.c_int64 * 4),
        ("masks", ctypes.POINTER(ctypes.c_uint8)),
        ("mask_shape", ctypes.c_int64 * 3),
        ("dilation", ctypes.c_int64),
        ("feather", ctypes.c_int64),
    )


class _HiMarSettings(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("guidance", ctypes.c_double),
        ("low_guidance", ctypes.c_double),
        ("high_guidance", ctypes.c_double),
        ("temperature", ctypes.c_double),
        ("low_steps", ctypes.c_int32),
        ("high_steps", ctypes.c_int32),
        ("low_diffusion_steps", ctypes.c_int32),
        ("high_diffusion_steps", ctypes.c_int32),
        ("guidance_schedule", ctypes.c_int),
        ("low_solver", ctypes.c_int),
        ("high_solver", ctypes.c_int),
        ("low_diffusion_counts", ctypes.c_char_p),
        ("high_diffusion_counts", ctypes.c_char_p),
        ("low_guidances", ctypes.c_char_p),
        ("high_guidances", ctypes.c_char_p),
        ("least_guidance", ctypes.c_double),
        ("low_forecast", ctypes.c_int32),
        ("high_forecast", ctypes.c_int32),
        ("forecast_order", ctypes.c_int32),
        ("forecast_first", ctypes.c_int32),
        ("forecast_last", ctypes.c_int32),
        ("guidance_interval", ctypes.c_int32),
        ("modulation_interval", ctypes.c_int32),
    )


class _HmarSettings(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("guidance", ctypes.c_double),
        ("top_p", ctypes.c_double),
        ("mask_guidance", ctypes.c_double),
        ("schedule", ctypes.c_char_p),
        ("top_k", ctypes.c_int32),
        ("all_scales", ctypes.c_int),
        ("smooth", ctypes.c_int),
    )


class _OrderRequest(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("stage", ctypes.c_int32),
        ("stage_name", ctypes.c_char_p),
        ("images", ctypes.POINTER(ctypes.c_uint32)),
        ("batch", ctypes.c_int64),
        ("positions", ctypes.c_int64),
    )


class _NoiseRequest(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("stage", ctypes.c_int32),
        ("step", ctypes.c_int32),
        ("stage_name", ctypes.c_char_p),
        ("k", ctypes.c_int32),
        ("images", ctypes.POINTER(ctypes.c_uint32)),
        ("positions", ctypes.POINTER(ctypes.c_uint32)),
        ("batch", ctypes.c_int64),
        ("position_count", ctypes.c_int64),
        ("channels", ctypes.c_int64),
    )


class _CodeRequest(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("scale", ctypes.c_int32),
        ("step", ctypes.c_int32),
        ("images", ctypes.POINTER(ctypes.c_uint32)),
        ("batch", ctypes.c_int64),
        ("cells", ctypes.c_int64),
        ("codes", ctypes.c_int64),
    )


class _Progress(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("stage", ctypes.c_int32),
        ("step", ctypes.c_int32),
        ("stage_name", ctypes.c_char_p),
        ("done", ctypes.c_int64),
        ("total", ctypes.c_int64),
        ("images", ctypes.c_int64),
        ("preview_latents", ctypes.c_void_p),
        ("preview_shape", ctypes.c_int64 * 4),
        ("internal", ctypes.c_void_p),
        ("stage_steps", ctypes.c_int64),
    )


_OnStep = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Progress), ctypes.c_void_p)
_Order = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_OrderRequest), ctypes.POINTER(ctypes.c_int64), ctypes.c_void_p)
_Noise = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_NoiseRequest), ctypes.POINTER(ctypes.c_float), ctypes.c_void_p)
_Codes = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_CodeRequest), ctypes.POINTER(ctypes.c_float), ctypes.c_void_p)


class _Draws(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t),
        ("order", _Order),
        ("noise", _Noise),
        ("user", ctypes.c_void_p),
        ("uniforms", _Codes),
        ("gumbel", _Codes),
    )


def _as_c(draws: Any) -> _Draws:
    """himar_draws that answers from `draws`, of either family."""

    def order(request: Any, out: Any, user: Any) -> int:
        asked = request.contents
        images = np.ctypeslib.as_array(asked.images, (asked.batch,)).astype(np.int64)
        drawn = draws.order(asked.stage_name.decode(), asked.positions, images)
        np.ctypeslib.as_array(out, (asked.batch, asked.positions))[:] = drawn
        return 1

    def noise(request: Any, out: Any, user: Any) -> int:
        asked = request.contents
        phase, shape = asked.stage_name.decode(), (asked.batch, asked.position_count)
        images = np.ctypeslib.as_array(asked.images, shape[:1]).astype(np.int64)
        positions = np.ctypeslib.as_array(asked.positions, shape).astype(np.int64)
        if asked.k < 0:
            drawn = draws.initial_noise(phase, asked.step, images, positions, asked.channels)
        else:
            drawn = draws.noise(phase, asked.step, [asked.k], images, positions, asked.channels)[0]
        np.ctypeslib.as_array(out, (*shape, asked.channels))[:] = drawn
        return 1

    def uniforms(request: Any, out: Any, user: Any) -> int:
        asked = request.contents
        images = np.ctypeslib.as_array(asked.images, (asked.batch,)).astype(np.int64)
        drawn = draws.uniforms(asked.scale, asked.step, images, asked.cells)
        np.ctypeslib.as_array(out, (asked.batch, asked.cells))[:] = drawn
        return 1

    def gumbel(request: Any, out: Any, user: Any) -> int:
        asked = request.contents
        images = np.ctypeslib.as_array(asked.images, (asked.batch,)).astype(np.int64)
        drawn = draws.gumbel(asked.scale, images, asked.cells, asked.codes)
        np.ctypeslib.as_array(out, (asked.batch, asked.cells, asked.codes))[:] = drawn
        return 1

    functions = _Order(order), _Noise(noise), None, _Codes(uniforms), _Codes(gumbel)
    return _Draws(ctypes.sizeof(_Draws), *functions)


@dataclass(frozen=True)
class Images:
    """What a generation of libhimar gave: low_latents of a hi_mar model, codes of an hmar model."""

    images: NDArray[np.uint8] | None
    latents: NDArray[np.float32]
    low_latents: NDArray[np.float32] | None
    codes: NDArray[np.int64] | None
    labels: list[int]
    recipes: list[str]
    truncated: list[int]
    stage_seconds: list[float]


class Library:
    """libhimar.so; `generate` loads, generates and frees, and raises RuntimeError with the library's sentence."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.himar_last_error.restype = ctypes.c_char_p
        assert self._library.himar_interface_version() == INTERFACE
        self._on_step: Any = None
        self._thrown: list[Exception] = []

    def edit(
        self,
        bundle: Path,
        images: NDArray[np.uint8],
        masks: NDArray[Any],
        labels: Sequence[int] = (),
        dilation: int = 0,
        feather: int = 0,
        **options: Any,
    ) -> Images:
        """Load, edit images (B, H, W, 3) under masks (B or 1, h, w), and free; without labels without a class."""
        edit = _EditParams()
        self._check(self._library.himar_edit_params_init(ctypes.byref(edit)))
        assert edit.struct_size == ctypes.sizeof(edit), "himar_edit_params has other fields than this test"
        marked = np.ascontiguousarray(masks).astype(np.uint8)
        edit.images, edit.masks = (array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)) for array in (images, marked))
        edit.image_shape[:], edit.mask_shape[:] = images.shape, marked.shape
        edit.dilation, edit.feather = dilation, feather
        return self.generate(bundle, labels, edit=edit, **options)

    def generate(
        self,
        bundle: Path,
        labels: Sequence[int] = (),
        draws: Any = None,
        threads: int = 1,
        prompts: Sequence[str] | None = None,
        contexts: NDArray[np.float32] | None = None,
        seeds: Sequence[int] = (),
        indices: Sequence[int] = (),
        edit: _EditParams | None = None,
        **options: Any,
    ) -> Images:
        """Load, generate or edit, and free.

        draws: instead of a seed. seeds, indices: one for each image, instead of a seed and first_index. prompts,
        contexts (B, K, W): instead of labels. options: fields of himar_generate_params or of the settings of either
        family, with Python's values for enumerations and lists.
        """
        call = self._library
        manifest = json.loads((bundle / "manifest.json").read_text())
        decodes = "vae_decoder" in manifest["components"]
        hmar = manifest["model"].get("family") == "hmar"
        load, params, other, settings = _LoadParams(), _GenerateParams(), _HmarSettings(), _HiMarSettings()
        self._check(call.himar_load_params_init(ctypes.byref(load)))
        self._check(call.himar_generate_params_init(ctypes.byref(params)))
        self._check(call.himar_hi_mar_settings_init(ctypes.byref(settings)))
        self._check(call.himar_hmar_settings_init(ctypes.byref(other)))
        assert settings.struct_size == ctypes.sizeof(settings), "himar_hi_mar_settings has other fields than this test"
        assert other.struct_size == ctypes.sizeof(other), "himar_hmar_settings has other fields than this test"
        assert load.struct_size == ctypes.sizeof(load), "himar_load_params has other fields than this test"
        assert params.struct_size == ctypes.sizeof(params), "himar_generate_params has other fields than this test"
        load.threads = threads
        params.labels = (ctypes.c_int64 * len(labels))(*labels)
        params.label_count = len(labels)
        if prompts is not None:
            params.prompts = (ctypes.c_char_p * len(prompts))(*(prompt.encode() for prompt in prompts))
            params.prompt_count = len(prompts)
        if contexts is not None:
            params.contexts, params.context_count = contexts.ctypes.data, len(contexts)
        if seeds:
            params.seeds, params.seed_count = (ctypes.c_uint64 * len(seeds))(*seeds), len(seeds)
        if indices:
            params.indices, params.index_count = (ctypes.c_uint32 * len(indices))(*indices), len(indices)
        count = len(labels) + params.prompt_count + params.context_count
        given = None if draws is None else _as_c(draws)
        params.draws = None if given is None else ctypes.addressof(given)
        params.hi_mar, params.hmar = ctypes.addressof(settings), ctypes.addressof(other)
        for name, value in options.items():
            structs = (params, other, settings) if hmar else (params, settings, other)  # both families have guidance
            struct = next(each for each in structs if name in dict(each._fields_))
            if name == "schedule" or isinstance(value, list | tuple):
                value = json.dumps(value).encode()
            elif isinstance(value, str):
                value = value.encode() if name == "sampling" else _NUMBERS[value]
            elif isinstance(value, bool):
                value = _SWITCHES[value]
            setattr(struct, name, value)
        pipeline, result = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(call.himar_pipeline_load(str(bundle).encode(), ctypes.byref(load), ctypes.byref(pipeline)))
        try:
            if edit is None:
                self._check(call.himar_pipeline_generate(pipeline, ctypes.byref(params), ctypes.byref(result)))
            else:
                arguments = ctypes.byref(params), ctypes.byref(edit), ctypes.byref(result)
                self._check(call.himar_pipeline_edit(pipeline, *arguments))
            if self._thrown:
                raise self._thrown.pop()
            return Images(
                self._array(call.himar_result_images, result, ctypes.c_uint8) if decodes else None,
                self._array(call.himar_result_latents, result, ctypes.c_float),
                None if hmar else self._array(call.himar_result_low_latents, result, ctypes.c_float),
                self._array(call.himar_result_codes, result, ctypes.c_int64, 2) if hmar else None,
                made := self._labels(result),
                [self._recipe(result, index) for index in range(len(made) or count)],
                self._truncated(result),
                self._stage_seconds(result),
            )
        finally:
            call.himar_result_free(result)
            call.himar_pipeline_free(pipeline)

    def callback(self, look: Callable[[_Progress], bool | None]) -> ctypes.c_void_p:
        """What `generate` takes as on_step: it hands over a copy of the progress, and raises what `look` raised."""

        def on_step(progress: Any, user: Any) -> int:
            try:
                return 0 if look(_Progress.from_buffer_copy(progress.contents)) is False else 1
            except Exception as error:
                self._thrown.append(error)
                return 0

        self._on_step = _OnStep(on_step)  # lives as long as it may be called
        return ctypes.cast(self._on_step, ctypes.c_void_p)

    def classes(self, bundle: Path, texts: Sequence[str]) -> list[int | str]:
        """What each text names: the class's number, or the library's sentence."""
        pipeline, label = ctypes.c_void_p(), ctypes.c_int64()
        self._check(self._library.himar_pipeline_load(str(bundle).encode(), None, ctypes.byref(pipeline)))
        found: list[int | str] = []
        try:
            for text in texts:
                status = self._library.himar_pipeline_find_class(pipeline, text.encode(), ctypes.byref(label))
                found.append(label.value if status == OK else self._library.himar_last_error().decode())
        finally:
            self._library.himar_pipeline_free(pipeline)
        return found

    def clone_sentence(self, bundle: Path, before: Callable[[], None]) -> str:
        """What a clone is refused with; `before` runs between loading and cloning."""
        pipeline, clone = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self._library.himar_pipeline_load(str(bundle).encode(), None, ctypes.byref(pipeline)))
        try:
            before()
            assert self._library.himar_pipeline_clone(pipeline, ctypes.byref(clone)) not in (OK, CANCELLED)
            return str(self._library.himar_last_error().decode())
        finally:
            self._library.himar_pipeline_free(pipeline)

    def previews(self, bundle: Path, *arguments: Any, of: str = "preview", **options: Any) -> list[NDArray[np.uint8]]:
        """What each step shows, uint8 (B, P, P, 3): of `generate`, or of `edit` where images are given too.

        of: "preview" or "so_far".
        """
        seen: list[NDArray[np.uint8]] = []

        def look(progress: _Progress) -> None:
            pixels, shape = ctypes.POINTER(ctypes.c_uint8)(), (ctypes.c_int64 * 4)()
            preview = self._library[f"himar_progress_{of}"]
            self._check(preview(ctypes.byref(progress), ctypes.byref(pixels), shape))
            seen.append(np.ctypeslib.as_array(pixels, tuple(shape)).copy())

        run = self.generate if len(arguments) == 1 else self.edit
        run(bundle, *arguments, on_step=self.callback(look), **options)
        return seen

    def _array(self, accessor: Any, result: ctypes.c_void_p, kind: Any, axes: int = 4) -> NDArray[Any]:
        data, shape = ctypes.POINTER(kind)(), (ctypes.c_int64 * axes)()
        self._check(accessor(result, ctypes.byref(data), shape))
        if not data:  # an array without values
            return np.zeros(tuple(shape), np.dtype(kind))
        return np.ctypeslib.as_array(data, tuple(shape)).copy()

    def _labels(self, result: ctypes.c_void_p) -> list[int]:
        labels, count = ctypes.POINTER(ctypes.c_int64)(), ctypes.c_size_t()
        self._check(self._library.himar_result_labels(result, ctypes.byref(labels), ctypes.byref(count)))
        return labels[: count.value]

    def _truncated(self, result: ctypes.c_void_p) -> list[int]:
        places, count = ctypes.POINTER(ctypes.c_size_t)(), ctypes.c_size_t()
        self._check(self._library.himar_result_truncated(result, ctypes.byref(places), ctypes.byref(count)))
        return [places[index] for index in range(count.value)]

    def _stage_seconds(self, result: ctypes.c_void_p) -> list[float]:
        seconds, count = ctypes.POINTER(ctypes.c_double)(), ctypes.c_size_t()
        self._check(self._library.himar_result_stage_seconds(result, ctypes.byref(seconds), ctypes.byref(count)))
        return seconds[: count.value]

    def _recipe(self, result: ctypes.c_void_p, index: int) -> str:
        text = ctypes.c_char_p()
        self._check(self._library.himar_result_recipe(result, ctypes.c_size_t(index), ctypes.byref(text)))
        assert text.value is not None
        return text.value.decode()

    def _check(self, status: int) -> None:
        if status not in (OK, CANCELLED):
            raise RuntimeError(self._library.himar_last_error().decode())
