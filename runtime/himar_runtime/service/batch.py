"""Runs the requests of several clients in one call of the engines: each gets what it would get alone.

An image depends on its seed, index and label (or prompt) only, an edit on its image and mask too, so who else is in a
batch changes nothing of it but rounding.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from himar_kernels import HimarError

from ..families.family import runtime_family
from ..pipeline import Pipeline
from ..result import Progress, Result
from .job import Job
from .request import RefusalError

log = logging.getLogger(__name__)

Outcome = tuple[Result, float] | HimarError
"""A job's complete result with the seconds that making it took, or why there is none."""


def run(pipeline: Pipeline, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
    """Yield what becomes of each job, but for those that were cancelled meanwhile.

    The call goes on as long as one of the jobs does. If it fails, each job that is left runs again alone: it is
    refused for its own failures only.
    """
    start = time.monotonic()
    result: Result | None = None
    try:
        result = _generate(pipeline, jobs)
    except Exception as error:
        if len(jobs) == 1:
            yield jobs[0], _as_failure(error)
            return
        reason = str(error) or type(error).__name__
        log.warning("a call with %d requests failed (%s); each runs again alone", len(jobs), reason)
    if result is None:
        # The error is gone by now, and what the call held with it: it may have failed for want of memory.
        for job in jobs:
            if not job.cancelled:
                yield from run(pipeline, [job])
        return
    if result.status == "cancelled":
        return
    seconds = time.monotonic() - start
    for job, first in zip(jobs, _firsts(jobs), strict=True):
        if not job.cancelled:
            yield job, (result.of(first, job.images), seconds)


def _generate(pipeline: Pipeline, jobs: Sequence[Job]) -> Result:
    requests = [job.request for job in jobs]
    labels: list[Any] = [request.labels for request in requests]
    source: dict[str, Any]
    if len(requests) == 1:
        source = {"seed": requests[0].seed, "first_index": requests[0].first_index}
    else:
        family = runtime_family(pipeline.bundle.manifest.family)
        seeds = [request.seed for request in requests for _ in range(request.images)]
        indices = [request.first_index + place for request in requests for place in range(request.images)]
        source = {"draws": family.image_draws(seeds, indices)}
    of_all = None if labels[0] is None else np.concatenate(labels)
    source |= {"sampling": requests[0].sampling, "on_step": _watch(jobs)}
    edits = [request.edit for request in requests if request.edit is not None]
    if edits:
        images, masks = (np.concatenate([getattr(edit, name) for edit in edits]) for name in ("images", "masks"))
        return pipeline.edit(images, masks, of_all, **source)
    prompts = [text for request in requests for text in request.prompts or ()] or None
    return pipeline.generate(of_all, prompts=prompts, **source)


def _watch(jobs: Sequence[Job]) -> Callable[[Progress], bool]:
    if len(jobs) == 1:
        return jobs[0].should_continue
    parts = list(zip(jobs, _firsts(jobs), strict=True))

    def should_continue(step: Progress) -> bool:
        return any([job.should_continue(step.of(first, job.images)) for job, first in parts])

    return should_continue


def _firsts(jobs: Sequence[Job]) -> Iterator[int]:
    """Return the place of each job's first image among all."""
    return accumulate([job.images for job in jobs[:-1]], initial=0)


def _as_failure(error: Exception) -> HimarError:
    if isinstance(error, HimarError):
        return error
    # The lane must live on: the next request may be fine.
    log.error("a request failed unexpectedly", exc_info=error)
    return RefusalError(500, f"the request failed with an unexpected {type(error).__name__}; see the log.")
