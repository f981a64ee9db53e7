"""The loop over scales as launches: words → trunk → tail → draw → remask → contribution, all on the device.

The same steps as `himar_runtime.families.hmar.loop` (docs/hmar-model.md §5), with every buffer in device memory: labels
go in, codes and images come out, and logits never leave. What a request may set (guidance, filters, how many cells
a step redraws) are arguments of launches outside the recorded segments, so that batch, scale and halves alone
decide which graph fits.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from himar_kernels.arithmetic.draws import image_origins
from himar_kernels.arithmetic.launches import check_finite
from himar_kernels.families.hmar import Forward, Kept, edited_share, launches
from himar_kernels.families.hmar.faults import FAULT_NUMBERS
from himar_kernels.families.hmar.sizes import (
    CONDITIONS,
    MASKED_TAIL,
    NEXT_SCALE_TAIL,
    TRUNK,
    VAR_TAIL,
    VAR_TRUNK,
)
from himar_runtime.families.hmar.loop import Request
from himar_runtime.families.hmar.resident.buffers import BYTE, FLOAT, INDEX, WORD
from himar_runtime.families.hmar.resident.lane import Lane, Work
from himar_runtime.queue.device import DeviceTensor
from himar_runtime.request import NO_CLASS


def begin(lane: Lane, request: Request, forwards: Sequence[Forward], kept: Kept | None) -> Work:
    """Upload what a request needs, of an edit what it keeps too, and queue what its classes alone decide."""
    buffers, device, model = lane.buffers, lane.device, lane.model
    work = Work(lane, request, None if kept is None else _upload_kept(lane, kept, forwards))
    labels = np.where(request.labels == NO_CLASS, model.classes, request.labels)
    if request.sampling.guidance:
        labels = np.concatenate([labels, np.full_like(labels, model.classes)])
    device.upload(buffers.class_row, labels.astype(np.int64))
    device.upload(buffers.origins, image_origins(request.draws, request.images))
    if request.sampling.all_scales:
        _ = lane.pasts  # allocated now, since no segment may be recorded meanwhile
    device.clear(buffers.fault, WORD)
    device.clear(buffers.latent, work.batch * model.latent_channels * model.scales.side**2 * FLOAT)
    lane.replays.run((CONDITIONS, len(labels)), functools.partial(_conditions, lane, len(labels)))
    return work


def _upload_kept(lane: Lane, kept: Kept, forwards: Sequence[Forward]) -> dict[int, NDArray[np.int64]]:
    """Upload an edit's codes, the cells that it draws, and how many each masked step redraws, which is returned."""
    scales, buffers = lane.model.scales, lane.buffers
    spans = [scales.span(scale) for scale in range(len(scales))]
    lane.device.upload(buffers.codes, np.concatenate([kept.codes[:, span].ravel() for span in spans]).astype(np.int64))
    edited = [kept.edited[:, span] for span in spans]
    lane.device.upload(buffers.edited, np.concatenate([cells.ravel() for cells in edited]).astype(np.uint8))
    redrawn = {
        forward.index: edited_share(
            forward.remasked, scales.cells[forward.scale], edited[forward.scale].sum(axis=1, dtype=np.int64)
        )
        for forward in forwards
    }
    lane.device.upload(buffers.counts, np.stack([redrawn[forward.index] for forward in forwards]).astype(np.uint32))
    return redrawn


def queue_scale(work: Work, forwards: Sequence[Forward]) -> None:
    """Queue all forwards of one scale, and add its codes to the latent that the scales before it left."""
    for forward in forwards:
        key = (_tail(forward), work.request.sampling.all_scales, work.batch, forward.scale, forward.halves)
        # Masked steps read their cells from two places in turn.
        work.lane.replays.run((*key, forward.step % 2), functools.partial(_logits, work, forward))
        masked = _masked(work, forward)
        _draw(work, forward, masked)
        if work.redrawn is not None and not work.redrawn[forward.index].any():
            break
        if forward.remasked:
            _remask(work, forward, masked)
    scale, lane = forwards[0].scale, work.lane
    _contribute(work, scale, lane.buffers.latent)


def codes_at(work: Work, scale: int) -> int:
    """Return where the codes int64 (B, T_s) of a scale lie: right after those of the scales before it."""
    return work.lane.buffers.codes + work.batch * work.lane.model.scales.starts[scale] * INDEX


def _tail(forward: Forward) -> str:
    return MASKED_TAIL if forward.step else NEXT_SCALE_TAIL


def _conditions(lane: Lane, rows: int) -> None:
    """Queue the component that the class alone feeds; note what it leaves that is not finite."""
    outputs = {name: lane.vectors.tensor(name, rows) for name in lane.vectors.shapes}
    lane.engines[CONDITIONS].enqueue({"class_row": lane.buffers.tensor("class_row", rows), **outputs})
    for tensor in outputs.values():
        lane.device.launch(
            check_finite(
                values=tensor.address, count=int(np.prod(tensor.shape)), state=lane.buffers.state,
                fault=lane.buffers.fault, component=FAULT_NUMBERS[CONDITIONS],
            )
        )  # fmt: skip


def _logits(work: Work, forward: Forward) -> None:
    """Queue a forward from the latent, and in a masked step the present codes, to its logits (H·B, T, V)."""
    lane = work.lane
    model, engines, vectors = lane.model, lane.engines, lane.vectors
    rows, cells = forward.halves * work.batch, model.scales.cells[forward.scale]
    x = lane.buffers.tensor("x", rows, cells, model.width)
    start = vectors.tensor("cond", rows).address if forward.scale == 0 else lane.buffers.zeros
    trunk = {
        "words": _words(work, forward),
        "cells": DeviceTensor(lane.constants.cells[forward.scale], (cells,)),
        "start": DeviceTensor(start, (rows, 1, model.width)),
        "x": x,
        **vectors.of_blocks(TRUNK, rows),
    }
    tail = {
        "x": x,
        "head": vectors.tensor(f"{_tail(forward)}_head", rows),
        "logits": lane.buffers.tensor("logits", rows, cells, model.vocab),
        **vectors.of_blocks(_tail(forward), rows),
    }
    if work.request.sampling.all_scales:
        for name, tensors in ((VAR_TRUNK, trunk), (VAR_TAIL, tail)):
            past = lane.pasts[name]
            engines[name].enqueue({**tensors, **past.tensors(forward.scale, rows)})
            for launch in past.joins(forward.scale, rows):
                lane.device.launch(launch)
        return
    shown = lane.buffers.tensor("shown" if forward.step else "zeros", rows, cells)
    engines[TRUNK].enqueue({**trunk, "masked": shown})
    engines[_tail(forward)].enqueue(tail)


def _words(work: Work, forward: Forward) -> DeviceTensor:
    """Queue n_s (H·B, T, Cv), in a masked step with m_s at visible cells and the mask at `shown`; 0 at scale 0."""
    lane, scale = work.lane, forward.scale
    buffers, scales = lane.buffers, lane.model.scales
    shape = (forward.halves * work.batch, scales.cells[scale], lane.model.latent_channels)
    if not scale:
        return buffers.tensor("zeros", *shape)
    sizes = {"batch": work.batch, "halves": forward.halves}
    own = masked = None
    if forward.step:
        _contribute(work, scale, None)
        own, masked = buffers.own, buffers.masked_at(forward.step)
        lane.device.launch(launches.show_masked(shown=buffers.shown, masked=masked, T=scales.cells[scale], **sizes))
    lane.device.launch(
        launches.scale_words(
            words=buffers.words, latent=buffers.latent, own=own, masked=masked, down=lane.constants.down[scale],
            p=scales.sides[scale], side=scales.side, C=lane.model.latent_channels, **sizes,
        )
    )  # fmt: skip
    return buffers.tensor("words", *shape)


def _contribute(work: Work, scale: int, latent: int | None) -> None:
    """Queue what a scale's present codes add to the latent, at `own`; and add it where a latent is given."""
    lane = work.lane
    buffers, constants, scales = lane.buffers, lane.constants, lane.model.scales
    sizes = {"batch": work.batch, "H": scales.side, "C": lane.model.latent_channels}
    lane.device.launch(
        launches.upsample_codes(
            grid=buffers.grid, codes=codes_at(work, scale), embedding=constants.embedding, up=constants.up[scale],
            p=scales.sides[scale], **sizes,
        )
    )  # fmt: skip
    lane.device.launch(
        launches.add_contribution(
            own=buffers.own, latent=latent, grid=buffers.grid, weights=constants.weights, biases=constants.biases,
            k=scales.convolution(scale), **sizes,
        )
    )  # fmt: skip


def _masked(work: Work, forward: Forward) -> int | None:
    """Return where the cells are marked whose codes a forward draws; None draws all."""
    buffers, scales = work.lane.buffers, work.lane.model.scales
    if forward.step:
        return buffers.masked_at(forward.step)
    return None if work.redrawn is None else buffers.edited + work.batch * scales.starts[forward.scale] * BYTE


def _draw(work: Work, forward: Forward, masked: int | None) -> None:
    """Queue guidance, filters and draws of a forward."""
    lane, request, scale = work.lane, work.request, forward.scale
    buffers, sampling, T = lane.buffers, request.sampling, lane.model.scales.cells[scale]
    uniforms = None
    if not work.draws_on_device:
        uniforms = buffers.uniforms
        lane.device.upload(uniforms, request.draws.uniforms(scale, forward.step, request.images, T).astype(np.float32))
    lane.device.launch(
        launches.draw_codes(
            codes=codes_at(work, scale), confidence=buffers.confidence, logits=buffers.logits, uniforms=uniforms,
            masked=masked, origins=buffers.origins, fault=buffers.fault, weight=forward.guidance,
            top_p=sampling.top_p, top_k=sampling.top_k, scale=scale, step=forward.step,
            component=FAULT_NUMBERS[_tail(forward)], batch=work.batch, halves=forward.halves, T=T, V=lane.model.vocab,
        )
    )  # fmt: skip


def _remask(work: Work, forward: Forward, masked: int | None) -> None:
    """Queue the choice of the cells that the next step redraws, among those of this one."""
    lane, buffers = work.lane, work.lane.buffers
    chosen, T = buffers.masked_at(forward.step + 1), lane.model.scales.cells[forward.scale]
    if work.redrawn is None:
        launch = launches.least_confident(
            chosen=chosen, confidence=buffers.confidence, among=masked, count=forward.remasked, batch=work.batch, T=T
        )
    else:
        launch = launches.least_confident_of_each(
            chosen=chosen, confidence=buffers.confidence, among=masked,
            counts=buffers.counts + forward.index * work.batch * WORD, batch=work.batch, T=T,
        )  # fmt: skip
    lane.device.launch(launch)
