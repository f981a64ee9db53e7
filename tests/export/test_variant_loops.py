"""Every variant through both loops: the tokens must be those of the eager sampler, which says how each one samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from himar.families.hi_mar.presets import VARIANTS
from himar.families.hi_mar.sampler import two_phase
from himar_export.bench.engines import timed
from himar_export.bench.time_breakdown import Clock, break_down_run
from himar_kernels import EngineError, InputError, PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig
from himar_runtime import Pipeline
from himar_runtime.families.hi_mar.resident.runner import ResidentRunner
from tests.closeness import RUN, SAME_ENGINES, assert_near, distance
from tests.export import graph_engines
from tests.runtime.host_lane import HostLane, on_host_lane

# Rows of table 5, and what a configuration may ask for besides them.
OTHERS = {
    "visual-dit": {"pivots": "visual", "low_head": "mlp", "high_head": "dit"},
    "dit-low": {"pivots": "condition", "low_head": "dit", "high_head": "mlp"},
    "visual-dit-low": {"pivots": "visual", "low_head": "dit", "high_head": "mlp", "scale_vector": "none"},
    "single-dit": {"pivots": "none", "cond_scale": 0, "high_head": "dit", "scale_vector": "none"},
}
EVERY = [*VARIANTS, *OTHERS]
GUIDED = SamplingConfig(2, 3, low_guidance=2.0, high_guidance=1.5, low_diffusion_steps=4, high_diffusion_steps=3)
LABELS = [0, 2, 1]


class HostDraws:
    """Philox's draws, made on the host: what any other source of draws looks like to a loop."""

    def __init__(self, seed: int) -> None:
        draws = PhiloxDraws(seed)
        self.order, self.initial_noise, self.noise = draws.order, draws.initial_noise, draws.noise


@pytest.fixture(scope="module")
def variant(small_variant):
    """A model by name, with its engines."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            model = small_variant(OTHERS.get(name, name))
            made[name] = model, graph_engines.graph_networks(model)
        return made[name]

    return get


@pytest.fixture
def pipelines(variant, host_kernels):
    """The pipelines of a variant: its model, the loop on the host, the resident loop in host memory."""

    def make(name: str, max_batch: int = 3) -> tuple[Any, Pipeline, Pipeline]:
        model, networks = variant(name)
        networks = networks.clone()
        bundle = graph_engines.bundle_of(model, networks, max_batch)
        resident = Pipeline(bundle, on_host_lane(networks.clone(), HostLane(host_kernels)))
        assert isinstance(resident._runner, ResidentRunner)
        return model, Pipeline(bundle, networks), resident

    return make


def grid(tokens: Any) -> np.ndarray:
    batch, n, channels = tokens.shape
    return tokens.numpy().transpose(0, 2, 1).reshape(batch, channels, round(n**0.5), round(n**0.5))


def require_eager(model: Any, result: Any, sampling: SamplingConfig, seed: int, first: int = 0) -> None:
    eager = two_phase(model, list(result.labels), draws=PhiloxDraws(seed), sampling=sampling, first_index=first)
    scale = np.float32(model.config.vae_scale)
    assert_near(result.latents * scale, grid(eager.tokens), RUN)
    assert_near(result.low_latents * scale, grid(eager.low_tokens), RUN)
    assert np.linalg.norm(result.latents) > 0


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.5), (2.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("name", EVERY)
def test_both_loops_give_the_eager_tokens(pipelines, name, low, high):
    model, *loops = pipelines(name)
    sampling = GUIDED.with_changes(low_guidance=low, high_guidance=high)
    for pipeline in loops:
        result = pipeline.generate(LABELS, seed=2**40 + 7, sampling=sampling, first_index=9)
        require_eager(model, result, sampling, 2**40 + 7, first=9)


@pytest.mark.parametrize("name", EVERY)
def test_an_image_depends_on_its_label_and_on_every_phase(pipelines, name):
    """Otherwise equality with eager would prove little."""
    model, pipeline, _ = pipelines(name)
    usual = pipeline.generate(LABELS, seed=3, sampling=GUIDED).latents
    changes = [{"labels": [0, 1, 1]}, {"sampling": GUIDED.with_changes(high_guidance=2.5)}]
    if not model.config.single_scale:
        changes.append({"sampling": GUIDED.with_changes(low_guidance=4.0)})
    for change in changes:
        other = pipeline.generate(**{"labels": LABELS, "seed": 3, "sampling": GUIDED, **change}).latents
        assert distance(other, usual) > 20 * RUN


@pytest.mark.parametrize("name", EVERY)
def test_chunks_clones_and_one_step_per_token(pipelines, name):
    model, host, resident = pipelines(name, max_batch=2)
    steps = 16 if name == "single-scale" else 2
    sampling = GUIDED.with_changes(high_steps=steps, low_steps=4, guidance_schedule="constant", temperature=0.8)
    for pipeline in (host.clone(), resident.clone()):
        result = pipeline.generate([2, 1, 0], seed=4, sampling=sampling)
        require_eager(model, result, sampling, 4)


@pytest.mark.parametrize("name", EVERY)
def test_replayed_segments_and_draws_of_the_host_give_the_same(pipelines, name):
    _, host, resident = pipelines(name)
    for draws in (HostDraws(2), PhiloxDraws(3)):
        found = resident.generate([1, 0], draws=draws, sampling=GUIDED)
        expected = host.generate([1, 0], draws=draws, sampling=GUIDED)
        assert_near(found.latents, expected.latents, SAME_ENGINES)
        assert_near(found.low_latents, expected.low_latents, SAME_ENGINES)
    lane = resident._runner._lane.device
    resident.generate([1, 0], seed=4, sampling=GUIDED)
    lane.trace.clear()
    resident.generate([1, 0], seed=5, sampling=GUIDED)
    assert "replay" in lane.trace
    assert not {engine for engine in lane.trace if engine in resident._runner._lane.engines}


@pytest.mark.parametrize("name", ["single-scale", "condition"])
def test_progress_counts_the_steps_that_there_are_and_can_cancel(pipelines, name):
    model, *loops = pipelines(name)
    for pipeline in loops:
        seen: list[tuple[str, int, int, int]] = []
        pipeline.generate(
            [0], sampling=GUIDED, on_step=lambda e, s=seen: s.append((e.phase, e.step, e.done, e.total)) or True
        )
        phases = ["high"] * 3 if model.config.single_scale else ["low"] * 2 + ["high"] * 3
        assert [event[0] for event in seen] == phases
        assert [event[2:] for event in seen] == [(i + 1, len(phases)) for i in range(len(phases))]
        assert pipeline.generate([0], sampling=GUIDED, on_step=lambda e: False).status == "cancelled"


@pytest.mark.parametrize(
    ("name", "component", "phase"),
    [
        ("single-scale", "transformer_high", "high"),
        ("single-scale", "mlp_head_high", "high"),
        ("single-dit", "dit_head_high", "high"),
        ("visual", "transformer_low", "low"),
        ("visual", "mlp_head_low", "low"),
        ("visual", "mlp_head_high", "high"),
        ("dit-high", "mlp_head", "low"),
        ("dit-high", "dit_head", "high"),
        ("dit-both", "transformer_low", "low"),
        ("dit-both", "dit_head_low", "low"),
        ("dit-both", "dit_head_high", "high"),
    ],
)
def test_values_that_are_not_finite_stop_with_the_components_own_name(pipelines, name, component, phase):
    _, *loops = pipelines(name)
    for pipeline in loops:
        runner = pipeline._runner
        engine = (runner._lane.engines if isinstance(runner, ResidentRunner) else runner._networks.engines)[component]
        graph = engine._engine if hasattr(engine, "_engine") else engine
        run = graph.run
        graph.run = lambda inputs, run=run: {key: np.full_like(value, np.nan) for key, value in run(inputs).items()}
        with pytest.raises(EngineError, match=rf"^{component} returned .* in phase {phase}, step 0; .* {component}"):
            pipeline.generate([1, 2], sampling=GUIDED)
        graph.run = run


def test_a_single_scale_has_no_low_latents_and_refuses_what_would_be_ignored(pipelines):
    _, host, resident = pipelines("single-scale")
    for pipeline in (host, resident):
        assert pipeline.generate([0, 1], sampling=GUIDED).low_latents.shape == (2, 4, 0, 0)
        for field in ("low_steps", "low_guidance", "low_diffusion_steps"):
            with pytest.raises(InputError, match=f"{field} is given, but this bundle's model has a single scale"):
                pipeline.generate([0], sampling=GUIDED, **{field: 2})
        with pytest.raises(InputError, match="ask for 1 to 16 steps"):
            pipeline.generate([0], high_steps=17)
        recipe = pipeline.generate([1], seed=6, guidance=1.5).recipes[0]
        assert pipeline.generate(**recipe.request()).recipes[0] == recipe


def test_engines_that_a_benchmark_times_run_in_the_resident_loop_call_by_call(variant, pipelines):
    """Recorded graphs would hide their calls."""
    resident = pipelines("condition")[2]
    networks = resident._runner._networks
    clock = Clock(networks.lane.synchronize)
    pipeline = Pipeline(resident.bundle, timed(networks, clock))
    assert isinstance(pipeline._runner, ResidentRunner)
    expected = resident.generate(LABELS, seed=5, sampling=GUIDED).latents
    phases = resident.bundle.manifest.model.phases
    parts = [(name, phase.name) for phase in phases for name in (phase.transformer, phase.head)]
    split = break_down_run(lambda: pipeline.generate(LABELS, seed=5, sampling=GUIDED), clock, parts)
    assert np.array_equal(pipeline.generate(LABELS, seed=5, sampling=GUIDED).latents, expected)
    low, high = phases
    assert {part.component: part.calls for part in split.parts} == {
        low.transformer: 2, low.head: 2 * 4, high.transformer: 3, high.head: 3 * 3,
    }  # fmt: skip
    assert 0 < split.host < split.seconds
