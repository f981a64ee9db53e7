"""Reads which answers a client accepts: media ranges and quality values (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_TOKEN = "[!#$%&'+.^_`|~0-9a-z-]+"
_RANGE = re.compile(rf"(\*)/\*|({_TOKEN})/(\*|{_TOKEN})")
_QUALITY = re.compile(r"[0-9]{1,3}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
_QUOTED = r'"(?:\\.|[^"\\])*"'
_MEMBERS = re.compile(rf'(?:[^,"]|{_QUOTED})+')
_PARAMETERS = re.compile(rf'(?:[^;"]|{_QUOTED})+')


def qualities(accept: str, offers: Sequence[str]) -> list[float]:
    """Return the quality from 0 (not acceptable) to 1 that a header gives each of the offered media types.

    The most specific range that matches an offer counts: TYPE/SUBTYPE before TYPE/*, and that before */*. Parameters of
    a range other than q are left aside. A member that cannot be read is ignored; a header of none that can is as good
    as no header, which takes everything.
    """
    members = list(_read(accept))
    if not members:
        return [1.0] * len(offers)
    return [_quality(members, offer) for offer in offers]


def _quality(members: list[tuple[str, float]], offer: str) -> float:
    for name in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        found = [quality for media_range, quality in members if media_range == name]
        if found:
            return max(found)
    return 0.0


def _read(accept: str) -> Iterator[tuple[str, float]]:
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
