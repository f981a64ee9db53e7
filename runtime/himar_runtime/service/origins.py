"""Lets web pages of other origins use the service from a browser (CORS): --allow-origin."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from himar_kernels import InputError

EXPOSED = "X-Request-Id, X-Himar-Seed, Retry-After, Server-Timing"
TAKEN = "Accept, Authorization, Content-Type, X-Request-Id"
PREFLIGHT_SECONDS = 600

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@\\,]+")


def check_origin(text: str) -> str:
    """Return an origin as browsers send it, in lower case; InputError unless it is SCHEME://HOST, maybe :PORT, or *."""
    origin = text.lower()
    if origin != "*" and not _ORIGIN.fullmatch(origin):
        raise InputError(f"{text!r} is not an origin; write SCHEME://HOST or SCHEME://HOST:PORT without a path, or *.")
    return origin


class Origins:
    """The allowed origins, and what answers tell browsers. None allowed: nothing is told."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(allowed)

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def allows(self, origin: str) -> bool:
        """Whether pages of an origin may read answers."""
        return "*" in self._allowed or origin.lower() in self._allowed

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return what every answer has, to a request with this Origin or without one."""
        if not self._allowed:
            return {}
        vary = {} if "*" in self._allowed else {"Vary": "Origin"}  # a cache must keep answers to others apart
        if origin is None or not self.allows(origin):
            return vary
        allowed = "*" if "*" in self._allowed else origin
        return {"Access-Control-Allow-Origin": allowed, "Access-Control-Expose-Headers": EXPOSED, **vary}

    def is_preflight(self, method: str, headers: Mapping[str, str]) -> bool:
        """Whether a request is a browser's question whether it may send another."""
        return bool(
            self._allowed
            and method == "OPTIONS"
            and headers.get("origin")
            and headers.get("access-control-request-method")
        )


def preflight_headers(methods: str) -> dict[str, str]:
    """Return what the answer to a preflight adds: the methods of its path, and the headers that requests may have."""
    return {
        "Access-Control-Allow-Methods": methods,
        "Access-Control-Allow-Headers": TAKEN,
        "Access-Control-Max-Age": str(PREFLIGHT_SECONDS),
    }
