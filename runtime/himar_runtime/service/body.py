"""Reads a request's body within limits, and notices when its client goes away."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.requests import ClientDisconnect

from .request import RefusalError
from .service import ClientGoneError


async def read_body(request: Request, most: int, seconds: float) -> bytes:
    """Read a body of at most `most` bytes that arrives within `seconds`.

    Raises RefusalError (400, 411, 413), and ClientGoneError when the client goes away before its end.
    """
    declared = request.headers.get("content-length")
    if declared is None and "chunked" not in request.headers.get("transfer-encoding", "").lower():
        raise RefusalError(411, "the request has no Content-Length; send one, or a chunked body.")
    if declared is not None and int(declared) > most:
        raise RefusalError(413, f"the body has {declared} bytes; send at most {most}.")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise RefusalError(
                        413, f"the body has more than {most} bytes; send fewer.", {"Connection": "close"}
                    )
    except TimeoutError:
        raise RefusalError(
            400, f"the body did not arrive within {seconds:g} s; send it without a pause.", {"Connection": "close"}
        ) from None
    except ClientDisconnect:
        raise ClientGoneError from None
    return bytes(body)


async def disconnected(request: Request) -> None:
    """Return when the client has gone; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
