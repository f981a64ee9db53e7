"""Adds the paths of the web page to the application: its files, read once, with the headers that keep it to itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response

from himar_kernels import HimarError

from .. import paths

FILES = Path(__file__).with_name("files")
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Cache-Control": "no-cache",  # kept, but asked for again: a newer server's page is seen at once
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        "trusted-types 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Of every file; the C++ server's are the same (runtime/cpp/service/page.cpp)."""

_READ = ["GET", "HEAD"]


@dataclass(frozen=True)
class PageFile:
    """A file's bytes, media type, and entity tag: the beginning of their SHA-256."""

    body: bytes
    media_type: str
    tag: str


def read_files() -> dict[str, PageFile]:
    """Return the page's files by their paths on the server. HimarError where the installation lacks them."""
    files = {}
    for path in sorted(FILES.glob("*.*")):
        body = path.read_bytes()
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        where = paths.PAGE if path.name == INDEX else f"{paths.PAGE_FILES}{path.name}"
        files[where] = PageFile(body, TYPES[path.suffix], tag)
    if paths.PAGE not in files:
        raise HimarError(f"{FILES / INDEX} is missing, the page that this server shows; install himar again.")
    return files


def add_page(app: FastAPI) -> None:
    """Add `/` and the files that its page loads."""
    for where, file in read_files().items():
        app.add_api_route(where, _endpoint(file), methods=_READ)


def _endpoint(file: PageFile):  # type: ignore[no-untyped-def]  # FastAPI reads the annotations of what it returns
    async def endpoint(request: Request) -> Response:
        headers = {**HEADERS, "ETag": file.tag}
        if is_known(request.headers.get("if-none-match", ""), file.tag):
            return Response(status_code=304, headers=headers)
        return Response(file.body, media_type=file.media_type, headers=headers)

    return endpoint


def is_known(if_none_match: str, tag: str) -> bool:
    """Whether a client has the file already, by the tags that it sends (RFC 9110, 13.1.2)."""
    sent = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return tag in sent or "*" in sent
