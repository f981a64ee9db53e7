"""Models from text in every variant through both loops: the tokens must be those of the eager sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from himar.families.hi_mar.model import HiMAR, randomise
from himar.families.hi_mar.presets import VARIANTS
from himar.families.hi_mar.sampler import two_phase
from himar_export.families.hi_mar.phases import model_info
from himar_kernels import PhiloxDraws
from himar_runtime import Pipeline
from himar_runtime.families.hi_mar.host import HostRunner
from himar_runtime.families.hi_mar.resident.runner import ResidentRunner
from tests.closeness import RUN, SAME_ENGINES, assert_near
from tests.export import graph_engines
from tests.export.test_variant_loops import grid
from tests.himar import tiny_text
from tests.runtime.host_lane import HostLane, on_host_lane

RELEASED = None
CONTEXTS = tiny_text.contexts(3)


def _model(variant: str | None) -> HiMAR:
    model = randomise(tiny_text.build(variant), 5).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # So that what a network is told weighs as much as the state that it is given.
        if any(part in name for part in ("final_layer", "adaLN_modulation", "text_proj", "attn.proj", "cond_z_proj")):
            parameter *= 4
    return model


def _pipelines(model: HiMAR, host_kernels: Any) -> tuple[Pipeline, Pipeline]:
    """Return the loop on the host and the resident one, with the graphs of the components as engines."""
    networks, info = graph_engines.graph_networks(model), model_info(model.config)
    bundle, empty = graph_engines.bundle_of(model, networks), model.empty_context[0].numpy()
    lane = HostLane(host_kernels)
    resident = ResidentRunner(on_host_lane(networks.clone(), lane), lane, info, 3, empty)
    return Pipeline(bundle, HostRunner(networks, info, empty)), Pipeline(bundle, resident)


@pytest.mark.parametrize("variant", [RELEASED, *VARIANTS])
def test_both_loops_give_the_eager_tokens(host_kernels, variant):
    model = _model(variant)
    scale = np.float32(model.config.vae_scale)
    for high in (2.0, 1.0):
        sampling = model.config.default_sampling.with_changes(high_guidance=high)
        eager = two_phase(model, contexts=CONTEXTS, draws=PhiloxDraws(7), sampling=sampling, first_index=9)
        for pipeline in _pipelines(model, host_kernels):
            result = pipeline.generate(contexts=CONTEXTS.numpy(), seed=7, sampling=sampling, first_index=9)
            assert_near(result.latents * scale, grid(eager.tokens), RUN)
            assert_near(result.low_latents * scale, grid(eager.low_tokens), RUN)
            assert np.linalg.norm(result.latents) > 0


@pytest.mark.parametrize("variant", [RELEASED, "single-scale", "visual"])
def test_an_image_depends_on_its_context_alone_and_not_on_its_batch(host_kernels, variant):
    pipeline, _ = _pipelines(_model(variant), host_kernels)
    usual = pipeline.generate(contexts=CONTEXTS.numpy(), seed=3).latents
    for index in range(3):
        alone = pipeline.generate(contexts=CONTEXTS[index : index + 1].numpy(), seed=3, first_index=index).latents
        assert_near(alone[0], usual[index], SAME_ENGINES)
    other = CONTEXTS.numpy().copy()
    other[1] = CONTEXTS[2]
    changed = pipeline.generate(contexts=other, seed=3).latents
    assert_near(changed[[0, 2]], usual[[0, 2]], SAME_ENGINES)
    assert np.linalg.norm(changed[1] - usual[1]) > 1e-3 * np.linalg.norm(usual[1])
