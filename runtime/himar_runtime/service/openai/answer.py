"""Writes answers, events and refusals in OpenAI's form."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...png import encode_png
from ...recipe import Recipe
from ...result import Result
from ..answer import JSON, Answer, shortened
from .request import Generation

EVENTS = "text/event-stream"
PAUSE = b": no news yet\n\n"
"""A comment: it keeps proxies from closing a connection on which nothing happens."""

_TYPES = {429: "rate_limit_error", 401: "authentication_error"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}


def encode(asked: Generation, result: Result, queued: float, generate: float) -> Answer:
    """Encode a complete result: as a JSON object, or as the last event of a stream.

    queued, generate: as of `himar_runtime.service.answer.encode`.
    """
    count, now = len(result.labels), int(time.time())
    assert result.images is not None  # read_generation refused what has no decoder
    images = [_base64(pixels, asked, [recipe]) for pixels, recipe in zip(result.images, result.recipes, strict=True)]
    recipes = [recipe.to_dict() for recipe in result.recipes]
    further = {
        "seed": asked.images.seed,
        "usage": _usage(asked, result),
        "seconds": {"queued": round(queued, 6), "generate": round(generate, 6)},
    }
    if asked.images.prompts is not None:
        further["truncated"] = list(result.truncated)
    if asked.stream:
        values = {"b64_json": images[0], "created_at": now, **_look(asked), **further, "recipe": recipes[0]}
        return Answer(event(f"{_event_kind(asked)}.completed", values), EVENTS, count)
    data = [{"b64_json": image, "recipe": recipe} for image, recipe in zip(images, recipes, strict=True)]
    body = json.dumps({"created": now, **_look(asked), **further, "data": data})
    return Answer(body.encode(), JSON, count)


def partial_image(asked: Generation, index: int, pixels: NDArray[np.uint8]) -> bytes:
    """Return the event of an unfinished image uint8 (P, P, 3), the index-th of its stream, from 0."""
    height, width = pixels.shape[:2]
    values = {
        "b64_json": _base64(pixels, asked, []), "partial_image_index": index, "created_at": int(time.time()),
        **_look(asked), "size": f"{width}x{height}",
    }  # fmt: skip
    return event(f"{_event_kind(asked)}.partial_image", values)


def failure(status: int, sentence: str, param: str | None = None, code: str | None = None) -> bytes:
    """Return the body that tells of a request that was refused or failed."""
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    shown = None if param is None else shortened(param)
    values = {"message": shortened(sentence), "type": kind, "param": shown, "code": code or _CODES.get(status)}
    return json.dumps({"error": values}).encode()


def retry_headers(status: int) -> dict[str, str]:
    """Return what tells a client whether to send a request again that had this status.

    OpenAI's client sends again after every 5xx unless it is told not to. A request that an engine failed on, or that
    took too long, would only do so once more.
    """
    if status in (500, 504):
        return {"x-should-retry": "false"}
    return {"Retry-After": "1"} if status == 503 else {}


def event(kind: str, values: Mapping[str, Any]) -> bytes:
    """Return an event of a stream."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **values})}\n\n".encode()


def error_event(body: bytes) -> bytes:
    """Return the event of a failure's body: clients take {"error": …} for one whatever it is called."""
    return b"event: error\ndata: " + body + b"\n\n"


def _event_kind(asked: Generation) -> str:
    return "image_generation" if asked.images.edit is None else "image_edit"


def _look(asked: Generation) -> dict[str, str]:
    return {"background": "opaque", "output_format": asked.format, "quality": asked.quality, "size": asked.size}


def _usage(asked: Generation, result: Result) -> dict[str, Any]:
    """Tokens as the model counts them: rows of text context in, positions of latents out, and in of what is edited."""
    text = asked.text_tokens * len(result.labels)
    out = int(np.prod(result.latents.shape[2:])) * len(result.labels)
    image = 0 if asked.images.edit is None else out
    details = {"image_tokens": image, "text_tokens": text}
    taken = image + text
    return {"input_tokens": taken, "input_tokens_details": details, "output_tokens": out, "total_tokens": taken + out}


def _base64(pixels: NDArray[np.uint8], asked: Generation, recipes: Sequence[Recipe]) -> str:
    if asked.format == "png":
        return base64.b64encode(encode_png(pixels, recipes)).decode()
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format=asked.format.upper(), quality=asked.compression)
    return base64.b64encode(encoded.getvalue()).decode()
