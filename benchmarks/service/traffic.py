"""Makes what clients send to himar-serve under load: good requests, bad ones, and clients that disconnect."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

JSON_TYPE = {"Content-Type": "application/json"}

# Each with the status that it must get, and a body of the class count that the server serves.
BAD: tuple[tuple[str, int, dict[str, str], Any], ...] = (
    ("no JSON", 400, JSON_TYPE, b'{"labels": [1'),
    ("not UTF-8", 400, JSON_TYPE, b'{"labels": ["\xfe"]}'),
    ("no labels", 400, JSON_TYPE, {}),
    ("unknown key", 400, JSON_TYPE, {"labels": [1], "size": 3}),
    ("no such class", 400, JSON_TYPE, {"labels": [1_000_000]}),
    ("wrong type", 400, JSON_TYPE, {"labels": [1], "guidance": "much"}),
    ("out of range", 400, JSON_TYPE, {"labels": [1], "low_diffusion_steps": 100_000}),
    ("nested", 400, JSON_TYPE, b'{"labels": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
    ("another type", 415, {"Content-Type": "text/plain"}, {"labels": [1]}),
    ("two in one PNG", 406, {**JSON_TYPE, "Accept": "image/png"}, {"labels": [1, 2]}),
    ("too many", 413, JSON_TYPE, {"labels": [1] * 65}),
    ("too large", 413, JSON_TYPE, b" " * 1_048_577),
)
_STEPS = {"high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 3}


@dataclass(frozen=True)
class Planned:
    """One request of the load.

    Attributes:
        kind: of it, for the report.
        body, headers: what is sent.
        status: that it must get; 200 may also be 429 when the queues are full.
        leaves: seconds after which its client goes away; None waits for the answer.
        half: the client goes away in the middle of the body.
    """

    kind: str
    body: bytes
    headers: Mapping[str, str]
    status: int = 200
    leaves: float | None = None
    half: bool = False


def plan_requests(count: int, classes: int, seed: int, bad: float, leave: float) -> list[Planned]:
    """Return `count` requests; the shares `bad` and `leave` of them are bad, and of clients that go away."""
    choice = random.Random(seed)
    planned = []
    for _ in range(count):
        drawn = choice.random()
        if drawn < bad:
            kind, status, headers, body = choice.choice(BAD)
            planned.append(Planned(f"bad: {kind}", _bytes(body), headers, status))
            continue
        kind, body, headers = _good(choice, classes)
        if drawn < bad + leave:
            half = choice.random() < 0.2
            planned.append(Planned("leaves", _bytes(body), headers, leaves=choice.expovariate(20), half=half))
        else:
            planned.append(Planned(kind, _bytes(body), headers))
    return planned


def largest_request() -> Planned:
    """The request that needs most memory of those that `plan_requests` gives."""
    body = {"labels": [1, 2, 3], "seed": 0, "guidance": 2.5, **_STEPS, "low_steps": 2}
    return Planned("json", _bytes(body), JSON_TYPE)


def _good(choice: random.Random, classes: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Few seeds, labels and settings, so that the same image is asked for again and again; few steps, to be quick."""
    body: dict[str, Any] = {
        "labels": [choice.randrange(classes) for _ in range(choice.choice((1, 1, 1, 1, 2, 3)))],
        "seed": choice.randrange(20),
        "guidance": choice.choice((1, 1, 2.5)),
        **_STEPS,
        "low_steps": choice.choice((1, 2)),
    }
    kind = choice.choice(("json", "json", "png", "latents"))
    if kind == "png":
        return kind, {**body, "labels": body["labels"][:1]}, {**JSON_TYPE, "Accept": "image/png"}
    return kind, {**body, "output": "latents"} if kind == "latents" else body, JSON_TYPE


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


@dataclass
class Images:
    """What every image was when it was first answered, and how far later answers for the same request differ.

    An image depends on its seed, index, label and settings; on some CPUs company may change its rounding.

    Attributes:
        repeated: images that were answered again.
        unequal: those of them that differ in any bit.
        worst_pixel: largest difference of a value of 0 … 255.
        worst_latent: largest relative L2 distance of latents.
    """

    repeated: int = 0
    unequal: int = 0
    worst_pixel: int = 0
    worst_latent: float = 0.0
    _first: dict[tuple[Any, ...], NDArray[Any]] = field(default_factory=dict)
    _asked: dict[bytes, Planned] = field(default_factory=dict)

    @property
    def asked(self) -> list[Planned]:
        """Each of the requests whose images were compared, once."""
        return list(self._asked.values())

    def add(self, planned: Planned, answer: bytes) -> int:
        """Compare the images of an answer; return how many there are. ValueError when it is not what was asked for."""
        self._asked.setdefault(planned.body, planned)
        asked = json.loads(planned.body)
        settings = tuple(asked[key] for key in ("seed", "guidance", "low_steps"))
        if planned.kind == "png":
            self._add(("png", 0, asked["labels"][0], *settings), _pixels(answer))
            return 1
        images = json.loads(answer)["images"]
        if [image["label"] for image in images] != asked["labels"]:
            raise ValueError(f"labels {asked['labels']} were answered with others.")
        for image in images:
            if planned.kind == "latents":
                found = np.frombuffer(base64.b64decode(image["latents"]), "<f4").reshape(image["shape"])
            else:
                found = _pixels(base64.b64decode(image["png"]))
            kind = "latents" if planned.kind == "latents" else "png"
            self._add((kind, image["index"], image["label"], *settings), found)
        return len(images)

    def _add(self, key: tuple[Any, ...], found: NDArray[Any]) -> None:
        first = self._first.setdefault(key, found)
        if first is found:
            return
        self.repeated += 1
        self.unequal += not np.array_equal(found, first)
        if key[0] == "latents":
            distance = float(np.linalg.norm(found - first) / np.linalg.norm(first))
            self.worst_latent = max(self.worst_latent, distance)
        else:
            self.worst_pixel = max(self.worst_pixel, int(np.abs(found - first).max()))


def _pixels(png: bytes) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"])).astype(np.int16)
