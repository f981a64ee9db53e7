"""The eager editor of Hi-MAR: what is kept, what is drawn anew, and what an edit depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import himar
from himar.data.digits import DigitClassifier, load_digits_split
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.editing import edit, edit_tokens
from himar.families.hi_mar.model import HiMAR, randomise
from himar.families.hi_mar.presets import VARIANTS, vary
from himar.families.hi_mar.sampler import two_phase
from himar_kernels import ConfigError, InputError, PhiloxDraws, to_uint8, to_values
from himar_kernels.arithmetic.editing import check_edit
from himar_kernels.arithmetic.resize import resized_values
from himar_kernels.families.hi_mar import drawn_positions
from tests.closeness import COMPONENT, RUN, assert_near, distance
from tests.himar import tiny_text
from tests.himar.small_edits import IMAGES, SIDE, holes, small_vae
from tests.himar.test_variants import build as build_64

LABELS = [0, 2, 1, 2]


@pytest.fixture(scope="module")
def vae():
    return small_vae()


@pytest.fixture(scope="module")
def model():
    return small("dit-high")


def small(variant: str):
    sizes = {key: value for key, value in tiny_text.SIZES.items() if "context" not in key} | {"classes": 3}
    made = randomise(HiMAR(resolve(read_config(vary(sizes, variant)), {})), 5).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if any(part in name for part in ("final_layer", "adaLN_modulation", "class_emb", "attn.proj", "cond_z_proj")):
            parameter *= 8  # so that what a network is told matters as much as the state that it is given
    return made


def tokens(model, vae, images=IMAGES, masks=None, labels=LABELS, seed=7, dilation=0, **options):
    checked = check_edit(images, holes() if masks is None else masks, SIDE, labels, dilation=dilation)
    return edit_tokens(model, vae, checked, labels, draws=PhiloxDraws(seed), **options)


def of_images(model, vae) -> tuple[torch.Tensor, torch.Tensor]:
    filled = check_edit(IMAGES, holes(), SIDE).filled()
    scale = model.config.vae_scale
    high, low = (vae.encode(torch.from_numpy(values))[0].flatten(2).transpose(1, 2) * scale
                 for values in (to_values(filled), resized_values(filled, 8)))  # fmt: skip
    return high, low


@pytest.mark.parametrize("variant", VARIANTS)
def test_known_tokens_are_those_of_the_image_and_the_others_are_drawn(variant, vae):
    model = small(variant)
    made = tokens(model, vae)
    drawn = drawn_positions(check_edit(IMAGES, holes(), SIDE), model.config)
    high, low = of_images(model, vae)
    high_drawn, low_drawn = (torch.from_numpy(drawn[phase]) for phase in ("high", "low"))
    assert_near(made.tokens[~high_drawn], high[~high_drawn], COMPONENT)
    assert (made.tokens != high).any(-1)[high_drawn].all() and made.tokens.isfinite().all()
    if model.config.single_scale:
        assert made.low_tokens.shape == (4, 0, 4)
        return
    assert_near(made.low_tokens[~low_drawn], low[~low_drawn], COMPONENT)
    assert (made.low_tokens != low).any(-1)[low_drawn].all()


@pytest.mark.parametrize("variant", ["single-scale", "visual", "dit-high", "dit-both"])
def test_an_edit_depends_on_its_seed_index_class_image_and_mask_alone(variant, vae):
    model = small(variant)
    every = tokens(model, vae).tokens
    for place in range(4):
        part = slice(place, place + 1)
        alone = tokens(model, vae, IMAGES[part], holes()[part], [LABELS[place]], first_index=place)
        assert_near(alone.tokens[0], every[place], RUN)
    assert distance(tokens(model, vae, seed=8).tokens, every) > 0.01
    changed = tokens(model, vae, labels=[0, 2, 0, 2]).tokens
    assert distance(changed[2], every[2]) > 1e-3 and torch.equal(changed[1], every[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_where_every_position_is_drawn_an_edit_is_the_image_of_its_seed(variant, vae):
    model = small(variant)
    plain = two_phase(model, [2], draws=PhiloxDraws(7), first_index=3)
    found = tokens(model, vae, IMAGES[3:], holes()[3:], [2], first_index=3)
    assert torch.equal(found.tokens, plain.tokens) and torch.equal(found.low_tokens, plain.low_tokens)


def test_what_was_in_the_hole_changes_nothing_and_what_is_outside_stays(model, vae):
    masks, other = holes(), IMAGES.copy()
    other[masks] = 255 - other[masks]
    one, two = (edit(model, vae, list(images), list(masks), LABELS, draws=PhiloxDraws(1)) for images in (IMAGES, other))
    assert np.array_equal(one, two) and one.dtype == np.uint8
    assert np.array_equal(one[~masks], IMAGES[~masks]) and not np.array_equal(one[masks], IMAGES[masks])


def test_known_low_positions_show_training_s_placeholder(model, vae, monkeypatch):
    """Phase high sees cond_proj(cond_tokens) there and the pivots' projection elsewhere, whatever their number."""
    seen = []
    run_high = model.run_high
    monkeypatch.setattr(model, "run_high", lambda shown, rows, *rest: seen.append(rows) or run_high(shown, rows, *rest))
    made = tokens(model, vae, IMAGES[:1], holes()[:1], [1])
    placeholders = model.cond_proj(model.cond_tokens)[0]
    for rows in seen:
        assert len(rows) in (1, 2)
        for row in rows:
            assert torch.equal(row[[0, 2, 3]], placeholders[[0, 2, 3]])
            assert_near(row[1], model.guide(made.pivots)[0, 1], COMPONENT)


def test_the_placeholders_and_the_low_tokens_matter(model, vae):
    usual = tokens(model, vae, IMAGES[1:2], holes()[1:2], [1]).tokens
    model.cond_tokens.add_(3.0)
    try:
        assert distance(tokens(model, vae, IMAGES[1:2], holes()[1:2], [1]).tokens, usual) > 1e-3
    finally:
        model.cond_tokens.sub_(3.0)


def test_without_a_class_the_unconditional_rows_run_alone(model, vae, monkeypatch):
    rows = []
    run = model._run
    monkeypatch.setattr(model, "_run", lambda shown, *rest: rows.append(shown) or run(shown, *rest))
    none = tokens(model, vae, labels=None)
    assert all(torch.equal(shown, torch.full_like(shown, 3)) for shown in rows)
    assert {len(shown) for shown in rows} == {1}  # four counts of drawn positions, so four runs, of one half each
    assert distance(tokens(model, vae).tokens, none.tokens) > 1e-3


def test_a_model_from_text_edits_with_contexts_and_without():
    vae, model = small_vae(), randomise(tiny_text.build(), 5).eval().requires_grad_(False)
    checked = check_edit(IMAGES, holes(), SIDE)
    every = edit_tokens(model, vae, checked, contexts=tiny_text.contexts(4), draws=PhiloxDraws(2)).tokens
    alone = edit_tokens(
        model, vae, checked[1:2], contexts=tiny_text.contexts(4)[1:2], draws=PhiloxDraws(2), first_index=1
    )
    assert_near(alone.tokens[0], every[1], RUN)
    empty = model.empty_context.expand(4, -1, -1)
    unguided = model.config.default_sampling.with_changes(low_guidance=1.0, high_guidance=1.0)
    none = edit_tokens(model, vae, checked, draws=PhiloxDraws(2)).tokens
    shown = edit_tokens(model, vae, checked, contexts=empty, draws=PhiloxDraws(2), sampling=unguided).tokens
    assert torch.equal(none, shown)


def test_dilation_draws_more_and_a_feather_blends(model, vae):
    masks = holes()
    options = {"draws": PhiloxDraws(4), "labels": LABELS}
    plain = edit(model, vae, IMAGES, list(masks), **options)
    wider = edit(model, vae, IMAGES, list(masks), dilation=1, **options)
    assert np.array_equal(wider[~masks], IMAGES[~masks]) and not np.array_equal(wider[0], plain[0])
    blended = edit(model, vae, IMAGES, list(masks), feather=2, **options)
    assert np.array_equal(blended[~masks], IMAGES[~masks])
    expected = check_edit(IMAGES, list(masks), SIDE, feather=2).paste(plain)  # pasted pixels: what was drawn, on a mask
    assert np.array_equal(blended, expected) and not np.array_equal(blended, plain)


def test_half_a_digit_is_completed_as_the_class_asked_for():
    weights = Path(himar.__file__).parent / "weights"
    model, vae = (
        himar.load_checkpoint(weights / "digits.safetensors"),
        himar.load_vae(weights / "digits-vae.safetensors"),
    )
    _, real = load_digits_split()
    images, labels = to_uint8(real.images[:60].numpy()), real.labels[:60].numpy()
    mask = np.arange(32)[None].repeat(32, axis=0) >= 16
    hidden = check_edit(images, mask, 32).filled()
    options = {"draws": PhiloxDraws(0), "sampling": model.config.sampling["fast"]}
    edited = edit(model, vae, images, mask, labels.tolist(), **options)
    classifier = DigitClassifier()
    assert classifier.accuracy(hidden, labels) < 0.75 and classifier.accuracy(edited, labels) >= 0.92
    assert np.array_equal(edited[:, ~mask], images[:, ~mask])


def test_edits_that_are_refused(model, vae):
    with pytest.raises(InputError, match=r"label 3 .* classes are the whole numbers 0 to 2"):
        tokens(model, vae, labels=[0, 3, 1, 1])
    with pytest.raises(InputError, match="4 images and 2 labels are given; give one label per image"):
        tokens(model, vae, labels=[0, 1])
    with pytest.raises(InputError, match="contexts were given, but this model makes images of classes"):
        edit(model, vae, IMAGES, list(holes()), contexts=tiny_text.contexts(4), draws=PhiloxDraws(0))
    with pytest.raises(InputError, match="image 0 has 8 × 16 pixels, but the model's images have 16 × 16"):
        edit(model, vae, IMAGES[:, :, :8], list(holes()), draws=PhiloxDraws(0))
    with pytest.raises(ConfigError, match="the VAE has latents of 4 channels, but the model's tokens have 16"):
        checked = check_edit(np.zeros((1, 64, 64, 3), np.uint8), np.eye(64, dtype=np.bool_), 64)
        edit_tokens(build_64("condition"), vae, checked, draws=PhiloxDraws(0))
