"""Names the service's paths, and which of them are in OpenAI's form."""

from __future__ import annotations

PAGE = "/"
PAGE_FILES = "/page/"
"""Before the names of the files that the page loads."""
IMAGES = "/v1/images"
GENERATIONS = "/v1/images/generations"
EDITS = "/v1/images/edits"
MODEL = "/v1/model"
MODELS = "/v1/models"
HEALTH = "/healthz"
LIVE = "/v2/health/live"
READY = "/v2/health/ready"
METRICS = "/metrics"

COUNTED = (IMAGES, GENERATIONS, EDITS)
"""Requests of these have a line in the log and are counted."""

_READ = "GET, HEAD"
_METHODS = {
    **dict.fromkeys(COUNTED, "POST"),
    **dict.fromkeys((PAGE, MODEL, MODELS, HEALTH, LIVE, READY, METRICS), _READ),
}


def methods(path: str) -> str | None:
    """Return what a path takes, for a header; None where there is no such path."""
    return _READ if path.startswith((f"{MODELS}/", PAGE_FILES)) else _METHODS.get(path)


def is_openai(path: str) -> bool:
    """Whether a path's answers and refusals are in the form of OpenAI's API."""
    return path in (GENERATIONS, EDITS, MODELS) or path.startswith(f"{MODELS}/")


def needs_token(path: str) -> bool:
    """Whether a server with --token-file asks for one: not for what says nothing of images, nor for the page itself."""
    return path not in (PAGE, HEALTH, LIVE, READY, METRICS) and not path.startswith(PAGE_FILES)


def known() -> str:
    """Return the paths for a sentence."""
    *most, last = _METHODS
    return f"{', '.join(most)} and {last}"


def without_root(path: str, root: str) -> str:
    """Return a path without the prefix under which a proxy publishes the server, where it has it.

    Of the prefix alone nothing is left, "".
    """
    return path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path
