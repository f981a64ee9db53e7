"""Writes refusals in the form of the path that was asked for: a sentence, or OpenAI's object."""

from __future__ import annotations

from dataclasses import replace

from himar_kernels import HimarError, InputError

from . import paths
from .answer import JSON, Answer, refusal
from .openai.answer import failure, retry_headers
from .request import RefusalError


def refuse(path: str, error: RefusalError) -> Answer:
    """Return the answer that tells of an error."""
    status, sentence = error.status, str(error)
    if not paths.is_openai(path):
        return replace(refusal(sentence), headers=error.headers)
    headers = {**retry_headers(status), **error.headers}
    return Answer(failure(status, sentence, error.param, error.code), JSON, 0, headers)


def as_refusal(error: HimarError) -> RefusalError:
    """Return an error of the service, or of the library below it, with the status that it is answered with."""
    if isinstance(error, RefusalError):
        return error
    return RefusalError(400 if isinstance(error, InputError) else 500, str(error))
