"""Follows one accepted request through a lane: who may touch it when, and how its outcome gets back."""

from __future__ import annotations

import asyncio
import threading
import time

from ..result import Progress
from .answer import Answer
from .request import ImagesRequest


class Job:
    """A request that was accepted, made and settled in the event loop's thread; a lane's thread works on it.

    Attributes:
        request: what to make.
        answer: settled with the answer or the error; cancelled when nobody waits for it any more.
        accepted: time.monotonic() of the acceptance.
        queued: seconds until a lane took it; None while it waits.
    """

    def __init__(self, request: ImagesRequest) -> None:
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()
        self.request = request
        self.answer: asyncio.Future[Answer] = self._loop.create_future()
        self.accepted = time.monotonic()
        self.queued: float | None = None

    def cancel(self) -> None:
        """Stop the work at its next step."""
        self._cancelled.set()

    def should_continue(self, step: Progress) -> bool:
        """Whether to do another step: `on_step` of Pipeline.generate."""
        return not self._cancelled.is_set()

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
