"""Names the stages of a request that a lane works on, with their seconds, and writes them as a header."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NO_TOKEN = re.compile(r"[^A-Za-z0-9!#$%&'*+.^_`|~-]")


def stages(queued: float, run: Mapping[str, float], look: float, encode: float) -> dict[str, float]:
    """Return the seconds of each stage: "queue", the phases, "decode", "preview" if there was any, "encode".

    Args:
        run: `Result.seconds`; a space in the name of a phase becomes a hyphen.
        look: seconds that partial images took.
    """
    named = {_NO_TOKEN.sub("-", name): seconds for name, seconds in run.items()}
    return {"queue": queued, **named, **({"preview": look} if look else {}), "encode": encode}


def server_timing(seconds: Mapping[str, float]) -> str:
    """Return the header Server-Timing, in milliseconds."""
    return ", ".join(f"{name};dur={1000 * each:.3f}" for name, each in seconds.items())
