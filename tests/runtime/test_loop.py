"""What the engines are asked: guidance by phase, conditions bound once, noise in blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig, SolverChain, plan, sites
from himar_runtime import Bundle, ComponentSpec, Device, Networks, load_networks
from himar_runtime.families.hi_mar.loop import Request, Tokens, run_two_phase

SETTINGS = SamplingConfig(
    low_steps=3,
    high_steps=2,
    low_guidance=1.5,
    high_guidance=2.0,
    low_diffusion_steps=6,
    high_diffusion_steps=5,
)


class Spy:
    """An engine that notes what it is asked."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.bound: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []

    @property
    def spec(self) -> ComponentSpec:
        return self._engine.spec

    def bind(self, inputs: Mapping[str, Any]) -> None:
        self.bound.append(dict(inputs))
        self._engine.bind(inputs)

    def run(self, inputs: Mapping[str, Any]) -> Any:
        self.runs.append(dict(inputs))
        return self._engine.run(inputs)

    def run_on_device(self, inputs: Mapping[str, Any]) -> Any:
        self.runs.append(dict(inputs))
        return self._engine.run_on_device(inputs)

    def clone(self, lane: Any = None) -> Spy:
        return Spy(self._engine.clone())


@pytest.fixture
def spies(bundle_path: Path) -> Networks:
    networks = load_networks(Bundle.open(bundle_path), Device("cpu"), 1)
    return Networks({name: Spy(engine) for name, engine in networks.engines.items() if name != "vae_decoder"})


def _run(networks: Networks, bundle_path: Path, sampling: SamplingConfig) -> Tokens:
    request = Request(np.array([1, 3]), np.array([0, 1]), sampling, PhiloxDraws(4))
    tokens = run_two_phase(networks, Bundle.open(bundle_path).manifest.model, request, lambda step, low: True)
    assert tokens is not None
    return tokens


@pytest.mark.parametrize(("low", "high"), [(1.5, 2.0), (1.0, 2.0), (1.5, 1.0), (1.0, 1.0)])
def test_each_phase_runs_both_halves_only_under_its_own_guidance(
    spies: Any, bundle_path: Path, low: float, high: float
) -> None:
    _run(spies, bundle_path, SETTINGS.with_changes(low_guidance=low, high_guidance=high))
    for transformer, guidance in ((spies["transformer_low"], low), (spies["transformer_high"], high)):
        rows = [1, 3] if guidance == 1 else [1, 3, 5, 5]
        assert [run["class_row"].tolist() for run in transformer.runs] == [rows] * len(transformer.runs)
    assert {len(run["x"]) for run in spies["dit_head"].runs} == {2 if high == 1 else 4}


def test_heads_run_once_per_diffusion_step_with_the_condition_bound_once(spies: Any, bundle_path: Path) -> None:
    _run(spies, bundle_path, SETTINGS)
    assert len(spies["transformer_low"].runs) == 3
    assert len(spies["transformer_high"].runs) == 2
    assert len(spies["mlp_head"].runs) == 3 * 6
    assert len(spies["dit_head"].runs) == 2 * 5
    assert [list(bound) for bound in spies["mlp_head"].bound] == [["condition"]] * 3
    assert [list(bound) for bound in spies["dit_head"].bound] == [["condition"]] * 2
    assert {tuple(run) for run in spies["mlp_head"].runs} == {("x", "timestep")}
    assert [int(run["timestep"][0]) for run in spies["mlp_head"].runs[:6]] == [999, 799, 599, 400, 200, 0]
    revealed = [step.revealed for step in plan(SETTINGS, 4, 16) if step.phase == "low"]
    assert [len(bound["condition"]) for bound in spies["mlp_head"].bound] == [2 * 2 * count for count in revealed]


def test_a_solver_s_chain_runs_the_head_once_per_step_at_its_own_timesteps_and_draws_no_noise(
    spies: Any, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PhiloxDraws, "noise", lambda *where: pytest.fail("a solver's chain asked for noise"))
    tokens = _run(spies, bundle_path, SETTINGS.with_changes(low_solver="dpm++", high_solver="ddim"))
    asked = [[int(run["timestep"][0]) for run in spies[head].runs] for head in ("mlp_head", "dit_head")]
    assert asked[0] == 3 * SolverChain.build("dpm++", 6).timesteps[::-1].tolist()
    assert asked[1] == 2 * SolverChain.build("ddim", 5).timesteps[::-1].tolist()
    assert np.isfinite(tokens.high).all()


def test_both_halves_of_the_high_phase_see_the_same_pivots_and_tokens(spies: Any, bundle_path: Path) -> None:
    _run(spies, bundle_path, SETTINGS)
    for run in spies["transformer_high"].runs:
        assert np.array_equal(run["pivots"][:2], run["pivots"][2:])
        assert np.array_equal(run["tokens"][:2], run["tokens"][2:])
    assert np.all(np.any(spies["transformer_high"].runs[0]["pivots"] != 0, axis=2))
    assert not spies["transformer_high"].runs[0]["tokens"].any()


def test_known_tokens_stay_when_later_steps_denoise_everything(spies: Any, bundle_path: Path) -> None:
    settings = SETTINGS.with_changes(high_steps=4)
    tokens = _run(spies, bundle_path, settings)
    order = PhiloxDraws(4).order("high", 16, np.array([0, 1]))
    steps = [step for step in plan(settings, 4, 16) if step.phase == "high"]
    for before, run in zip(steps[1:], spies["transformer_high"].runs[1:], strict=True):
        for image in range(2):
            fixed = order[image, before.masked :]
            assert np.array_equal(run["tokens"][image, fixed], tokens.high[image, fixed])


def test_noise_is_drawn_in_blocks_that_do_not_change_the_result(
    spies: Any, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _run(spies, bundle_path, SETTINGS)
    monkeypatch.setattr(sites, "NOISE_BLOCK", 3 * 2 * 16 * 2)
    asked: list[int] = []
    original = PhiloxDraws.noise

    def noise(self: PhiloxDraws, phase: Any, step: int, diffusion: Any, *where: Any) -> Any:
        if phase == "high":
            asked.append(len(diffusion))
        return original(self, phase, step, diffusion, *where)

    monkeypatch.setattr(PhiloxDraws, "noise", noise)
    found = _run(spies, bundle_path, SETTINGS)
    assert asked == [3, 1, 3, 1]  # four noisy steps of each of two autoregressive steps
    assert np.array_equal(found.high, expected.high)
    assert np.array_equal(found.low, expected.low)


def test_cancelling_stops_at_once(spies: Any, bundle_path: Path) -> None:
    request = Request(np.array([1]), np.array([0]), SETTINGS, PhiloxDraws(4))
    model = Bundle.open(bundle_path).manifest.model
    assert run_two_phase(spies, model, request, lambda step, low: step.index < 1) is None
    assert len(spies["transformer_low"].runs) == 2
    assert not spies["transformer_high"].runs
