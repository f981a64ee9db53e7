"""Reads OpenAI's fields, as far as this server can do what they ask for; the body of POST /v1/images/generations."""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from himar_kernels import InputError, PhiloxDraws, named_class
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.families.registry import TEXT_ENCODER
from himar_kernels.text.tokenizer import check_prompts

from ...bundle.manifest import Manifest
from ...families.family import Sampling, runtime_family
from ..request import DRAWN_SEED_BITS, ImagesRequest, RefusalError, parse_object

FORMATS = {"png": "image/png", "webp": "image/webp", "jpeg": "image/jpeg"}
MOST_IMAGES = 10
MOST_PARTIAL_IMAGES = 3

QUALITIES = {"low": "fast", "medium": "forecast", "high": "paper"}
"""OpenAI's words, and the bundle's settings that they stand for."""

IGNORED = ("moderation", "safety_identifier", "style", "user")  # they say nothing that this server could do
TAKEN = (
    "prompt", "model", "n", "size", "quality", "stream", "partial_images", "output_format", "output_compression",
    "background", "response_format", "seed", "guidance_scale",
)  # fmt: skip


@dataclass(frozen=True)
class Generation:
    """A checked request.

    Attributes:
        images: what to make.
        size: "WxH", the model's.
        quality: as it was asked for.
        format: of the images, a key of FORMATS.
        compression: 0 … 100, the quality of webp and jpeg.
        stream: whether the answer is a stream of events, of one image.
        partial_images: how many unfinished images it is to show at most.
        text_tokens: rows of context that the model takes for each image's text, padding included; 0 of a class.
    """

    images: ImagesRequest
    size: str
    quality: str
    format: str
    compression: int
    stream: bool
    partial_images: int
    text_tokens: int


def read_generation(body: bytes, manifest: Manifest, models: tuple[str, ...], max_images: int) -> Generation:
    """Read and check a body.

    Args:
        models: the names that `model` may have.
        max_images: most images of one request.

    Raises RefusalError with the field that is wrong, or InputError for a body that is no object.
    """
    try:
        given = parse_object(body, "prompt")
        check_known(given, TAKEN, IGNORED)
        return read_fields(given, manifest, models, max_images)
    except RecursionError as error:  # from parsing a value, or from writing it into a sentence
        raise InputError("the body is nested too deeply; send a flat JSON object.") from error


def check_known(given: Iterable[str], taken: Sequence[str], ignored: Sequence[str]) -> None:
    """Raise RefusalError for the name of a field that is neither taken nor ignored."""
    for key in given:
        if key not in (*taken, *ignored):
            sentence = f"unknown parameter {key!r}; this server takes {', '.join(taken)}."
            raise RefusalError(400, sentence, param=key, code="unknown_parameter")


def read_fields(
    given: Mapping[str, Any],
    manifest: Manifest,
    models: tuple[str, ...],
    max_images: int,
    read_edit: Callable[[int], Edit] | None = None,
) -> Generation:
    """Check the fields that generations and edits have in common. Raises as `read_generation` does.

    read_edit: reads that many copies of what is edited, after the fields; None where whole images are made. An edit may
    do without a prompt.
    """
    values = {key: value for key, value in given.items() if value is not None}  # null is OpenAI's word for the default
    _check_model(values, models)
    if "vae_decoder" not in manifest.components:
        raise InputError("this bundle has no VAE decoder, so there are no images; ask /v1/images for latents.")
    count = _whole(values, "n", 1, 1, MOST_IMAGES)
    if count > max_images:
        raise wrong("n", f"n is {count}, but this server makes at most {max_images} images in one request.")
    is_edit = read_edit is not None
    label, prompt = (None, None) if is_edit and "prompt" not in values else _shown(values, manifest)
    stream, partial_images = _stream(values, count)
    quality, sampling = _sampling(values, manifest, is_edit, shown=(label, prompt) != (None, None))
    picture, compression = _format(values)
    with about("seed"):
        seed = PhiloxDraws(values["seed"] if "seed" in values else secrets.randbits(DRAWN_SEED_BITS)).seed
    for key, taken, reason in (
        ("response_format", ("b64_json",), "this server keeps no images, so it has no addresses of them"),
        ("background", ("auto", "opaque"), "the images are opaque"),
    ):
        if values.get(key, taken[0]) not in taken:
            raise wrong(key, f"{key} is {_json(values[key])}, but {reason}; leave it out.")
    size = _size(values, manifest.model.img_size)
    edit = None if read_edit is None else read_edit(count)
    images = ImagesRequest(
        labels=None if label is None else np.full(count, label, np.int64),
        prompts=None if prompt is None else (prompt,) * count,
        seed=seed, first_index=0, sampling=sampling, output="png", bare=False,
        edit=edit, edit_kind=None if edit is None else _edit_kind(edit, manifest),
    )  # fmt: skip
    shape = manifest.model.context_shape
    text_tokens = 0 if shape is None or (is_edit and prompt is None) else shape[0]
    return Generation(images, size, quality, picture, compression, stream, partial_images, text_tokens)


def _check_model(values: Mapping[str, Any], models: tuple[str, ...]) -> None:
    model = values.get("model", models[0])
    if model not in models:
        sentence = f"model is {_json(model)}, but this server has {models[0]!r} alone; ask for that, or leave it out."
        raise RefusalError(404, sentence, param="model", code="model_not_found")


def _shown(values: Mapping[str, Any], manifest: Manifest) -> tuple[int | None, str | None]:
    """Return the class that the images are to show, or the text; the other is None."""
    of_classes = manifest.model.context_shape is None
    if "prompt" not in values:
        wanted = "the name or the number of a class" if of_classes else "a text"
        sentence = f'the body lacks "prompt"; give {wanted}.'
        raise RefusalError(400, sentence, param="prompt", code="missing_required_parameter")
    prompt = values["prompt"]
    if not isinstance(prompt, str):
        raise wrong("prompt", f"prompt is {_json(prompt)}; write it as a string.")
    with about("prompt"):
        if of_classes:
            return named_class(prompt, manifest.model.classes, manifest.class_names), None
        if TEXT_ENCODER not in manifest.components:
            raise InputError(f"this bundle has no {TEXT_ENCODER}, so it takes no prompts; serve one built with --text.")
        check_prompts([prompt])
        return None, prompt


def _stream(values: Mapping[str, Any], count: int) -> tuple[bool, int]:
    stream = values.get("stream", False)
    if not isinstance(stream, bool):
        raise wrong("stream", f"stream is {_json(stream)}; it must be true or false.")
    partial_images = _whole(values, "partial_images", 0, 0, MOST_PARTIAL_IMAGES)
    if partial_images and not stream:
        raise wrong("partial_images", f"partial_images is {partial_images}, but stream is not true; ask for a stream.")
    if stream and count > 1:
        raise wrong("n", f"n is {count}, but a stream shows one image; send a request for each.")
    return stream, partial_images


def _sampling(values: Mapping[str, Any], manifest: Manifest, is_edit: bool, shown: bool) -> tuple[str, Sampling]:
    """Return the quality and its settings, of an edit too; shown: a class or a text is given."""
    quality = values.get("quality", "auto")
    name = _setting(quality, tuple(manifest.sampling))
    guidance = values.get("guidance_scale")
    if type(guidance) not in (int, float, type(None)):
        raise wrong("guidance_scale", f"guidance_scale is {_json(guidance)}; it must be a number.")
    family = runtime_family(manifest.family)
    changes: dict[str, Any] = {}
    given = manifest.model, manifest.sampling, name, guidance, changes
    with about("guidance_scale"):
        chosen: Sampling = family.edit_sampling(*given, shown) if is_edit else family.choose_sampling(*given)
    return quality, chosen


def _edit_kind(edit: Edit, manifest: Manifest) -> object:
    """Return what tells whether edits can run together; all images of a request are drawn in the same place."""
    return runtime_family(manifest.family).edit_kinds(manifest.model, edit[:1])[0]


def _setting(quality: object, settings: tuple[str, ...]) -> str:
    """Return the setting that a quality stands for, one with that very name before OpenAI's words."""
    words = {word: setting for word, setting in QUALITIES.items() if setting in settings}
    known = {"auto": settings[0], **words, **{name: name for name in settings}}
    if not isinstance(quality, str) or quality not in known:
        raise wrong("quality", f"quality is {_json(quality)}; this bundle has {', '.join(known)}.")
    return known[quality]


def _size(values: Mapping[str, Any], side: int) -> str:
    size, own = values.get("size", "auto"), f"{side}x{side}"
    if size not in ("auto", own):
        raise wrong("size", f"size is {_json(size)}, but this model makes images of {own}; ask for that, or 'auto'.")
    return own


def _format(values: Mapping[str, Any]) -> tuple[str, int]:
    picture = values.get("output_format", "png")
    formats = writable_formats()
    if picture not in formats:
        raise wrong("output_format", f"output_format is {_json(picture)}; this server writes {', '.join(formats)}.")
    compression = _whole(values, "output_compression", 100, 0, 100)
    if picture == "png" and compression != 100:
        sentence = f"output_compression is {compression}, but a PNG loses nothing; leave it out, or ask for another "
        raise wrong("output_compression", f"{sentence}output_format.")
    return picture, compression


@functools.cache
def writable_formats() -> tuple[str, ...]:
    """Return the formats that this Pillow can write: some builds lack its libraries."""
    from PIL import features

    libraries = {"webp": "webp", "jpeg": "jpg"}
    return tuple(name for name in FORMATS if name not in libraries or features.check(libraries[name]))


def _whole(values: Mapping[str, Any], key: str, default: int, least: int, most: int) -> int:
    value = values.get(key, default)
    if type(value) is not int or not least <= value <= most:
        raise wrong(key, f"{key} is {_json(value)}; it must be a whole number from {least} to {most}.")
    return value


@contextmanager
def about(param: str) -> Iterator[None]:
    """Turn an InputError into a refusal of this field."""
    try:
        yield
    except InputError as error:
        raise wrong(param, str(error)) from error


def wrong(param: str, sentence: str) -> RefusalError:
    """Return the refusal of a field's value."""
    return RefusalError(400, sentence, param=param, code="invalid_value")


def _json(value: object) -> str:
    """A string as Python writes it, another value as its sender did."""
    return repr(value) if isinstance(value, str) else json.dumps(value)
