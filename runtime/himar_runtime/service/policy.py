"""Decides which waiting requests run together, on which lane's call, and when a free lane waits for more of them.

The lanes of a service ask it, and so does the simulation of `himar-export plan`: what is planned is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar


class Waiting(Protocol):
    """A request that waits.

    images: how many it asks for; settings: what those that run together have in common; accepted: when it came, in
    seconds of any clock.
    """

    @property
    def images(self) -> int: ...  # noqa: D102

    @property
    def settings(self) -> Any: ...  # noqa: D102

    @property
    def accepted(self) -> float: ...  # noqa: D102


WaitingT = TypeVar("WaitingT", bound=Waiting)


@dataclass(frozen=True)
class Policy:
    """How requests share the lanes.

    Attributes:
        lanes: calls of the engines that run at once.
        queue: requests that may wait per lane.
        max_batch: most images of requests that run together; 1 joins none.
        queue_delay: seconds that a free lane waits at most for others to join a request, after a call of several.
    """

    lanes: int = 1
    queue: int = 64
    max_batch: int = 64
    queue_delay: float = 0.005

    @property
    def most_waiting(self) -> int:
        """Requests that may wait while all lanes are at work."""
        return self.lanes * self.queue

    def is_full(self, waiting: int, busy: int) -> bool:
        """Whether a request must be refused, given those that wait and the lanes that work."""
        return waiting >= self.most_waiting + self.lanes - busy

    def choose(self, waiting: Sequence[WaitingT], running: int) -> list[WaitingT]:
        """Return the requests of the next call: the oldest, and in their order those that can join it.

        Requests join that have the same settings. One that does not fit is passed over for smaller ones behind it: it
        waits no longer for that, as it comes first in a later call. A lane takes no more than its share of all images,
        or others would be idle, or busy with a few again and again; one request of more than that runs alone.

        Args:
            waiting: at least one, the oldest first.
            running: images in the calls of other lanes.
        """
        share = -(-(running + sum(each.images for each in waiting)) // self.lanes)
        most = min(self.max_batch, share)
        first = waiting[0]
        chosen, images = [first], first.images
        for each in waiting[1:]:
            if images >= most:
                break
            if images + each.images <= most and each.settings == first.settings:
                chosen.append(each)
                images += each.images
        return chosen

    def pause(self, chosen: Sequence[Waiting], waiting: int, before: int, free: float, now: float) -> float:
        """Return for how many seconds to wait for others to join the chosen requests; at most 0: not at all.

        Clients that were answered together often ask again together. None are waited for when as many wait as there
        were, nor when the batch is full.

        Args:
            waiting: requests that wait, the chosen among them.
            before: requests that were open during the last call if it had several, else 0.
            free: since when the lane has had nothing to do.
        """
        if waiting >= before or sum(each.images for each in chosen) >= self.max_batch:
            return 0.0
        return max(free, chosen[0].accepted) + self.queue_delay - now
