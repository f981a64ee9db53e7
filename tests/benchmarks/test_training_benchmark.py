"""The benchmark of training steps: its figures follow from its times, and both ways are the same step."""

import json
from statistics import median

import pytest
import torch
from click.testing import CliRunner
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training import plain_step
from benchmarks.training import throughput as train_throughput
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.losses import drawn_losses
from himar.families.hi_mar.model import HiMAR, randomise


def test_figures_follow_from_times_that_were_taken_in_turns(tmp_path):
    out = tmp_path / "x.json"
    arguments = ["--config", "digits", "--batch", "2", "--repeats", "3", "--out", str(out)]
    done = CliRunner().invoke(train_throughput.main, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    (batch,) = result["batches"]
    hoisted, plain = batch["hoisted"], batch["plain"]
    for way in (hoisted, plain):
        assert len(way["seconds"]) == 3
        assert way["images_per_second"] == pytest.approx(2 / median(way["seconds"]))
        assert way["most_images_per_second"] == pytest.approx(2 / min(way["seconds"]))
    assert batch["ratio"]["medians"] == pytest.approx(median(plain["seconds"]) / median(hoisted["seconds"]))
    rate = hoisted["flops"] / median(hoisted["seconds"])
    assert batch["utilisation"] == pytest.approx(rate / batch["peak_flops_per_second"])
    assert batch["executed"] == batch["utilisation"]
    assert "hoisted is" in done.output
    assert "model-FLOPs utilisation" in done.output


def test_ways_that_give_other_losses_are_not_timed(monkeypatch):
    monkeypatch.setattr(train_throughput, "plain_loss", lambda *all: plain_step.plain_loss(*all) * 1.01)
    done = CliRunner().invoke(train_throughput.main, ["--config", "digits", "--batch", "2", "--repeats", "3"])
    assert done.exit_code == 1
    assert "the ways differ in their losses, so none was timed" in done.output


def test_the_plain_step_does_what_is_counted_more():
    config = resolve(read_config("digits"), {})
    draws, cost = train_throughput.typical_draws(config, 3)
    model = randomise(HiMAR(config), 0)
    tokens = torch.randn(3, config.high_positions, config.channels)
    low_tokens = torch.randn(3, config.low_positions, config.channels)
    counts = []
    for run in (
        lambda: drawn_losses(model, tokens, low_tokens, draws).total,
        lambda: plain_step.plain_loss(model, tokens, low_tokens, draws),
    ):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            run().backward()
        counts.append(counter.get_total_flops())
    assert cost.model_flops == pytest.approx(counts[0], rel=1e-3)
    assert plain_step.plain_extra_flops(config, draws) == pytest.approx(counts[1] - counts[0], rel=1e-3)


def test_the_draw_is_the_median_of_many():
    config = resolve(read_config("himar-b"), {})
    _, cost = train_throughput.typical_draws(config, 1)
    costs = []
    for seed in range(train_throughput.DRAWS):
        generator = torch.Generator().manual_seed(seed)
        draws = train_throughput.draw_batch(config, torch.arange(1), train_throughput.LossSettings(), generator)
        costs.append(train_throughput.training_cost(config, 1, train_throughput.masked_counts(draws)).forward_flops)
    assert cost.forward_flops == median(costs)
    assert min(costs) < cost.forward_flops < max(costs)


def test_a_gpu_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = CliRunner().invoke(train_throughput.main, ["--config", "digits", "--device", "cuda"])
    assert done.exit_code == 1
    assert "no GPU that PyTorch can use; leave out --device cuda" in done.output


@pytest.mark.gpu
@pytest.mark.parametrize("options", [[], ["--compile"], ["--recompute"]])
def test_a_small_run_on_a_gpu(options):
    arguments = ["--config", "digits", "--batch", "8", "--repeats", "3", "--device", "cuda", "--precision", "bf16"]
    done = CliRunner().invoke(train_throughput.main, [*arguments, *options, "--json"])
    assert done.exit_code == 0, done.output
    (batch,) = json.loads(done.output)["batches"]
    assert 0 < batch["utilisation"] <= batch["executed"] < 1
    assert (batch["utilisation"] < batch["executed"]) == ("--recompute" in options)
    assert batch["bytes_used"] > 0


@pytest.mark.gpu
@pytest.mark.slow
def test_a_training_step_of_himar_b_uses_the_gpu():
    result = train_throughput.measure_all("himar-b", [64], "cuda", "bf16", 5)
    (batch,) = result["batches"]
    print(f"{batch['hoisted']['images_per_second']:.0f} images/s, utilisation {batch['utilisation']:.1%}")
    assert 0.05 < batch["utilisation"] < 1
