"""Writes answers: images as PNGs that carry their recipes, or latents, in JSON; or one bare PNG."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..png import encode_png
from ..result import Result
from .request import ImagesRequest

JSON, PNG = "application/json", "image/png"
LONGEST_SENTENCE = 600


@dataclass(frozen=True)
class Answer:
    """A body with its media type and headers, how many images are in it, and the seconds of each stage of making it."""

    body: bytes
    media_type: str
    images: int
    headers: dict[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def encode(request: ImagesRequest, result: Result, queued: float, generate: float) -> Answer:
    """Encode a complete result.

    Args:
        queued, generate: seconds that the request waited for its lane, and that its lane worked on it.
    """
    count = len(result.labels)
    if request.bare:
        return Answer(_png(result, 0), PNG, count, {"X-Himar-Seed": str(request.seed)})
    values = {
        "seed": request.seed,
        "images": [_image(request, result, place) for place in range(count)],
        "seconds": {"queued": round(queued, 6), "generate": round(generate, 6)},
    }
    if request.prompts is not None:
        values["truncated"] = list(result.truncated)
    return Answer(json.dumps(values).encode(), JSON, count)


def refusal(sentence: str) -> Answer:
    """Return the answer to a request that was refused or failed. Values as long as the body itself are cut short."""
    return Answer(json.dumps({"error": shortened(sentence)}).encode(), JSON, 0)


def shortened(sentence: str) -> str:
    """Return a sentence that is not longer than an answer may hold."""
    return sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[: LONGEST_SENTENCE - 1]}…"


def _image(request: ImagesRequest, result: Result, place: int) -> dict[str, Any]:
    recipe = result.recipes[place]
    shown = {"label": recipe.label} if recipe.prompt is None else {"prompt": recipe.prompt}
    image: dict[str, Any] = {**shown, "index": recipe.index}
    if request.output == "png":
        image["png"] = base64.b64encode(_png(result, place)).decode()
    else:
        latents = np.ascontiguousarray(result.latents[place], "<f4")
        image |= {"latents": base64.b64encode(latents.tobytes()).decode(), "shape": list(latents.shape)}
    return {**image, "recipe": recipe.to_dict()}


def _png(result: Result, place: int) -> bytes:
    assert result.images is not None  # read_request refused output png where there is no decoder
    return encode_png(result.images[place], [result.recipes[place]])
