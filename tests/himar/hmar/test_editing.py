"""The eager editor: what is kept, what is drawn anew, and what an edit depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from himar.families.hmar.editing import edit, edit_codes, kept_codes
from himar.families.hmar.sampler import sample_codes
from himar.families.hmar.tokenizer.network import Tokenizer
from himar.families.hmar.tokenizer.sizes import TokenizerConfig
from himar_kernels import ConfigError, InputError
from himar_kernels.arithmetic.editing import check_edit
from himar_kernels.families.hmar import PhiloxDraws, SamplingConfig, edit_cells, edited_share
from tests.closeness import COMPONENT, assert_near

SAMPLING = SamplingConfig(guidance=2.0, top_k=12, top_p=0.9, schedule=[[4], [3, 6], [5, 9, 11]])
IMAGES = np.random.default_rng(3).integers(0, 256, (3, 10, 10, 3), np.uint8)


def holes(side: int = 10) -> np.ndarray:
    """One pixel, a half, all but one pixel."""
    masks = np.zeros((3, side, side), np.bool_)
    masks[0, 0, 0] = masks[1, :, side // 2 :] = masks[2] = True
    masks[2, -1, -1] = False
    return masks


def codes(tiny, images=IMAGES, masks=None, labels=(0, 1, 2), seed=7, sampling=SAMPLING, observe=None, **options):
    checked = check_edit(images, holes() if masks is None else masks, 10, labels)
    if observe is None:
        draws = PhiloxDraws(seed)
        return edit_codes(*tiny, checked, labels, draws=draws, sampling=sampling, **options).codes.numpy()
    kept = kept_codes(tiny[1], tiny[0], checked)
    sampled = sample_codes(
        *tiny, labels, draws=PhiloxDraws(seed), sampling=sampling, kept=kept, on_forward=observe, **options
    )
    return sampled.codes.numpy()


def test_codes_of_kept_cells_are_those_of_the_image(tiny):
    model, tokenizer = tiny
    kept = kept_codes(tokenizer, model, check_edit(IMAGES, holes(), 10))
    final = codes(tiny)
    assert np.array_equal(final[~kept.edited], kept.codes[~kept.edited])
    for image in range(3):
        changed = final[image] != kept.codes[image]
        assert changed.sum() > kept.edited[image].sum() // 2
    assert [int(edited.sum()) for edited in kept.edited] == [1 + 4 + 4, 4 + 9 + 20, 38]


def test_masked_steps_redraw_a_share_of_the_cells_drawn(tiny):
    seen = []
    codes(tiny, observe=seen.append)
    edited = edit_cells(holes(), tiny[0].config.scales)
    for each in (each for each in seen if each.forward.step):
        span = tiny[0].config.scales.span(each.forward.scale)
        masked, cells = each.masked.numpy(), edited[:, span]
        before = next(
            e for e in seen if (e.forward.scale, e.forward.step) == (each.forward.scale, each.forward.step - 1)
        )
        assert not (masked & ~cells).any()
        expected = edited_share(before.forward.remasked, cells.shape[1], cells.sum(axis=1))
        assert masked.sum(axis=1).tolist() == expected.tolist()
        assert torch.equal(each.codes[~each.masked], before.codes[~each.masked])
    assert [each.masked.sum(dim=1).tolist() for each in seen if each.forward.step] == [
        [2, 6, 6],
        [3, 16, 20],
        [1, 8, 11],
    ]


def test_steps_that_have_nothing_to_redraw_are_left_out(tiny):
    seen = []
    codes(
        tiny, IMAGES[:1], holes()[:1], [0], sampling=SAMPLING.with_changes(schedule=[[4], [7, 2]]), observe=seen.append
    )
    assert [(each.forward.scale, each.forward.step) for each in seen] == [(0, 0), (1, 0), (2, 0)]


def test_an_edit_depends_on_its_seed_index_class_image_and_mask_alone(tiny):
    every = codes(tiny)
    for place in range(3):
        span = slice(place, place + 1)
        alone = codes(tiny, IMAGES[span], holes()[span], [place], first_index=place)
        assert np.array_equal(alone[0], every[place])
    assert not np.array_equal(codes(tiny, seed=8), every)
    assert not np.array_equal(codes(tiny, labels=[0, 3, 2])[1], every[1])


def test_what_was_in_the_hole_changes_nothing_and_what_is_outside_stays(tiny):
    masks, other = holes(), IMAGES.copy()
    other[masks] = 255 - other[masks]
    options = {"draws": PhiloxDraws(1), "sampling": SAMPLING}
    one, two = (edit(*tiny, list(images), list(masks), [0, 1, 2], **options) for images in (IMAGES, other))
    assert np.array_equal(one, two) and one.dtype == np.uint8
    assert np.array_equal(one[~masks], IMAGES[~masks]) and not np.array_equal(one[masks], IMAGES[masks])


def test_where_every_cell_is_drawn_an_edit_is_the_image_of_its_seed(tiny):
    plain = sample_codes(*tiny, [2], draws=PhiloxDraws(7), sampling=SAMPLING, first_index=2).codes.numpy()
    assert np.array_equal(codes(tiny)[2:], plain)


def test_without_a_class_the_unconditional_rows_run_alone(tiny):
    seen = []
    none = codes(tiny, labels=None, sampling=SAMPLING.with_changes(guidance=0.0), observe=seen.append)
    assert all(each.uncond is None for each in seen)
    assert np.array_equal(codes(tiny, labels=None), none)
    assert not np.array_equal(codes(tiny), none)
    null = tiny[0].conditions(torch.full((3,), 4))
    expected = tiny[0].run(tiny[0].first_input(null.cond), null, "next-scale")
    assert_near(seen[0].cond, expected.detach(), COMPONENT)


def test_all_scales_in_view_edit_too(tiny):
    sampling = SAMPLING.with_changes(schedule=[], all_scales=True)
    kept = kept_codes(tiny[1], tiny[0], check_edit(IMAGES, holes(), 10))
    final = codes(tiny, sampling=sampling)
    assert np.array_equal(final[~kept.edited], kept.codes[~kept.edited])
    assert not np.array_equal(final, codes(tiny, sampling=SAMPLING.with_changes(schedule=[])))


def test_edits_that_are_refused(tiny):
    with pytest.raises(InputError, match=r"label 4 .* classes are the whole numbers 0 to 3"):
        codes(tiny, labels=[0, 4, 1])
    with pytest.raises(InputError, match=r"schedule of scale 1 is \[3, 5\], which sums to 8"):
        codes(tiny, sampling=SAMPLING.with_changes(schedule=[[4], [3, 5]]))
    with pytest.raises(InputError, match="smooth is set, but a smooth preview draws no codes"):
        codes(tiny, sampling=SamplingConfig(smooth=True, top_k=5))
    other = Tokenizer(TokenizerConfig(8, (1, 2), 6, 9, groups=4, num_res_blocks=1, attention_levels=()))
    with pytest.raises(ConfigError, match="the tokenizer is not the model's tokenizer: its codes are 9"):
        codes((tiny[0], other))
    with pytest.raises(InputError, match="image 0 has 8 × 10 pixels, but the model's images have 10 × 10"):
        edit(*tiny, IMAGES[:, :, :8], holes(), draws=PhiloxDraws(0))
