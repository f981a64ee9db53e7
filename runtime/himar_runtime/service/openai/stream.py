"""Streams a request's unfinished images and its last one as events, however slowly its client reads them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from himar_kernels import HimarError

from ...bundle.manifest import Manifest
from ...families.family import partial_steps, runtime_family
from ...result import Progress
from ..service import ClientGoneError
from .answer import EVENTS, partial_image
from .request import Generation

log = logging.getLogger(__name__)


class Partials:
    """Makes the unfinished images that a stream shows; called in the lane's thread after every step.

    A request that runs again, alone after a call of several has failed, shows no step twice.
    """

    def __init__(self, asked: Generation, manifest: Manifest) -> None:
        family = runtime_family(manifest.family)
        self._steps = partial_steps(
            family, manifest.model, asked.images.sampling, asked.partial_images, asked.images.edit
        )
        self._asked = asked
        self._made = 0

    def __call__(self, step: Progress) -> bytes | None:
        """Return the event of a step after which an image is shown; None of another, or where it cannot be decoded."""
        if step.done not in self._steps:
            return None
        try:
            pixels = step.so_far()[0]
        except HimarError as error:
            log.info("no partial image of step %d: %s", step.done, error)
            return None
        self._steps.remove(step.done)
        self._made += 1
        return partial_image(self._asked, self._made - 1, pixels)


class EventStream(Response):
    """An answer of events. A client that does not take one within `seconds` counts as gone."""

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None], seconds: float) -> None:
        """events: what follows the first; closed at the end, however that comes."""
        super().__init__(media_type=EVENTS, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first, self._events, self._seconds = first, events, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See Response. Raises ClientGoneError."""

        async def put(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self._seconds)
            except TimeoutError:
                raise ClientGoneError from None

        try:
            await put({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await put({"type": "http.response.body", "body": self._first, "more_body": True})
            async for event in self._events:
                await put({"type": "http.response.body", "body": event, "more_body": True})
            await put({"type": "http.response.body", "body": b""})
        finally:
            await self._events.aclose()
