"""Routes HTTP requests. What they answer is in docs/service.md."""

from __future__ import annotations

import asyncio
import json

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from himar_kernels import HimarError, InputError

from .accounts import IMAGES_PATH, Accounts, Exchange
from .answer import JSON, refusal
from .metrics import CONTENT_TYPE
from .request import RefusalError, check_content_type, read_request
from .service import ClientGoneError, Service

_READ = ["GET", "HEAD"]


def create_app(service: Service) -> FastAPI:
    """Return the ASGI application of a service."""
    app = FastAPI(title="himar", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Accounts, service=service)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(HimarError, _himar_error)

    @app.post(IMAGES_PATH)
    async def images(request: Request) -> Response:
        exchange: Exchange = request.state.exchange
        service.refuse_when_draining()
        check_content_type(request.headers.get("content-type", ""), request.headers.get("content-encoding", ""))
        body = await _read_body(request, service.settings.max_body, service.settings.timeout)
        accept = ",".join(request.headers.getlist("accept"))
        wanted = read_request(body, accept, service.manifest, service.settings.max_images)
        exchange.job = service.accept(wanted)
        answer = await service.answer(exchange.job, lambda: _disconnected(request))
        exchange.images = answer.images
        return Response(answer.body, media_type=answer.media_type, headers=answer.headers)

    @app.api_route("/v1/model", methods=_READ)
    async def model() -> Response:
        return JSONResponse(service.describe())

    @app.api_route("/healthz", methods=_READ)
    async def healthz() -> Response:
        if service.draining:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ok"})

    @app.api_route("/metrics", methods=_READ)
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return app


async def _read_body(request: Request, most: int, seconds: float) -> bytes:
    """Read a body of at most `most` bytes that arrives within `seconds`."""
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


async def _disconnected(request: Request) -> None:
    """Return when the client has gone; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = json.dumps(request.url.path)
    if error.status_code == 404:
        sentence = f"there is no path {path}; there are {IMAGES_PATH}, /v1/model, /healthz and /metrics."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        sentence = f"{path} does not take {request.method}; use {allowed}."
    else:
        sentence = f"{error.detail}."
    return _answer(error.status_code, sentence, error.headers)


async def _himar_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RefusalError):
        return _answer(error.status, str(error), error.headers)
    return _answer(400 if isinstance(error, InputError) else 500, str(error))


def _answer(status: int, sentence: str, headers: object = None) -> Response:
    extra = dict(headers) if isinstance(headers, dict) else None
    return Response(refusal(sentence).body, status, extra, JSON)
