"""Follows one accepted request through a lane: who may touch it when, and how its outcome gets back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable

from ..result import Progress, Result
from .answer import Answer
from .request import ImagesRequest

Encode = Callable[[Result, float, float], Answer]
"""Makes the answer of a complete result, and the seconds that the request waited and that its lane worked on it."""

Look = Callable[[Progress], bytes | None]
"""Looks at a finished step, and returns what the client gets of it at once, or None."""


class Job:
    """A request that was accepted, made and settled in the event loop's thread; a lane's thread works on it.

    Attributes:
        request: what to make.
        encode: makes its answer, in the lane's thread.
        answer: settled with the answer or the error; cancelled when nobody waits for it any more.
        shown: what `look` has found and nobody has taken yet.
        changed: set when something is added to `shown`, and when the answer is settled.
        accepted: time.monotonic() of the acceptance.
        queued: seconds until a lane took it; None while it waits.
        looked: seconds that `look` has taken.
    """

    def __init__(self, request: ImagesRequest, encode: Encode, look: Look | None = None) -> None:
        """look: is asked after every step, in the lane's thread."""
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()
        self._look = look
        self.request = request
        self.encode = encode
        self.answer: asyncio.Future[Answer] = self._loop.create_future()
        self.shown: deque[bytes] = deque()
        self.changed = asyncio.Event()
        self.accepted = time.monotonic()
        self.queued: float | None = None
        self.looked = 0.0

    @property
    def images(self) -> int:
        """How many it asks for."""
        return self.request.images

    @property
    def settings(self) -> object:
        """What those that run together have in common."""
        return self.request.settings

    def cancel(self) -> None:
        """Stop the work at its next step."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the outcome any more."""
        return self._cancelled.is_set()

    def should_continue(self, step: Progress) -> bool:
        """Whether to do another step, one of this job's images: `on_step` of Pipeline.generate."""
        if self.cancelled:
            return False
        if self._look is not None:
            start = time.perf_counter()
            found = self._look(step)
            if found is not None:
                self.looked += time.perf_counter() - start
                self._loop.call_soon_threadsafe(self._show, found)
        return True

    def deliver(self, outcome: Answer | Exception) -> None:
        """Hand the outcome over from a lane's thread."""
        self._loop.call_soon_threadsafe(self.settle, outcome)

    def settle(self, outcome: Answer | Exception) -> None:
        """Give the outcome to who waits for it, if anyone does; in the event loop's thread."""
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)
        self.changed.set()

    def _show(self, found: bytes) -> None:
        self.shown.append(found)
        self.changed.set()
