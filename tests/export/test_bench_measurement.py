"""Only what agrees is timed; shares of a roofline, splits and peaks add up."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar.families.hi_mar.sampler import generate
from himar_export.bench.eager import compiling, shared_copy
from himar_export.bench.environment import device_peaks
from himar_export.bench.measurement import SideUnavailableError, Work, measure
from himar_export.bench.report import _verdicts
from himar_export.bench.roofline import costs_of, of_breakdown, of_call, of_generation
from himar_export.bench.time_breakdown import Clock, Part, TimeBreakdown, break_down_run, break_down_runs
from himar_export.bench.timing import Side
from himar_export.cost.cost import Peaks
from himar_export.cost.cost import Work as Cost
from himar_export.cost.run import total_cost
from himar_export.families.hi_mar.bench.eager import eager_networks
from himar_export.families.hi_mar.cost.request import HiMarRequest
from himar_export.families.hi_mar.phases import model_info
from himar_export.verify.compare import compare
from himar_kernels import PhiloxDraws
from himar_kernels.families.hi_mar import SamplingConfig

TRUTH = np.linspace(1, 2, 50)
SHORT = SamplingConfig(low_steps=2, high_steps=1, low_diffusion_steps=4, high_diffusion_steps=5)


def side(name: str, factor: float = 1.0, ran: list | None = None) -> Side:
    def run() -> None:
        if ran is not None:
            ran.append(name)

    return Side(name, run, lambda: {"latents": TRUTH * factor})


def work(*sides: Side, limit: float | None = 1e-4) -> Work:
    return Work("generation", 4, {"latents": TRUTH}, {"latents": limit}, sides)


def quiet(text: str, fraction: float) -> None:
    assert 0 <= fraction <= 1


def test_nothing_is_timed_when_the_engines_give_other_numbers():
    ran = []
    found = measure(work(side("eager", ran=ran), side("engines", 1.001, ran)), 3, 0.0, quiet)
    assert (ran, found.times, found.ratios, found.differ) == ([], {}, {}, ("engines",))
    assert "1.00e-03 from the float32 eager model (limit 1.0e-04)" in found.refused["engines"]


def test_another_side_that_differs_has_no_latency_and_the_rest_has():
    found = measure(work(side("eager"), side("compiled", 1.1), side("engines")), 3, 0.0, quiet)
    assert (set(found.times), set(found.ratios)) == ({"eager", "engines"}, {"eager"})
    assert found.differ == ("compiled",)
    assert len(found.times["eager"].seconds) == 3


def test_where_no_limit_makes_sense_values_must_still_be_finite():
    assert measure(work(side("eager"), side("engines", 1.3), limit=None), 3, 0.0, quiet).differ == ()
    assert measure(work(side("eager"), side("engines", np.nan), limit=None), 3, 0.0, quiet).differ == ("engines",)


@pytest.mark.parametrize(("error", "differ"), [(5e-3, ()), (2e-2, ("engines",))])
def test_where_whole_outputs_are_not_comparable_single_components_decide(error, differ):
    def instead():
        return [compare("engines: dit_head prediction", np.ones(4) * (1 + error), np.ones(4), 1e-2)]

    asked = replace(work(side("eager"), side("engines", 1.3), limit=None), instead=instead)
    found = measure(asked, 6, 0.0, quiet)
    assert (found.compared, found.differ) == (False, differ)
    assert found.comparisons[-1].name == "engines: dit_head prediction"
    said = " ".join(_verdicts(found))
    if differ:
        assert found.times == {}
        assert "dit_head prediction is 2.00e-02 from the float32 eager model (limit 1.0e-02)" in said
    else:
        assert "outputs differ by" not in said


def test_what_is_timed_is_every_call_and_a_round_is_the_median_of_its_own():
    found = measure(work(side("eager"), side("engines")), 6, 0.0, quiet).times["engines"]
    assert len(found.rounds) == len(found.seconds) == 6
    assert found.summary.count == sum(len(each) for each in found.rounds) > 100  # calls of nothing are quick
    assert found.seconds[2] == np.median(found.rounds[2])


def test_a_split_is_the_middle_run_of_three_that_take_turns():
    ran = []

    def way(name, seconds):
        left = iter(seconds)

        def run():
            ran.append(name)
            return TimeBreakdown(next(left), ())

        return run

    found = break_down_runs({"eager": way("e", [9.0, 3.0, 1.0, 2.0]), "engines": way("n", [1.0, 0.5, 0.7, 0.6])})
    assert "".join(ran) == "enenenen"
    assert found["eager"] == TimeBreakdown(2.0, (), (1.0, 3.0))  # the first is not counted
    assert found["engines"] == TimeBreakdown(0.6, (), (0.5, 0.7))
    assert break_down_runs({"eager": way("e", [50.0]), "engines": way("n", [20.0])})["eager"] == TimeBreakdown(50.0, ())
    assert break_down_runs({"eager": way("e", [25.0, 19.0, 18.0])})["eager"].seconds == 18.0


def test_a_side_that_cannot_run_is_left_out_with_its_reason():
    def outputs():
        with compiling():
            raise RuntimeError("No working C++ compiler found")

    found = measure(work(side("eager"), Side("compiled", dict, outputs), side("engines")), 3, 0.0, quiet)
    assert set(found.times) == {"eager", "engines"}
    assert "torch.compile does not work here (RuntimeError: No working C++ compiler" in found.refused["compiled"]
    assert found.differ == ()
    with pytest.raises(SideUnavailableError, match="needs a C"), compiling():
        raise OSError


def test_the_share_of_a_roofline_is_the_least_time_by_the_measured():
    peaks = Peaks(100.0, 10.0)
    by_operations = of_call(Cost(1000, 20, 20), 20.0, peaks)  # 10 s of operations, 4 s of bytes
    assert (by_operations.share, by_operations.flops_per_second, by_operations.bound_by) == (0.5, 50.0, "operations")
    by_bytes = of_call(Cost(100, 20, 20), 20.0, peaks)  # 1 s and 4 s
    assert (by_bytes.share, by_bytes.bound_by) == (0.2, "bytes")


def test_a_generations_roofline_is_the_sum_of_its_components():
    config = resolve(read_config("digits"), {})
    peaks = Peaks(1e10, 1e9)
    costs = costs_of(HiMarRequest(config, SHORT), 2, peaks)
    breakdown = TimeBreakdown(9.0, tuple(Part(cost.component, cost.phase, cost.calls, 2.0) for cost in costs))
    parts = of_breakdown(costs, breakdown, peaks)
    whole = of_generation(costs, breakdown.seconds, peaks)
    assert list(parts) == [cost.component for cost in costs]
    assert whole.flops == total_cost(costs).work.flops == sum(each.flops for each in parts.values())
    assert whole.least_seconds == pytest.approx(sum(each.least_seconds for each in parts.values()))
    assert whole.share == pytest.approx(total_cost(costs).bound_seconds / 9.0)
    assert breakdown.host == pytest.approx(9.0 - 2.0 * len(costs))


@pytest.fixture(scope="module")
def model() -> HiMAR:
    return randomise(HiMAR(resolve(read_config("digits"), {})), 3).eval().requires_grad_(False)


def test_the_eager_side_is_the_model_itself_on_the_same_weights(model):
    copied = shared_copy(model)
    assert all(a is b for a, b in zip(model.parameters(), copied.parameters(), strict=True))
    own, _ = eager_networks(model, None, {})
    assert torch.equal(generate(own, [1, 2], draws=PhiloxDraws(7), sampling=SHORT),
                       generate(model, [1, 2], draws=PhiloxDraws(7), sampling=SHORT))  # fmt: skip
    assert "denoise" not in vars(model.low_head)  # the model that was given stays as it is


def test_half_precision_is_autocast_in_the_component_asked_alone(model):
    half, _ = eager_networks(model, None, {"dit_head": "bf16", "mlp_head": "fp32"})
    x, t = torch.ones(2, 64, model.config.channels), torch.tensor([500])
    condition = torch.ones(2, 64, model.config.dit_width)
    exact, found = model.high_head.denoise(x, t, condition), half.high_head.denoise(x, t, condition)
    assert found.dtype == torch.float32
    assert 1e-6 < float((found - exact).norm() / exact.norm()) < 0.1
    x, condition = torch.ones(3, model.config.channels), torch.ones(3, model.config.mlp_width)
    assert torch.equal(half.low_head.denoise(x, t, condition), model.low_head.denoise(x, t, condition))


def test_weights_in_half_precision_are_cast_once_and_results_stay_autocasts(model):
    """Autocast casts frozen weights at every call: an eager side that did so would look slower than it need be."""
    names = ("transformer_low", "mlp_head", "transformer_high", "dit_head")
    half, _ = eager_networks(model, None, dict.fromkeys(names, "bf16"))
    x, t = torch.ones(2, 64, model.config.channels), torch.tensor([500])
    condition = torch.ones(2, 64, model.config.dit_width)
    with torch.autocast("cpu", torch.bfloat16):
        wanted = model.high_head.denoise(x, t, condition).float()
    weights = {p.shape for p in model.high_head.parameters() if p.dim() == 2}
    assert torch.equal(half.high_head.denoise(x, t, condition), wanted)
    assert casts(lambda: half.high_head.denoise(x, t, condition)).isdisjoint(weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert casts(lambda: model.high_head.denoise(x, t, condition)) & weights
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    mixed, _ = eager_networks(model, None, dict.fromkeys(names[1:], "bf16"))  # transformers share their weights
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}


def casts(call):
    """Shapes of what a call casts to another type."""

    class Casts(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.found = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default:
                self.found.add(args[0].shape)
            return func(*args, **(kwargs or {}))

    with Casts() as counted:
        call()
    return counted.found


def test_a_split_counts_every_call_and_leaves_the_rest_to_the_host(model):
    clock = Clock()
    own, _ = eager_networks(model, None, {}, clock=clock)
    breakdown = break_down_run(
        lambda: generate(own, [1], draws=PhiloxDraws(7), sampling=SHORT),
        clock,
        [(name, phase.name) for phase in model_info(model.config).phases for name in (phase.transformer, phase.head)],
    )
    calls = {part.component: part.calls for part in breakdown.parts}
    assert calls == {"transformer_low": 2, "mlp_head": 8, "transformer_high": 1, "dit_head": 5}
    assert 0 < breakdown.host < breakdown.seconds
    assert breakdown.of_phase("low") + breakdown.of_phase("high") + breakdown.host == pytest.approx(breakdown.seconds)


def test_a_clock_waits_for_the_device_on_both_ends():
    clock = Clock(lambda: time.sleep(0.01))
    with clock.of("x"), clock.of("y", counts=False):
        pass
    assert 0.005 < clock.seconds["y"] < clock.seconds["x"]
    assert clock.calls == {"x": 1, "y": 0}


def test_this_machines_peaks_are_positive_and_sane():
    peaks = device_peaks("cpu", "fp32")
    assert 1e8 < peaks.flops_per_second < 1e14
    assert 1e7 < peaks.bytes_per_second < 1e13
