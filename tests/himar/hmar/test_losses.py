"""Losses, gradients and one step of training against the released trainers' numbers; attention over many scales."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from himar.families.hmar.attention import CoarserScales, EachScale
from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.config import ModelConfig
from himar.families.hmar.loss_draws import LossSettings, depth_factors, draw_batch, random_mask
from himar.families.hmar.losses import cell_weights, masked_loss, next_scale_loss, scale_weights
from himar.families.hmar.optimisation import BETAS, CLIP, EPS, Schedule, clip_factor, decays, trained_parameters
from himar.families.hmar.tokenizer.network import image_values
from himar_kernels import ConfigError
from himar_kernels.families.hmar import Scales
from tests.closeness import COMPONENT, RUN, assert_near

from .conftest import GOLDEN

SCHEDULES = json.loads((GOLDEN / "hmar-schedules.json").read_text())
TRAINING = json.loads((GOLDEN / "hmar-narrow-144.json").read_text())["training"]


def own_name(name: str, tail: str) -> str:
    """Our name of a parameter of one of the networks, from the name that training gives it."""
    kind, _, rest = name.partition(".")
    if kind == "blocks":
        number, rest = rest.split(".", 1)
        return f"base_blocks.{number}.{rest}" if int(number) < 3 else f"{tail}_blocks.{int(number) - 3}.{rest}"
    if kind in ("head", "head_nm"):
        return f"{tail}_{name}"
    return "word_embed_bias" if name == "word_embed.bias" else name


@pytest.fixture
def trainable():
    """A fresh model each time, all of whose parameters have gradients."""
    return load_checkpoint(GOLDEN / "hmar-narrow-144.pth").requires_grad_(True)


@pytest.fixture
def batch(narrow):
    """Codes of the recorded images, and their class rows."""
    arrays = narrow.arrays
    codes = narrow.tokenizer.encode(image_values(arrays["train/image_u8"]), narrow.model.config.scales)
    assert np.array_equal(codes, arrays["tf/codes"])
    return codes, torch.from_numpy(arrays["train/labels"]).long()


def gradients(model, names, tail):
    parameters = dict(model.named_parameters())
    return {name: parameters[own_name(name, tail)].grad for name in names}


def norms(tensors) -> np.ndarray:
    return np.array([tensor.double().norm().item() for tensor in tensors])


@pytest.mark.parametrize("weighting", ["plain", "equal", "lognorm"])
def test_next_scale_loss_and_its_gradients(trainable, narrow, batch, weighting):
    arrays, weights = narrow.arrays, cell_weights(trainable.config.scales, weighting)
    assert_near(weights, arrays[f"train/{weighting}_weights"], 1e-7)
    loss = next_scale_loss(trainable, narrow.tokenizer.quantize, *batch, torch.from_numpy(weights).float())
    assert_near(loss, arrays[f"train/nsp_{weighting}_loss"], COMPONENT)
    loss.backward()
    found = gradients(trainable, TRAINING["nsp_params"], "ns")
    assert_near(norms(found.values()), arrays[f"train/nsp_{weighting}_grad_norms"], COMPONENT)
    assert_near(math.hypot(*norms(found.values())), arrays[f"train/nsp_{weighting}_grad_norm"], COMPONENT)
    assert all(parameter.grad is None for name, parameter in trainable.named_parameters() if name.startswith("mask_"))
    if weighting == "lognorm":
        whole = [name for name in arrays if name.startswith("train/nsp_lognorm_grad/")]
        assert len(whole) == 7
        for name in whole:
            assert_near(found[name.removeprefix("train/nsp_lognorm_grad/")], arrays[name], COMPONENT, name)


def test_masked_loss_and_its_gradients(trainable, narrow, batch):
    arrays = narrow.arrays
    masked = torch.from_numpy(arrays["train/mp_masked"]) > 0
    trained = dict(trained_parameters(trainable, "masked"))
    assert sorted(own_name(name, "mask") for name in TRAINING["mp_params"]) == sorted(trained)
    for name, parameter in trainable.named_parameters():
        parameter.requires_grad_(name in trained)
    loss = masked_loss(trainable, narrow.tokenizer.quantize, *batch, masked)
    assert_near(loss, arrays["train/mp_loss"], COMPONENT)
    loss.backward()
    found = gradients(trainable, TRAINING["mp_params"], "mask")
    assert_near(norms(found.values()), arrays["train/mp_grad_norms"], COMPONENT)
    assert_near(math.hypot(*norms(found.values())), arrays["train/mp_grad_norm"], COMPONENT)
    for name in ("mask_embed.weight", "head_nm.ada_lin.1.bias"):
        assert_near(found[name], arrays[f"train/mp_grad/{name}"], COMPONENT, name)


def test_one_step_of_the_optimizer(trainable, narrow, batch):
    arrays, told = narrow.arrays, TRAINING["step"]
    given = told["schedule"]
    schedule = Schedule(given["total"], given["peak_lr"], given["warmup"], given["wpe"], given["wd"], given["wd_end"])
    rate, decay = schedule.rate(given["iteration"]), schedule.weight_decay(given["iteration"])
    assert rate == pytest.approx(told["lr"], rel=1e-12) and decay == pytest.approx(
        told["weight_decay"][1][1], rel=1e-12
    )
    parameters = dict(trained_parameters(trainable, "next-scale"))
    names = {own_name(name, "ns"): name for name in TRAINING["nsp_params"]}
    assert parameters.keys() == names.keys()
    assert {names[name] for name, each in parameters.items() if not decays(name, each)} == set(told["no_decay"])
    weights = torch.from_numpy(cell_weights(trainable.config.scales, "lognorm")).float()
    next_scale_loss(trainable, narrow.tokenizer.quantize, *batch, weights).backward()
    norm = math.hypot(*norms(each.grad for each in parameters.values()))
    assert_near(norm, arrays["train/step_grad_norm"], COMPONENT)
    groups = [
        {
            "params": [each for name, each in parameters.items() if decays(name, each) == with_decay],
            "weight_decay": value,
        }
        for with_decay, value in ((True, decay), (False, 0.0))
    ]
    before = {name: each.detach().clone() for name, each in parameters.items()}
    for each in parameters.values():
        each.grad *= clip_factor(norm)
    assert clip_factor(norm) == min(1.0, told["clip"] / (norm + 1e-6)) and told["clip"] == CLIP
    torch.optim.AdamW(groups, lr=rate, betas=BETAS, eps=EPS).step()
    own = [own_name(name, "ns") for name in TRAINING["nsp_params"]]
    assert_near(norms(parameters[name] - before[name] for name in own), arrays["train/step_delta_norms"], RUN)
    for name in ("lvl_embed.weight", "head.bias"):
        assert_near(parameters[own_name(name, "ns")], arrays[f"train/step/{name}"], RUN, name)


@pytest.mark.parametrize("size", ["256", "512", "1024"])
def test_lognorm_weights_of_the_released_scale_lists(size):
    weights = scale_weights(Scales(SCHEDULES[size]["patch_nums"]), "lognorm")
    assert_near(weights, SCHEDULES[size]["lognorm_scale_weights"], 1e-12)


@pytest.mark.parametrize("told", SCHEDULES["lr_lin0"], ids=["d16", "d30"])
def test_learning_rate_and_weight_decay(told):
    schedule = Schedule(told["total"], told["peak"], told["warmup"], told["wpe"], told["wd"], told["wd_end"])
    assert_near([schedule.rate(i) for i in told["iterations"]], told["lr"], 1e-12)
    assert_near([schedule.weight_decay(i) for i in told["iterations"]], told["weight_decay"], 1e-12)


@pytest.mark.parametrize("blocks", ["squares", "ragged"])
@pytest.mark.parametrize(("kind", "attention"), [("diagonal", EachScale), ("causal", CoarserScales)])
def test_attention_over_many_scales(blocks, kind, attention):
    with np.load(GOLDEN / "hmar-attention.npz") as archive:
        arrays = {name: archive[name] for name in archive.files if name.startswith(blocks)}
    q, k, v = (torch.from_numpy(arrays[f"{blocks}/{name}"]).requires_grad_() for name in "qkv")
    attend = attention(arrays[f"{blocks}/blocks"].tolist(), float(arrays[f"{blocks}/scale"]))
    out = attend(q, k, v)
    assert_near(out, arrays[f"{blocks}/{kind}/out"], COMPONENT)
    out.backward(torch.from_numpy(arrays[f"{blocks}/dout"]))
    for name, tensor in zip("qkv", (q, k, v), strict=True):
        assert_near(tensor.grad, arrays[f"{blocks}/{kind}/d{name}"], COMPONENT, f"d{name}")


def test_masks_have_their_share_of_every_scale_but_the_first():
    scales = Scales([1, 2, 3, 6, 9])
    generator = torch.Generator().manual_seed(0)
    masked = random_mask(scales, 0.37, generator)
    counts = [int(masked[scales.span(scale)].sum()) for scale in range(len(scales))]
    assert counts == [0, 2, 4, 14, 30]
    assert [int(random_mask(scales, 0.0, generator)[scales.span(s)].sum()) for s in range(5)] == [0, 1, 1, 1, 1]
    assert not torch.equal(random_mask(scales, 0.37, generator), masked)


def test_a_batch_in_parts_has_the_same_numbers():
    config = ModelConfig.from_dict(json.loads((GOLDEN / "hmar-narrow-144.json").read_text()))
    labels = torch.arange(6)
    draws = draw_batch(config, labels, LossSettings(0.5, 0.4), torch.Generator().manual_seed(2))
    again = draw_batch(config, labels, LossSettings(0.5, 0.4), torch.Generator().manual_seed(2))
    part = again.part(slice(2, 5)).to(torch.device("cpu"))
    assert torch.equal(part.class_row, draws.class_row[2:5]) and torch.equal(part.kept, draws.kept[..., 2:5])
    assert torch.equal(part.masked, draws.masked)
    assert set(draws.class_row.tolist()) <= {*range(6), 7} and (draws.class_row == 7).any()


def test_stochastic_depth_rises_over_the_blocks_and_keeps_the_mean():
    factors = depth_factors(5, 20_000, 0.4, torch.Generator().manual_seed(0))
    assert factors.shape == (5, 2, 20_000)
    dropped = (factors == 0).float().mean(dim=(1, 2))
    assert dropped.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=0.01)
    assert factors.mean(dim=2).flatten().tolist() == pytest.approx([1] * 10, abs=0.02)
    assert not torch.equal(factors[4, 0], factors[4, 1])
    assert depth_factors(5, 3, 0.0, torch.Generator()) is None
    assert depth_factors(24, 3, None, torch.Generator())[-1].max().item() == pytest.approx(1 / 0.9)


@torch.no_grad()
def test_a_dropped_branch_leaves_the_block_out(narrow):
    model = narrow.model
    rows, ahead = torch.tensor([1, 2]), torch.from_numpy(narrow.arrays["tf/ns_input"])
    ones = torch.ones(model.config.depth, 2, 2)
    assert torch.equal(model.next_scale_logits(rows, ahead, ones), model.next_scale_logits(rows, ahead))
    ones[:, :, 0] = 0
    logits, conditions = model.next_scale_logits(rows, ahead, ones), model.conditions(rows)
    bare = model.ns_head(model.ns_head_nm(model.all_inputs(conditions.cond, ahead), conditions.heads[0]))
    assert_near(logits[0], bare[0], COMPONENT)
    assert_near(logits[1], model.next_scale_logits(rows, ahead)[1], COMPONENT)


def test_settings_that_are_wrong():
    with pytest.raises(ConfigError, match="weighting is 'log'; it must be one of 'plain', 'equal', 'lognorm'"):
        scale_weights(Scales([1, 2]), "log")
    with pytest.raises(ConfigError, match="label_drop is 2; it must be 0 to 1"):
        LossSettings(label_drop=2)
    with pytest.raises(ConfigError, match=r"depth_drop is 1\.0; it must be at least 0 and below 1"):
        LossSettings(depth_drop=1.0)
    with pytest.raises(ConfigError, match="warmup is 5 of 5 iterations"):
        Schedule(5, 1e-4, 5)
    with pytest.raises(ConfigError, match="peak is nan"):
        Schedule(5, math.nan, 1)
