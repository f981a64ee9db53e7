"""The cost of a training step against what PyTorch counts of its forward and backward."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.loss_draws import LossSettings, draw_batch
from himar.families.hi_mar.losses import drawn_losses
from himar.families.hi_mar.model import HiMAR, randomise
from himar.families.hi_mar.presets import VARIANTS, vary
from himar_export.cost.training import TrainingCost
from himar_export.families.hi_mar.cost.training import training_cost
from himar_kernels import InputError

SIZES = {
    "width": 96, "enc_depth": 2, "dec_depth": 2, "heads": 2, "classes": 3, "buffer": 8, "cond_scale": 4,
    "img_size": 64, "vae_stride": 8, "channels": 4, "mlp_depth": 3, "mlp_width": 80, "dit_depth": 3, "dit_width": 64,
    "dit_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "repeats"), [("released", 2), ("single-scale", 2), ("visual", 1), ("condition", 1), ("scale-vector", 2)]
)
def test_a_step_costs_what_pytorch_counts(form, repeats):
    config = resolve(vary(SIZES, form) if form in VARIANTS else SIZES, {})
    model, batch = randomise(HiMAR(config), 0).train(), 2
    draws = draw_batch(config, torch.arange(batch), LossSettings(repeats=repeats), torch.Generator().manual_seed(1))
    tokens = torch.randn(batch, config.high_positions, config.channels)
    low_tokens = torch.randn(batch, config.low_positions, config.channels)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = drawn_losses(model, tokens, low_tokens, draws).total
        forward = counter.get_total_flops()
        loss.backward()
    masked = {"high": int(draws.high.masked[0].sum())}
    if draws.low is not None:
        masked["low"] = int(draws.low.masked[0].sum())
    cost = training_cost(config, batch, masked, repeats)
    assert cost.forward_flops == pytest.approx(forward, rel=1e-3)
    assert cost.model_flops == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_recomputing_runs_the_transformer_blocks_once_more():
    config = resolve(read_config("himar-b"), {})
    cost = training_cost(config, 4, {"low": 54, "high": 160})
    assert cost.executed_flops(False) == cost.model_flops == 3 * cost.forward_flops - cost.data_flops
    assert cost.data_flops < 0.01 * cost.forward_flops
    assert cost.executed_flops(True) == cost.model_flops + cost.block_flops
    assert 0.8 * cost.forward_flops < cost.block_flops < cost.forward_flops
    one = training_cost(config, 1, {"low": 54, "high": 160})
    assert cost.block_flops == 4 * one.block_flops
    assert TrainingCost(10, 8, 1).executed_flops(True) == 37


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, {"low": 1, "high": 1}), "batch is 0 and repeats 1"),
        ((1, {"low": 65, "high": 1}), "65 positions of phase low are masked; a training step masks 1 to 64"),
        ((1, {"low": 1}), "0 positions of phase high are masked; a training step masks 1 to 256"),
    ],
)
def test_a_step_that_cannot_be_is_refused(arguments, text):
    with pytest.raises(InputError, match=text):
        training_cost(resolve(read_config("himar-b"), {}), *arguments)
