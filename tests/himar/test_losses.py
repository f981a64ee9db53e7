"""Training losses: the released code's values, and the rules of both phases."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.diffusion_draws import StartPractice, diffusion_draws
from himar.families.hi_mar.head_losses import add_noise, dit_head_loss, mlp_head_loss
from himar.families.hi_mar.loss_draws import (
    LossSettings,
    draw_batch,
    drop,
    high_mask_ratio,
    low_mask_ratio,
    random_mask,
)
from himar.families.hi_mar.losses import drawn_losses, model_losses
from himar.families.hi_mar.model import HiMAR, randomise
from himar_kernels import ConfigError
from tests.closeness import COMPONENT, assert_near, distance

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = ModelConfig(
    width=32, enc_depth=1, dec_depth=1, heads=2, classes=3, buffer=2, cond_scale=2, img_size=64,
    mlp_depth=1, mlp_width=32, dit_depth=1, dit_width=32, dit_heads=2,
)  # fmt: skip


ROW = 5 * COMPONENT
"""Largest relative distance of one row's bound. Rows differ by five orders of magnitude, so each is compared by itself
too. At small t a row is made of means that nearly cancel out: a prediction's last bits change it by up to COMPONENT.
"""


def rows(grid: torch.Tensor) -> torch.Tensor:
    return grid.flatten(2).transpose(1, 2)


@pytest.fixture(params=["128", "256"])
def case(request):
    name = f"himar-narrow-{request.param}"
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key.startswith(("mlp/", "dit/"))}
    return load_checkpoint(GOLDEN / f"{name}.pth", GOLDEN / f"{name}.json"), arrays


def released_mlp_loss(case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (mse, vb) per row, of the inputs for which the released code's are recorded."""
    model, golden = case
    target, noise, t = golden["mlp/train_target"], golden["mlp/train_noise"], golden["mlp/t"]
    with torch.no_grad():
        return mlp_head_loss(model.mlp_head(add_noise(target, noise, t), t, golden["mlp/c"]), target, noise, t)


def test_mlp_head_loss_is_the_released_one(case):
    golden = case[1]
    mse, vb = released_mlp_loss(case)
    assert_near(mse, golden["mlp/train_mse"], COMPONENT)
    assert_near(vb, golden["mlp/train_vb"], COMPONENT)
    assert_near(mse + vb, golden["mlp/train_loss"], COMPONENT)
    for row, (ours, theirs) in enumerate(zip(vb, golden["mlp/train_vb"], strict=True)):
        assert_near(ours, theirs, ROW, f"vb of row {row}")


def test_a_wrong_likelihood_shows_in_its_row(case, monkeypatch):
    """All rows together would hide it behind the largest."""
    monkeypatch.setattr("himar.families.hi_mar.head_losses._HALF_BIN", 1 / 256)
    (first,) = (case[1]["mlp/t"] == 0).nonzero()[0].tolist()
    assert distance(released_mlp_loss(case)[1][first], case[1]["mlp/train_vb"][first]) > 10 * ROW


@torch.no_grad()
def test_dit_head_loss_is_the_released_one(case):
    model, golden = case
    noise, t = golden["dit/train_noise"], golden["dit/t"]
    prediction = model.dit_head(add_noise(golden["dit/train_target"], noise, t), t, golden["dit/z"])
    loss = dit_head_loss(rows(prediction), rows(noise), golden["dit/train_mask"].flatten(1).bool())
    assert_near(loss, golden["dit/train_loss"], COMPONENT)


def test_the_bound_trains_the_variance_alone():
    generator = torch.Generator().manual_seed(5)
    target, noise = torch.randn(2, 5, 4, generator=generator)
    # A head that is nearly right: far from the data the likelihood at t = 0 is clamped and rightly gives no gradient.
    prediction = torch.cat([noise + 0.01, torch.randn(5, 4, generator=generator)], dim=-1).requires_grad_()
    _, vb = mlp_head_loss(prediction, target, noise, torch.tensor([0, 1, 5, 500, 998]))
    vb.sum().backward()
    assert not prediction.grad[:, :4].any()
    assert prediction.grad[:, 4:].all()


def test_the_bound_stays_finite_far_from_the_data():
    prediction = torch.full((2, 8), 30.0)
    mse, vb = mlp_head_loss(prediction, torch.full((2, 4), -9.0), torch.zeros(2, 4), torch.tensor([0, 0]))
    assert torch.isfinite(mse).all()
    assert torch.isfinite(vb).all()


def batch(size: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(size, TINY.high_positions, TINY.channels, generator=generator),
        torch.randn(size, TINY.low_positions, TINY.channels, generator=generator),
        torch.arange(size) % TINY.classes,
    )


def losses(model: HiMAR, settings: LossSettings, seed: int = 0):
    return model_losses(model, *batch(), settings, torch.Generator().manual_seed(seed))


def test_total_weighs_the_phases_and_a_seed_repeats_it():
    model = randomise(HiMAR(TINY), 0)
    first, again = losses(model, LossSettings()), losses(model, LossSettings())
    expected = 0.4 * (first.low_mse + first.low_vb) + 0.6 * first.high
    assert_near(first.total, expected, 1e-6)
    assert first.total.item() == again.total.item()
    assert losses(model, LossSettings(), seed=1).total.item() != first.total.item()


def test_the_whole_models_loss_is_the_one_composed_by_hand_image_by_image():
    model = randomise(HiMAR(TINY), 0)
    tokens, low_tokens, labels = batch(3)
    settings = LossSettings(pivot_share=0.5, low_mask_least=0.3, low_mask_deviation=0.6)
    draws = draw_batch(TINY, labels, settings, torch.Generator().manual_seed(3))
    # Some images with pivots and some without; some low positions visible, some masked.
    assert len(draws.hidden.unique()) == len(draws.low.masked.unique()) == 2
    low_terms, high_terms = [], []
    with torch.no_grad():
        for i in range(3):
            shown = labels[i : i + 1].where(~draws.low.dropped[i], torch.tensor(TINY.classes))
            z = model.transformer_low(shown, low_tokens[i : i + 1], ~draws.low.masked[i : i + 1])
            positions = draws.low.masked[i].nonzero().flatten().tolist()
            for j, position in enumerate(positions):
                t, noise = draws.low.t[0, i, j : j + 1], draws.low.noise[0, i, j : j + 1]
                target = low_tokens[i, position : position + 1]
                prediction = model.mlp_head(add_noise(target, noise, t), t, z[:, position])
                low_terms.append(sum(mlp_head_loss(prediction, target, noise, t)))
            guide = model.cond_proj(model.cond_tokens).clone()
            for position in positions:
                if not draws.hidden[i]:
                    guide[0, position] = model.cond_z_proj(z[0, position])
            shown = labels[i : i + 1].where(~draws.high.dropped[i], torch.tensor(TINY.classes))
            visible = ~draws.high.masked[i : i + 1]
            z = model.run_high(shown, guide, tokens[i : i + 1], visible)
            t, noise = draws.high.t[0, i : i + 1], draws.high.noise[0, i : i + 1]
            noised = add_noise(tokens[i : i + 1], noise, t)
            grids = (part.transpose(1, 2).unflatten(2, (4, 4)) for part in (noised, z[:, TINY.low_positions :]))
            x, condition = grids
            error = (rows(model.dit_head(x, t, condition)) - noise).square()
            high_terms.append((error * draws.high.masked[i, :, None]).sum() / error.numel())
        by_hand = 0.4 * torch.cat(low_terms).mean() + 0.6 * torch.stack(high_terms).mean()
        ours = drawn_losses(model, tokens, low_tokens, draws).total
    assert_near(ours, by_hand, COMPONENT)


def test_pivots_pass_no_gradient_into_phase_low():
    model = randomise(HiMAR(TINY), 0)
    losses(model, LossSettings(pivot_share=1.0)).high.backward()
    # The low-phase rows of the mask tokens reach the high loss through pivots only.
    assert not model.mask_token.grad[:, : TINY.positions].any()
    assert model.mask_token.grad[:, TINY.positions :].any()
    assert model.cond_z_proj.weight.grad.any()


def test_without_pivots_the_high_phase_sees_the_condition_tokens():
    model = randomise(HiMAR(TINY), 0)
    losses(model, LossSettings(pivot_share=0.0)).high.backward()
    assert not model.cond_z_proj.weight.grad.any()
    assert model.cond_tokens.grad.any()
    with_pivots = losses(model, LossSettings(pivot_share=1.0)).high
    assert with_pivots.item() != losses(model, LossSettings(pivot_share=0.0)).high.item()


def test_all_labels_dropped_trains_the_unconditional_row_alone():
    model = randomise(HiMAR(TINY), 0)
    losses(model, LossSettings(label_drop=1.0)).total.backward()
    assert not model.class_emb.weight.grad.any()
    assert model.fake_latent.grad.any()


def test_more_timesteps_per_token_estimate_the_same_loss():
    model = randomise(HiMAR(TINY), 0)
    with torch.no_grad():
        one, many = (
            torch.stack([losses(model, LossSettings(repeats=n), seed).high for seed in range(60)]).mean()
            for n in (1, 4)
        )
    assert many.item() == pytest.approx(one.item(), rel=0.2)


def test_mask_ratios_follow_their_distributions():
    generator = torch.Generator().manual_seed(0)
    low = np.array([low_mask_ratio(0.7, 0.25, generator) for _ in range(4000)])
    assert 0.7 <= low.min() <= 0.705
    assert 0.995 <= low.max() <= 1.0
    # A normal around 1 cut at 1.2 deviations below has its mean at 1 - 0.25·(φ(0) - φ(1.2))/(Φ(0) - Φ(-1.2)).
    density = [math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) for z in (0, 1.2)]
    share = 0.5 * math.erf(1.2 / math.sqrt(2))
    assert low.mean() == pytest.approx(1 - 0.25 * (density[0] - density[1]) / share, abs=0.004)
    high = np.array([high_mask_ratio(generator) for _ in range(4000)])
    assert high.mean() == pytest.approx(2 / math.pi, abs=0.02)
    assert 0 <= high.min() < 0.01 < 0.99 < high.max() <= 1


@pytest.mark.parametrize(("ratio", "masked"), [(0.0, 1), (0.01, 1), (0.5, 8), (0.51, 9), (1.0, 16)])
def test_masked_counts_round_up_and_rows_differ(ratio, masked):
    mask = random_mask(50, 16, ratio, torch.Generator().manual_seed(0))
    assert mask.sum(dim=1).unique().tolist() == [masked]
    assert masked == 16 or len(mask.unique(dim=0)) > 1


def test_labels_drop_with_their_probability():
    model, labels = HiMAR(TINY), torch.arange(3).repeat(2000)
    dropped = drop(6000, 0.1, torch.Generator().manual_seed(0))
    shown = model.without(labels, dropped)
    assert (shown == 3).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(shown[shown != 3], labels[shown != 3])


@pytest.mark.parametrize(
    "wrong", [{"label_drop": 1.5}, {"pivot_share": -0.1}, {"repeats": 0}, {"low_mask_deviation": 0.0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LossSettings(**wrong)


def test_diffusion_draws_are_the_forward_process_unless_practice_is_asked():
    t, noise, weight = diffusion_draws((20000, 4), None, torch.Generator().manual_seed(0))
    assert (t.min().item(), t.max().item()) == (0, 999)
    assert t.float().mean().item() == pytest.approx(499.5, abs=8)
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    assert (weight == 1).all()


def test_practice_takes_its_share_and_weighs_errors_by_the_noise():
    start = StartPractice(share=0.5, weight=100, excess=8)
    t, noise, weight = diffusion_draws((20000, 64), start, torch.Generator().manual_seed(0))
    last = t == 999
    assert last.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert noise[last].std().item() == pytest.approx(1, abs=0.01)
    assert (weight[last] == 100).float().mean().item() > 0.99
    deviation = noise.std(dim=1)
    loud = deviation > 1.5
    assert t[loud].min().item() >= 800
    assert 7 < deviation.max().item() < 11
    # A loud row counts as much as it would at the usual noise: its squared error is larger by the factor squared.
    late = loud & (t > 950)
    assert (weight[late] * deviation[late].square() / 100 - 1).abs().max() < 0.6


@pytest.mark.parametrize("wrong", [{"share": 1.5}, {"weight": 0.5}, {"excess": 0.0}])
def test_impossible_practice_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        StartPractice(**wrong)


def test_practice_reaches_both_heads_and_leaves_the_bound_to_the_forward_process():
    model = randomise(HiMAR(TINY), 0)
    usual, practised = losses(model, LossSettings()), losses(model, LossSettings(start=StartPractice(share=1.0)))
    assert practised.low_mse.item() > 5 * usual.low_mse.item()
    assert practised.high.item() > 5 * usual.high.item()
    assert practised.low_vb.item() == 0
