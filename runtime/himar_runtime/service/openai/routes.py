"""Adds the paths of OpenAI's API to the application."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from himar_kernels import HimarError

from .. import paths
from ..accounts import Exchange
from ..answer import Answer
from ..body import disconnected, read_body
from ..refusals import as_refusal
from ..request import RefusalError, check_content_type
from ..service import Service
from .answer import PAUSE, encode, error_event, failure
from .edit import most_bytes, read_edit
from .models import describe
from .request import Generation, read_generation
from .stream import EventStream, Partials

_SECONDS_OF_SILENCE = 10.0  # a proxy may close a connection on which nothing happens for longer
_READ = ["GET", "HEAD"]


def add_routes(app: FastAPI, service: Service) -> None:
    """Add /v1/images/generations, /v1/images/edits, /v1/models and each model's path."""
    name = service.name
    model = describe(name, service.settings.bundle)
    names = (name, service.bundle_id)

    @app.post(paths.GENERATIONS)
    async def generations(request: Request) -> Response:
        settings = service.settings
        body = await _body(request, service, "application/json", settings.max_body)
        # In a thread of its own: to find the names that are nearest to a wrong one takes tenths of a second.
        asked = await asyncio.to_thread(read_generation, body, service.manifest, names, settings.max_images)
        return await _respond(request, service, asked)

    @app.post(paths.EDITS)
    async def edits(request: Request) -> Response:
        settings = service.settings
        most = most_bytes(settings.max_body, service.manifest.model.img_size)
        body = await _body(request, service, "multipart/form-data", most)
        content_type = request.headers["content-type"]
        # In a thread of its own, which decodes the images.
        asked = await asyncio.to_thread(read_edit, body, content_type, service.manifest, names, settings.max_images)
        return await _respond(request, service, asked)

    @app.api_route(paths.MODELS, methods=_READ)
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    @app.api_route(f"{paths.MODELS}/{{asked:path}}", methods=_READ)
    async def one_model(asked: str) -> Response:
        if asked not in names:
            sentence = f"there is no model {asked!r}; this server has {name!r} alone."
            raise RefusalError(404, sentence, param="model", code="model_not_found")
        return JSONResponse(model)


async def _body(request: Request, service: Service, content_type: str, most: int) -> bytes:
    service.refuse_when_draining()
    headers = request.headers
    check_content_type(headers.get("content-type", ""), headers.get("content-encoding", ""), content_type)
    return await read_body(request, most, service.settings.timeout)


async def _respond(request: Request, service: Service, asked: Generation) -> Response:
    exchange: Exchange = request.state.exchange
    if asked.stream:
        return await _stream(request, exchange, service, asked)
    exchange.job = service.accept(asked.images, functools.partial(encode, asked))
    answer = exchange.answer = await service.answer(exchange.job, lambda: disconnected(request))
    return Response(answer.body, media_type=answer.media_type, headers=answer.headers)


async def _stream(request: Request, exchange: Exchange, service: Service, asked: Generation) -> EventStream:
    """Return the answer to a request for a stream, when there is something to begin it with.

    Until then a failure has its own status; later it is an event.
    """
    partials = Partials(asked, service.manifest) if asked.partial_images else None
    exchange.job = service.accept(asked.images, functools.partial(encode, asked), partials)
    events = _events(request, exchange, service)
    first = await anext(events)
    exchange.streams = True
    return EventStream(first, events, service.settings.timeout)


async def _events(request: Request, exchange: Exchange, service: Service) -> AsyncGenerator[bytes, None]:
    job = exchange.job
    assert job is not None
    gone: asyncio.Future[None] = asyncio.ensure_future(disconnected(request))
    begun = False
    try:
        while exchange.answer is None:
            found = await service.next(job, gone, _SECONDS_OF_SILENCE)
            if isinstance(found, Answer):
                exchange.answer, found = found, found.body
            yield PAUSE if found is None else found
            begun = True
    except HimarError as error:
        if not begun:
            raise
        refused = as_refusal(error)
        exchange.status = refused.status
        yield error_event(failure(refused.status, str(refused)))
    finally:
        gone.cancel()
        service.abandon(job)
