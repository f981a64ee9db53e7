"""Reads what a client asks for: every value is checked here, before a request waits for a lane."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

from himar_kernels import HimarError, InputError, PhiloxDraws, check_labels
from himar_kernels.arithmetic.editing import Edit
from himar_kernels.families.registry import TEXT_ENCODER
from himar_kernels.text.tokenizer import check_prompts

from ..bundle.manifest import Manifest
from ..families.family import Sampling, runtime_family
from ..request import image_indices

Output = Literal["png", "latents"]

_KEYS = ("seed", "first_index", "sampling", "guidance")
DRAWN_SEED_BITS = 53  # exact as a double, so that every JSON reader gives the seed back unchanged

_TOKEN = "[!#$%&'+.^_`|~0-9a-z-]+"
_RANGE = re.compile(rf"(\*)/\*|({_TOKEN})/(\*|{_TOKEN})")
_QUALITY = re.compile(r"[0-9]{1,3}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
_QUOTED = r'"(?:\\.|[^"\\])*"'
_MEMBERS = re.compile(rf'(?:[^,"]|{_QUOTED})+')
_PARAMETERS = re.compile(rf'(?:[^;"]|{_QUOTED})+')


class RefusalError(HimarError):
    """A request that is answered with an HTTP status other than 200.

    Attributes:
        status: the HTTP status.
        headers: to be sent with it.
        param, code: the field that is wrong, and a word for how, where the answer's form has a place for them.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        headers: Mapping[str, str] | None = None,
        *,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = dict(headers or {})
        self.param, self.code = param, code


@dataclass(frozen=True)
class ImagesRequest:
    """A checked request for images.

    Attributes:
        labels: int64 (B,); None of prompts, and of an edit without a class.
        prompts: texts; None of labels, and of an edit without a text.
        seed: 0 … 2^64-1.
        first_index: image index of the first image.
        sampling: the settings, complete.
        output: "png" or "latents" in a JSON answer.
        bare: answer with the PNG itself instead of JSON; B is 1.
        edit: the images of which a part is drawn anew, all in the same place; None of whole images.
        edit_kind: what else edits have in common that can run together.
    """

    labels: NDArray[np.int64] | None = field(compare=False)
    prompts: tuple[str, ...] | None
    seed: int
    first_index: int
    sampling: Sampling
    output: Output
    bare: bool
    edit: Edit | None = field(default=None, compare=False)
    edit_kind: object = None

    @property
    def images(self) -> int:
        """B."""
        given = next(each for each in (self.edit, self.labels, self.prompts) if each is not None)
        return len(given)

    @property
    def settings(self) -> object:
        """What those have in common that can run together: edits only with edits, and with a class or none alike."""
        if self.edit is None:
            return self.sampling
        kind = self.edit_kind, self.edit.dilation, self.edit.feather
        return self.sampling, self.labels is None, self.prompts is None, kind


def read_request(body: bytes, accept: str, manifest: Manifest, max_images: int) -> ImagesRequest:
    """Read and check the body of POST /v1/images.

    Args:
        accept: the Accept header, "" if there is none.
        max_images: most labels or prompts of one request.

    Raises InputError (400) for a value that is wrong, RefusalError for what has another status.
    """
    try:
        return _read(_parse(body, manifest), accept, manifest, max_images)
    except RecursionError as error:  # from parsing a value, or from writing it into a sentence
        raise InputError("the body is nested too deeply; send a flat JSON object.") from error


def check_content_type(content_type: str, content_encoding: str, wanted: str = "application/json") -> None:
    """Raise RefusalError (415) unless the body is of the wanted type, and not compressed."""
    if content_type.partition(";")[0].strip().lower() != wanted:
        raise RefusalError(415, f"Content-Type is {content_type!r}; send the request as {wanted}.")
    if content_encoding.strip().lower() not in ("", "identity"):
        raise RefusalError(415, f"Content-Encoding is {content_encoding!r}; send the body without one.")


def parse_object(body: bytes, needed: str) -> dict[str, Any]:
    """Return the JSON object that a body is; `needed` is a key of it, for the sentence of the InputError if it is none.

    Raises RecursionError too: of deep nesting.
    """
    try:
        values = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not UTF-8 (byte {error.start}); send JSON encoded as UTF-8.") from error
    except ValueError as error:
        raise InputError(f"the body is not valid JSON ({error}); send a JSON object.") from error
    if not isinstance(values, dict):
        raise InputError(f"the body is {_json(values)}; it must be a JSON object with {needed}.")
    return values


def _parse(body: bytes, manifest: Manifest) -> dict[str, Any]:
    values = parse_object(body, _wanted(manifest))
    known = (_wanted(manifest), *_KEYS, *runtime_family(manifest.family).changeable, "output")
    for key in values:
        if key not in (*known, "labels", "prompts"):
            raise InputError(f"unknown key {key!r}; known keys: {', '.join(known)}.")
    return values


def _read(values: dict[str, Any], accept: str, manifest: Manifest, max_images: int) -> ImagesRequest:
    name = _wanted(manifest)
    each = "class numbers" if name == "labels" else "texts"
    for other in ("labels", "prompts"):
        if other != name and other in values:
            kind = "of classes" if name == "labels" else "from text"
            raise InputError(f"{other} is given, but this bundle's model makes images {kind}; give {name}.")
    if name not in values:
        raise InputError(f'the body lacks "{name}"; give a list of {each}, one per image.')
    given = values[name]
    if not isinstance(given, list):
        raise InputError(f"{name} is {_json(given)}; give a list of {each}, one per image.")
    if len(given) > max_images:
        raise RefusalError(413, f"{name} has {len(given)} entries; ask for at most {max_images} images in one request.")
    _refuse_nulls(values)
    checked = check_labels(given, manifest.model.classes) if name == "labels" else None
    prompts = _prompts(given, manifest) if name == "prompts" else None
    first_index = values.get("first_index", 0)
    image_indices(len(given), first_index)
    seed = PhiloxDraws(values["seed"] if "seed" in values else secrets.randbits(DRAWN_SEED_BITS)).seed
    sampling = _sampling(values, manifest)
    output = _output(values, "vae_decoder" in manifest.components)
    return ImagesRequest(checked, prompts, seed, first_index, sampling, output, _bare(accept, len(given), output, name))


def _wanted(manifest: Manifest) -> str:
    """Return the key that says what the images show."""
    return "labels" if manifest.model.context_shape is None else "prompts"


def _prompts(prompts: list[Any], manifest: Manifest) -> tuple[str, ...]:
    if TEXT_ENCODER not in manifest.components:
        raise InputError(f"this bundle has no {TEXT_ENCODER}, so it takes no prompts; serve one built with --text.")
    check_prompts(prompts)
    return tuple(prompts)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _refuse_nulls(values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if value is None:
            raise InputError(f"{key} is null; leave the key out, or give a value.")


def _sampling(values: Mapping[str, Any], manifest: Manifest) -> Sampling:
    """Return the settings that the values ask for, checked against the model."""
    name = values.get("sampling")
    if name is not None and not isinstance(name, str):
        raise InputError(f"sampling is {_json(name)}; it must be a name: {', '.join(manifest.sampling)}.")
    family = runtime_family(manifest.family)
    changes = {key: values[key] for key in family.changeable if key in values}
    sampling: Sampling = family.choose_sampling(
        manifest.model, manifest.sampling, name, values.get("guidance"), changes
    )
    return sampling


def _output(values: Mapping[str, Any], has_decoder: bool) -> Output:
    output = values.get("output", "png")
    if output not in get_args(Output):
        raise InputError(f"output is {_json(output)}; it must be 'png' or 'latents'.")
    if output == "png" and not has_decoder:
        raise InputError('this bundle has no VAE decoder, so there are no images; ask for "output": "latents".')
    return output


def _bare(accept: str, images: int, output: Output, name: str) -> bool:
    """Return whether to answer with the PNG itself: where it is possible, and preferred to JSON.

    name: of the key with an entry for each image.

    Raises RefusalError (406) when the answer would be of a type that is not accepted.
    """
    json_quality, png_quality = qualities(accept, ("application/json", "image/png"))
    if images == 1 and output == "png" and png_quality > json_quality:
        return True
    if json_quality > 0:
        return False
    if png_quality == 0:
        raise RefusalError(
            406,
            f"Accept is {accept!r}; answers are application/json, or image/png for one {name[:-1]}: accept one of "
            "them.",
        )
    if output == "latents":
        raise RefusalError(406, "output is 'latents', which image/png cannot hold; ask for application/json.")
    raise RefusalError(
        406,
        f"{name} has {images} entries, and image/png holds one image; ask for application/json, or one {name[:-1]}.",
    )


def _json(value: object) -> str:
    """A value as its sender wrote it."""
    return json.dumps(value)


def qualities(accept: str, offers: Sequence[str]) -> list[float]:
    """Return the quality from 0 (not acceptable) to 1 that a header gives each of the offered media types.

    The most specific range that matches an offer counts: TYPE/SUBTYPE before TYPE/*, and that before */*. Parameters of
    a range other than q are left aside. A member that cannot be read is ignored; a header of none that can is as good
    as no header, which takes everything.
    """
    members = list(_members(accept))
    if not members:
        return [1.0] * len(offers)
    return [_quality(members, offer) for offer in offers]


def _quality(members: list[tuple[str, float]], offer: str) -> float:
    for name in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        found = [quality for media_range, quality in members if media_range == name]
        if found:
            return max(found)
    return 0.0


def _members(accept: str) -> Iterator[tuple[str, float]]:
    for member in _MEMBERS.findall(accept.lower()):
        name, *parameters = (part.strip() for part in _PARAMETERS.findall(member))
        quality = 1.0
        for parameter in parameters:
            key, _, value = (part.strip() for part in parameter.partition("="))
            if key == "q":
                quality = float(value) if _QUALITY.fullmatch(value) else -1.0
        name = "*/*" if name == "*" else name  # Java's clients have sent that for decades
        if _RANGE.fullmatch(name) and 0 <= quality <= 1:
            yield name, quality
