"""Replays a recording of HMAR through the engines of a bundle: all scales with true codes, and whole runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_export.verify.compare import Comparison, compare
from himar_export.verify.limits import COMPONENT_LIMIT, RUN_LIMIT, stated_precisions
from himar_export.verify.recording import Recording
from himar_kernels import to_values
from himar_kernels.families.hmar import (
    RecordedDraws,
    decode_codes,
    encode_latent,
    recorded_masks,
    recorded_request,
    recorded_samples,
)
from himar_kernels.families.hmar.sizes import (
    CONDITIONS,
    MASKED_TAIL,
    NEXT_SCALE_TAIL,
    TRUNK,
    VAR_TAIL,
    VAR_TRUNK,
)
from himar_kernels.families.registry import VAE_DECODER, VAE_ENCODER
from himar_runtime import Bundle, Engine, Networks, Pipeline
from himar_runtime.families.hmar.family import hmar_model
from himar_runtime.families.hmar.host import load_codebook
from himar_runtime.families.hmar.loop import Observed, Request, run_scales

_EXACT_LIMIT = 1e-5
"""Of the latent that recorded codes add up to: float32 arithmetic on the host, whatever the engines' precision."""
SMOOTH_LIMIT = 1e-3
"""Of a smooth preview's latent: a small temperature amplifies rounding."""


def replay_tokenizer(bundle: Bundle, networks: Networks, arrays: Recording) -> Iterator[Comparison]:
    """Compare the tokenizer on recorded images of the bundle's sides: arrays `…/image_u8` and what stands beside them.

    f is the encoder's latent, codes those of it, f_hat what recorded codes add up to, decoded the images of that.
    """
    model, limits, book = hmar_model(bundle.manifest), _limits(bundle), load_codebook(bundle)
    for name in sorted(name for name in arrays if name.endswith("/image_u8")):
        case, pixels = name.rpartition("/")[0], arrays[name]
        if pixels.shape[1:] != (3, model.img_size, model.img_size) or f"{case}/f" not in arrays:
            continue
        if VAE_ENCODER in networks.engines:
            latent = _in_parts(networks[VAE_ENCODER], "image", to_values(pixels.transpose(0, 2, 3, 1)))["latent"]
            yield compare(f"{VAE_ENCODER} {case}: latent", latent, arrays[f"{case}/f"], limits[VAE_ENCODER])
            if f"{case}/codes" in arrays:
                codes = encode_latent(book, model.scales, latent)
                yield compare(f"{VAE_ENCODER} {case}: codes", codes, arrays[f"{case}/codes"], 0.0)
        if f"{case}/f_hat" in arrays and f"{case}/codes" in arrays:
            latents = decode_codes(book, model.scales, arrays[f"{case}/codes"])
            yield compare(f"tokenizer {case}: latents of codes", latents, arrays[f"{case}/f_hat"], _EXACT_LIMIT)
            if f"{case}/decoded" in arrays:
                image = _in_parts(networks[VAE_DECODER], "latent", arrays[f"{case}/f_hat"][-1])["image"]
                yield compare(f"{VAE_DECODER} {case}: image", image, arrays[f"{case}/decoded"], limits[VAE_DECODER])


def _in_parts(engine: Engine, name: str, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
    parts = [engine.run({name: rows[row : row + 1]}) for row in range(len(rows))]
    return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}


def teacher_forced(bundle: Bundle, networks: Networks, arrays: Recording) -> Iterator[Comparison]:
    """Compare the networks on the inputs that true codes give, scale by scale: arrays `tf/…`."""
    if "tf/nsp_logits" not in arrays:
        return
    model, limits = hmar_model(bundle.manifest), _limits(bundle)
    labels, ahead, own = arrays["tf/labels"].astype(np.int64), arrays["tf/ns_input"], arrays["tf/mask_input"]
    conditions = networks[CONDITIONS].run({"class_row": labels})
    masked = np.broadcast_to(arrays["tf/masked"].astype(np.float32), (len(labels), model.scales.tokens))
    first = np.zeros((len(labels), model.scales.cells[0], model.latent_channels), np.float32)
    words = {
        NEXT_SCALE_TAIL: np.concatenate([first, ahead], axis=1),
        MASKED_TAIL: np.concatenate([first, ahead + own], axis=1),
    }
    hidden = np.concatenate([first, ahead], axis=1)
    words[MASKED_TAIL] = np.where(masked[..., None] > 0, hidden, words[MASKED_TAIL])
    for tail, recorded in ((NEXT_SCALE_TAIL, "tf/nsp_logits"), (MASKED_TAIL, "tf/mp_logits")):
        if recorded not in arrays or tail not in networks.engines:
            continue
        found = []
        for scale in range(len(model.scales)):
            span = model.scales.span(scale)
            cond = conditions["cond"][:, None]
            inputs = {
                "words": words[tail][:, span],
                "masked": masked[:, span] if tail == MASKED_TAIL else np.zeros_like(masked[:, span]),
                "cells": np.arange(span.start, span.stop),
                "start": np.zeros_like(cond) if scale else cond,
            }
            vectors = {"vectors": conditions[TRUNK]} if TRUNK in conditions else {}
            x = networks[TRUNK].run({**inputs, **vectors})["x"]
            own_vectors = {"vectors": conditions[tail]} if tail in conditions else {}
            found.append(networks[tail].run({"x": x, "head": conditions[f"{tail}_head"], **own_vectors})["logits"])
        limit = max(limits[name] for name in (CONDITIONS, TRUNK, tail))
        yield compare(f"{tail}: logits of all scales", np.concatenate(found, axis=1), arrays[recorded], limit)


def replay_forwards(bundle: Bundle, networks: Networks, arrays: Recording, case: str) -> Iterator[Comparison]:
    """Compare every forward's logits, and the image of the recorded latent; codes and masked cells are the recorded."""
    model, limits = hmar_model(bundle.manifest), _limits(bundle)
    request = recorded_request(arrays, case)
    seen: list[Observed] = []
    asked = Request(request.labels, np.arange(len(request.labels)), request.sampling, RecordedDraws(arrays, case))
    run_scales(
        networks,
        model,
        load_codebook(bundle),
        asked,
        lambda step, latent: True,
        forced=recorded_samples(request),
        forced_masks=recorded_masks(request),
        on_forward=seen.append,
    )
    pairs: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = defaultdict(list)
    recorded = {(each.scale, each.step): each for each in request.forwards}
    for observed in seen:
        each = recorded[observed.forward.scale, observed.forward.step]
        tail = MASKED_TAIL if observed.forward.step else NEXT_SCALE_TAIL
        for found, expected in (
            (observed.cond, each.cond),
            (observed.uncond, each.uncond),
            (observed.logits, each.logits),
        ):
            if found is not None and expected is not None:
                pairs[tail].append((found[: len(expected)], expected))
    used = (VAR_TRUNK, VAR_TAIL) if request.sampling.all_scales else (TRUNK,)
    for tail, both in pairs.items():
        limit = max(limits[name] for name in (CONDITIONS, tail, *used) if name in limits)
        found, expected = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*both, strict=True))
        yield compare(
            f"run {case}: logits of {VAR_TAIL if request.sampling.all_scales else tail}", found, expected, limit
        )
    if request.image is not None:
        image = networks[VAE_DECODER].run({"latent": request.f_hat[-1][:1]})["image"][0]
        yield compare(f"run {case}: {VAE_DECODER}'s image", (image + 1) / 2, request.image, limits[VAE_DECODER])


def replay_run(pipeline: Pipeline, arrays: Recording, case: str) -> Iterator[Comparison]:
    """Compare a whole run from its recorded draws: every code, then the latent.

    In half precision and int8 one code that differs changes all that follow, so codes and latent are not judged there;
    the run has to end with finite values, and the forwards are judged with the recorded codes.
    """
    request = recorded_request(arrays, case)
    result = pipeline.generate(request.labels, draws=RecordedDraws(arrays, case), sampling=request.sampling)
    exact = set(stated_precisions(pipeline.bundle).values()) == {"fp32"}
    if not request.sampling.smooth:
        yield compare(f"run {case}: codes", result.arrays["codes"], request.codes, 0.0 if exact else None)
    expected = request.f_hat[-1]
    limit = (SMOOTH_LIMIT if request.sampling.smooth else RUN_LIMIT["fp32"]) if exact else None
    yield compare(f"run {case}: latent", result.latents[: len(expected)], expected, limit)


def _limits(bundle: Bundle) -> dict[str, float]:
    return {name: COMPONENT_LIMIT[precision] for name, precision in stated_precisions(bundle).items()}
