"""The paper's variants: the sizes of table 5, and that each trains, samples, is saved and is read back."""

import json
from dataclasses import replace

import pytest
import torch
from closeness import RUN, assert_near, distance

from himar.checkpoints import load_checkpoint, save_checkpoint
from himar.config import read_config, resolve
from himar.dit_head import DiTHead
from himar.loss_draws import LossSettings, draw_batch
from himar.losses import drawn_losses, model_losses
from himar.model import HiMAR, initialise, randomise
from himar.presets import PRESETS, VARIANTS, vary
from himar.sampler import generate, two_phase
from himar_kernels import ConfigError, InputError, PhiloxDraws

SIZES = {
    "width": 32, "enc_depth": 1, "dec_depth": 1, "heads": 2, "classes": 3, "buffer": 2, "cond_scale": 2, "img_size": 64,
    "mlp_depth": 1, "mlp_width": 32, "dit_depth": 1, "dit_width": 32, "dit_heads": 2,
    "sampling": {"low_steps": 2, "high_steps": 3, "low_guidance": 2.0, "high_guidance": 2.0,
                 "low_diffusion_steps": 4, "high_diffusion_steps": 4},
}  # fmt: skip


def build(variant: str) -> HiMAR:
    return HiMAR(resolve(read_config(vary(SIZES, variant)), {}))


def batch(model: HiMAR, size: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    config = model.config
    high = torch.randn(size, config.high_positions, config.channels, generator=generator)
    low = torch.randn(size, config.low_positions, config.channels, generator=generator)
    return high, low, torch.arange(size) % config.classes


def millions(preset: str) -> float:
    with torch.device("meta"):
        model = HiMAR(resolve(read_config(preset), {}))
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("mar-b", 208),
        ("himar-b-visual", 245),
        ("himar-b-condition", 245),
        ("himar-b-dit-high", 239),
        ("himar-b-dit-both", 233),
        ("himar-b-scale-vector", 242),
    ],
)
def test_the_rows_of_table_5_have_the_papers_parameter_counts(preset, count):
    assert round(millions(preset)) == count


@pytest.mark.parametrize(
    ("preset", "count"),
    [("mar-b", 207.9), ("mar-l", 478.3), ("mar-h", 942.4), ("himar-b", 244.5), ("himar-l", 529.2), ("himar-h", 1090.6)],
)
def test_published_models_have_their_parameter_counts(preset, count):
    assert round(millions(preset), 1) == count


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_no_parameter_that_its_loss_does_not_train(variant):
    model = randomise(build(variant), 0).train()
    losses = model_losses(model, *batch(model), LossSettings(pivot_share=0.5), torch.Generator().manual_seed(0))
    losses.total.backward()
    untrained = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not untrained
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_learns(variant):
    model = initialise(build(variant), 0).train()
    adam = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(30):
        losses = model_losses(model, *batch(model), LossSettings(pivot_share=1.0), torch.Generator().manual_seed(1))
        adam.zero_grad()
        losses.total.backward()
        adam.step()
        totals.append(losses.total.item())
    assert totals[-1] < 0.9 * totals[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_samples_and_an_image_depends_on_its_seed_and_class(variant):
    model = randomise(build(variant), 0).eval()
    latents = generate(model, [0, 2], draws=PhiloxDraws(5))
    assert latents.shape == (2, 16, 4, 4)
    assert torch.isfinite(latents).all()
    again = generate(model, [2], draws=PhiloxDraws(5), first_index=1)
    assert_near(again, latents[1:], RUN)
    assert distance(generate(model, [1], draws=PhiloxDraws(5), first_index=1), latents[1:]) > 10 * RUN


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variants_checkpoint_is_read_back_from_its_names_and_shapes(variant, tmp_path):
    model = randomise(build(variant), 0).eval()
    save_checkpoint(model, tmp_path / "ours.safetensors")
    ours = load_checkpoint(tmp_path / "ours.safetensors")
    assert ours.config == model.config
    torch.save({"model_ema": model.state_dict()}, tmp_path / "released.pth")
    released = load_checkpoint(tmp_path / "released.pth", {"heads": 2, "dit_heads": 2})
    for name, kind in VARIANTS[variant].items():
        assert getattr(released.config, name) == kind
    assert all(value.equal(released.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_configuration_of_another_variant_is_refused_at_load(tmp_path):
    torch.save({"model_ema": randomise(build("visual"), 0).state_dict()}, tmp_path / "released.pth")
    with pytest.raises(ConfigError, match=r"pivots = condition.*shapes say visual"):
        load_checkpoint(tmp_path / "released.pth", {"heads": 2, "pivots": "condition"})


def test_visual_pivots_are_the_low_tokens_and_reach_the_image():
    model = randomise(build("visual"), 0).eval()
    result = two_phase(model, [1], draws=PhiloxDraws(1))
    assert result.pivots.equal(result.low_tokens)
    known = torch.zeros(1, 16, dtype=torch.bool)
    with torch.no_grad():
        guides = (result.pivots, torch.zeros(1, 4, 16))
        z = [model.transformer_high(torch.tensor([1]), guide, result.tokens, known) for guide in guides]
    assert distance(*z) > 1e-3


def test_a_single_scale_has_one_phase_of_up_to_one_step_per_token():
    model = randomise(build("single-scale"), 0).eval()
    sampling = replace(model.config.default_sampling, high_steps=16)
    result = two_phase(model, [0], draws=PhiloxDraws(2), sampling=sampling)
    assert result.low_tokens.shape == (1, 0, 16)
    assert result.tokens.std() > 0
    with pytest.raises(InputError, match="ask for 1 to 16 steps"):
        two_phase(model, [0], draws=PhiloxDraws(2), sampling=replace(sampling, high_steps=17))
    assert resolve(read_config("mar-b"), {}).default_sampling.high_steps == 256


def test_a_single_scales_loss_is_its_one_phase_masked_by_the_low_phases_rule():
    model = randomise(build("single-scale"), 0)
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(50):
        draws = draw_batch(model.config, torch.arange(2), LossSettings(), generator)
        assert draws.low is None
        shares.append(draws.high.masked.float().mean().item())
    assert min(shares) >= 0.7
    losses = drawn_losses(model, *batch(model, 2)[:2], draws)
    assert losses.total.item() == losses.high.item() > 0
    with pytest.raises(ConfigError, match="single scale and no phase low"):
        _ = model.low_head


def test_heads_that_a_variant_lacks_are_named():
    both = build("dit-both")
    assert isinstance(both.low_head, DiTHead)
    with pytest.raises(ConfigError, match="phase low of this model has a dit head"):
        _ = both.mlp_head
    with pytest.raises(ConfigError, match="phase high of this model has a mlp head"):
        _ = build("condition").dit_head


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"pivots": "tokens"}, "pivots is 'tokens'; it must be one of"),
        ({"pivots": "none"}, "cond_scale is 2, but .* set it to 0"),
        ({"pivots": "none", "cond_scale": 0}, "scale_vector is 'learned'"),
        ({"pivots": "none", "cond_scale": 0, "scale_vector": "none", "low_head": "dit"}, "low_head is 'dit'"),
        ({"cond_scale": 0}, "need a low-resolution grid"),
        ({"dit_depth": 0}, "dit_depth is 0, but a phase of this model has a dit head"),
    ],
)
def test_impossible_variants_are_refused(wrong, text):
    with pytest.raises(ConfigError, match=text):
        resolve(read_config({**SIZES, **wrong}), {})


def test_an_unknown_variant_is_refused_and_every_preset_is_json():
    with pytest.raises(ConfigError, match="variant 'both' is unknown"):
        vary(SIZES, "both")
    assert json.loads(json.dumps(dict(PRESETS))).keys() == PRESETS.keys()
