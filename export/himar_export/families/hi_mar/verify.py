"""Replays a recording of Hi-MAR through the engines of a bundle: each component, and whole runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from himar_export.verify.compare import Comparison, compare
from himar_export.verify.limits import COMPONENT_LIMIT, RUN_LIMIT, RUN_MEANINGLESS, stated_precisions
from himar_kernels import to_values
from himar_kernels.arithmetic.resize import resized_values
from himar_kernels.families.hi_mar import (
    Phase,
    RecordedDraws,
    SamplingConfig,
    Solver,
    build_chain,
    guide_rows,
    index_lists,
    phase_chains,
    plan,
    recorded_request,
)
from himar_kernels.families.hi_mar.phases import PhaseInfo
from himar_kernels.families.registry import TEXT_ENCODER, VAE_ENCODER
from himar_runtime import Bundle, Networks, Pipeline
from himar_runtime.families.hi_mar.family import empty_context, hi_mar_model

from .recordings import PHASE_ARRAYS, Arrays, recorded_name

RUN_REFERENCE_GAIN = 126.0
"""Of the released 250 steps' chain, at which RUN_LIMIT holds: rounding of the first diffusion step is magnified by the
chain (Chain.first_step_gain), and the limit grows with the gain. Where a chain is so short that it passes
RUN_MEANINGLESS, the run has to be finite, no more."""

FLOAT32_GAIN = 5.1
"""How many times float32's limit grows at the most: as a self-test's chain of 50 steps magnifies. Engines of trained
models are a fifth of that from eager PyTorch, which itself is a tenth of it from its own other kernels."""


def replay_run(pipeline: Pipeline, arrays: Arrays, case: str) -> list[Comparison]:
    """Replay a whole run from its recorded draws."""
    request = recorded_request(arrays, case)
    model = hi_mar_model(pipeline.bundle.manifest)
    steps = plan(request.sampling, model.low_positions, model.high_positions)
    guidance = np.array([step.guidance for step in steps], np.float32)
    shown = {"labels": request.labels} if request.contexts is None else {"contexts": request.contexts}
    result = pipeline.generate(**shown, draws=RecordedDraws(arrays, case), sampling=request.sampling)
    low_limit, high_limit = run_limits(pipeline.bundle, request.sampling)
    scale = np.float32(model.vae_scale)
    comparisons = [compare(f"run {case}: guidance of every step", guidance, request.guidance, 0.0)]
    if not model.single_scale:
        name = f"run {case}: low latent"
        comparisons.append(compare(name, result.low_latents * scale, request.low_latent, low_limit))
    return [*comparisons, compare(f"run {case}: latent", result.latents * scale, request.latent, high_limit)]


def run_limits(
    bundle: Bundle, sampling: SamplingConfig, float32_gain: float = FLOAT32_GAIN
) -> tuple[float | None, float | None]:
    """Return the largest relative error of a whole run's low latents and latents, for the precisions of their phases.

    float32_gain: how many times float32's limit grows at the most.
    None where there is no such phase, and where the chain is so short that rounding alone may pass RUN_MEANINGLESS.
    """
    precisions, chains, limit = stated_precisions(bundle), phase_chains(sampling), 0.0
    limits: dict[Phase, float | None] = {"low": None, "high": None}
    for phase in hi_mar_model(bundle.manifest).phases:  # what a phase gets wrong, the next one starts from
        worst = max((precisions[name] for name in (phase.transformer, phase.head)), key=RUN_LIMIT.__getitem__)
        # A solver's chain hardly magnifies its first step's rounding; that of every step is left.
        gain = max(1.0, *(chain.first_step_gain / RUN_REFERENCE_GAIN for chain in chains[phase.name]))
        limit = max(limit, RUN_LIMIT[worst] * (min(gain, float32_gain) if worst == "fp32" else gain))
        limits[phase.name] = limit if limit <= RUN_MEANINGLESS else None
    return limits["low"], limits["high"]


def replay_components(bundle: Bundle, networks: Networks, arrays: Arrays) -> Iterator[Comparison]:
    """Compare what a recording holds of each component, and the tables of its chains, with what the bundle gives."""
    limits = {name: COMPONENT_LIMIT[precision] for name, precision in stated_precisions(bundle).items()}
    phases = hi_mar_model(bundle.manifest).phases
    for phase in phases:
        recorded = f"{PHASE_ARRAYS[phase.name]}/z"
        for expected in (recorded, f"{recorded}_all_masked"):
            if expected in arrays:
                yield from _transformer(bundle, networks, arrays, phase, expected, limits[phase.transformer])
    for phase in phases:
        if f"{recorded_name(phase.head)}/out" in arrays:
            yield from _heads(bundle, networks, arrays, phase, limits)
    decoded = next((prefix for prefix in ("vae/", "") if f"{prefix}decoded" in arrays), None)
    if decoded is not None and networks.vae_decoder is not None:
        image = networks.vae_decoder.run({"latent": arrays[f"{decoded}latent"]})["image"]
        yield compare("vae_decoder: image", image, arrays[f"{decoded}decoded"], limits["vae_decoder"])
    if "edit/image_u8" in arrays and VAE_ENCODER in networks.engines:
        yield from _encoder(bundle, networks, arrays, limits[VAE_ENCODER])
    if "edit/z" in arrays and (name := hi_mar_model(bundle.manifest).edit_transformer) in networks.engines:
        assert name is not None
        yield _edit_transformer(bundle, networks, arrays, name, limits[name])
    if "text/context" in arrays and TEXT_ENCODER in networks.engines:
        context = networks[TEXT_ENCODER].run({"tokens": arrays["text/tokens"]})["context"]
        yield compare(f"{TEXT_ENCODER}: context", context, arrays["text/context"], limits[TEXT_ENCODER])
    for phase in phases:
        if f"schedule/{recorded_name(phase.head)}/timesteps" in arrays:
            yield from _schedule(arrays, phase.head)


def _transformer(
    bundle: Bundle, networks: Networks, arrays: Arrays, phase: PhaseInfo, expected: str, limit: float
) -> Iterator[Comparison]:
    """One run of a phase's transformer: the pivots that it leaves, and its head's condition."""
    known = arrays[f"{PHASE_ARRAYS[phase.name]}/mask"][:, : phase.always + phase.positions] == 0
    nothing = expected.endswith("all_masked")
    if nothing:
        known = np.zeros_like(known)
    inputs = {**_shown(bundle, arrays), phase.tokens: arrays[f"t/{phase.tokens}"]}
    if phase.pivot_width:
        inputs["pivots"] = arrays["t/pivots"]
    outputs = networks[phase.transformer].run({**inputs, **_indices(bundle, known)})
    z = arrays[expected][:, phase.always : phase.always + phase.positions]
    suffix = ", nothing known" if nothing else ""
    if phase.leaves_pivots:
        yield compare(f"{phase.transformer}: pivots{suffix}", outputs["pivots"], z, limit)
    condition = _embed(bundle, phase.head, z)
    yield compare(f"{phase.transformer}: condition{suffix}", outputs["condition"], condition, limit)


def _encoder(bundle: Bundle, networks: Networks, arrays: Arrays, limit: float) -> Iterator[Comparison]:
    """The latents of an image in full size and in that of the low tokens."""
    model, pixels = hi_mar_model(bundle.manifest), arrays["edit/image_u8"]
    latent = networks[VAE_ENCODER].run({"image": to_values(pixels)})["latent"]
    yield compare(f"{VAE_ENCODER}: latent", latent, arrays["edit/latent"], limit)
    if "edit/low_latent" in arrays:
        image = resized_values(pixels, model.cond_scale * model.vae_stride)
        low_latent = networks[VAE_ENCODER].run({"image": image})["latent"]
        yield compare(f"{VAE_ENCODER}: low latent", low_latent, arrays["edit/low_latent"], limit)


def _edit_transformer(bundle: Bundle, networks: Networks, arrays: Arrays, name: str, limit: float) -> Comparison:
    """One run of phase high's transformer with placeholders in place of some pivots."""
    phase = hi_mar_model(bundle.manifest).phase("high")
    known = arrays["phase2/mask"] == 0
    inputs = {
        **_shown(bundle, arrays),
        "tokens": arrays["t/tokens"],
        "pivots": arrays["t/pivots"],
        "guides": guide_rows(~arrays["edit/low_known"].astype(np.bool_)),
    }
    outputs = networks[name].run({**inputs, **_indices(bundle, known)})
    condition = _embed(bundle, phase.head, arrays["edit/z"][:, phase.always :])
    return compare(f"{name}: condition", outputs["condition"], condition, limit)


def _heads(
    bundle: Bundle, networks: Networks, arrays: Arrays, phase: PhaseInfo, limits: Mapping[str, float]
) -> Iterator[Comparison]:
    """Run a head, and its two parts where the bundle has them.

    They run row by row, since a recording's rows stand at different timesteps and a run has one.
    """
    name = recorded_name(phase.head)
    x, z = arrays[f"{name}/x"], arrays[f"{name}/{'c' if phase.kind == 'mlp' else 'z'}"]
    out = arrays[f"{name}/out"]
    if phase.kind == "dit":
        x, z, out = (_tokens(grid) for grid in (x, z, out))
    condition = _embed(bundle, phase.head, z)
    rows = [
        {"x": x[i : i + 1], "timestep": np.array([t]), "condition": condition[i : i + 1]}
        for i, t in enumerate(arrays[f"{name}/t"])
    ]
    whole = [networks[phase.head].run(row)["prediction"] for row in rows]
    yield compare(f"{phase.head}: prediction", np.concatenate(whole), out, limits[phase.head])
    if phase.held is not None and set(phase.held) <= set(networks.engines):
        maker, held = (networks[each] for each in phase.held)
        parts = [held.run({"x": row.pop("x"), **maker.run_on_device(row)})["prediction"] for row in rows]
        limit = max(limits[each] for each in phase.held)
        yield compare(f"{phase.held[1]}: prediction", np.concatenate(parts), out, limit)


def _schedule(arrays: Arrays, head: str) -> Iterator[Comparison]:
    """The chain of a recording's diffusion steps: indices exactly, tables to float64's rounding."""
    name = recorded_name(head)
    solver = cast(Solver, str(arrays.get(f"schedule/{name}/solver", "ddpm")))
    chain = build_chain(solver, len(arrays[f"schedule/{name}/timesteps"]))
    for table, limit in (("timesteps", 0.0), ("betas", 1e-9), ("alphas_cumprod", 1e-9)):
        key = f"schedule/{name}/{table}"
        if key in arrays:
            yield compare(f"{head}: {table}", getattr(chain, table), arrays[key], limit)


def _shown(bundle: Bundle, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """What a transformer's rows show: recorded labels or contexts, the last row unconditional (golden/README.md)."""
    empty = empty_context(bundle)
    rows = np.array(arrays["t/labels" if empty is None else "t/contexts"])
    rows[-1] = hi_mar_model(bundle.manifest).classes if empty is None else empty
    return {"class_row": rows.astype(np.int64)} if empty is None else {"context": rows.astype(np.float32)}


def _indices(bundle: Bundle, known: NDArray[np.bool_]) -> dict[str, NDArray[np.int64]]:
    model = hi_mar_model(bundle.manifest)
    lists = index_lists(known, model.buffer, model.positions)
    return {"visible": lists.visible, "sources": lists.sources}


def _embed(bundle: Bundle, component: str, z: NDArray[Any]) -> NDArray[np.float32]:
    """Embed raw z (…, D) as the transformer's graph does for this head, from the bundle's weights."""
    entry = bundle.manifest.raw["components"][component]["condition_embedding"]
    weight, bias = (bundle.array(entry[name]) for name in ("weight", "bias"))
    return z.astype(np.float32) @ weight + bias


def _tokens(grid: NDArray[Any]) -> NDArray[Any]:
    """(M, C, h, w) → (M, h·w, C), row-major."""
    return grid.reshape(*grid.shape[:2], -1).transpose(0, 2, 1)
