"""The eager sampler by seed: what an image depends on, the twin definitions, and requests that are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from himar.families.hmar import code_draws as twin
from himar.families.hmar.attention import CoarserScales
from himar.families.hmar.sampler import sample_codes
from himar_kernels import InputError
from himar_kernels.families import hmar as kernels
from himar_kernels.families.hmar import PhiloxDraws, SamplingConfig
from tests.closeness import COMPONENT, assert_near, distance

SAMPLING = SamplingConfig(guidance=2.0, top_k=12, top_p=0.9, schedule=[[4], [3, 6], [5, 9, 11]])
PLAIN = SAMPLING.with_changes(schedule=[])


def codes(tiny, labels, seed=7, sampling=SAMPLING, **options) -> np.ndarray:
    return sample_codes(*tiny, labels, draws=PhiloxDraws(seed), sampling=sampling, **options).codes.numpy()


def test_an_image_depends_on_seed_index_and_label_only(tiny):
    every = codes(tiny, [0, 1, 2, 3])
    assert np.array_equal(codes(tiny, [2, 3], first_index=2), every[2:])
    assert np.array_equal(codes(tiny, [3], first_index=3), every[3:])
    assert not np.array_equal(codes(tiny, [3]), every[3:])
    assert not np.array_equal(codes(tiny, [0, 1, 2, 0])[3], every[3])
    assert not np.array_equal(codes(tiny, [0, 1, 2, 3], seed=8), every)


def test_the_schedule_of_a_scale_leaves_coarser_ones_alone(tiny):
    one, other = codes(tiny, [1, 2]), codes(tiny, [1, 2], sampling=SAMPLING.with_changes(schedule=[[4], [3, 6]]))
    assert np.array_equal(one[:, :13], other[:, :13]) and not np.array_equal(one, other)
    plain = codes(tiny, [1, 2], sampling=PLAIN)
    assert np.array_equal(one[:, :4], plain[:, :4]) and not np.array_equal(one[:, 4:13], plain[:, 4:13])


def test_masked_steps_redraw_masked_cells_alone(tiny):
    seen = []
    final = codes(tiny, [0, 3], on_forward=seen.append)
    before = None
    for each in seen:
        if each.masked is not None:
            assert torch.equal(each.codes[~each.masked], before[~each.masked])
            assert torch.equal(each.codes[each.masked], each.drawn[each.masked])
        before = each.codes
    assert [int(each.masked.sum(dim=1)[0]) for each in seen if each.masked is not None] == [6, 20, 11]
    assert np.array_equal(final[:, -25:], before)


def test_without_guidance_in_masked_steps_the_conditional_rows_run_alone(tiny):
    seen, lean = [], []
    codes(tiny, [0, 3], on_forward=seen.append)
    codes(tiny, [0, 3], sampling=SAMPLING.with_changes(mask_guidance=0.0), on_forward=lean.append)
    assert [each.uncond is None for each in seen] == [True, False, False, False, False, False]
    assert [each.uncond is None for each in lean] == [True, False, True, False, True, True]
    assert_near(lean[2].logits, seen[2].logits, COMPONENT)


def test_the_loop_in_numpy_makes_the_same_codes(tiny):
    """Every decision of the eager sampler from its logits, by the definitions that a runtime has."""
    model, tokenizer = tiny
    scales, book, draws, images = model.config.scales, tokenizer.codebook(), PhiloxDraws(7), np.arange(3)
    seen, latents = [], []
    codes(tiny, [0, 1, 2], on_forward=seen.append, on_scale=lambda scale, f_hat: latents.append(f_hat))
    f_hat = np.zeros((3, 6, 5, 5), np.float32)
    masked = final = np.zeros(0)
    for each in seen:
        forward = each.forward
        keep = kernels.surviving(each.logits.numpy(), 12, 0.9)
        uniforms = draws.uniforms(forward.scale, forward.step, images, keep.shape[1])
        drawn, confidence = kernels.draw_codes(each.logits.numpy(), keep, uniforms)
        masked = np.ones_like(drawn, bool) if forward.step == 0 else masked
        final = drawn if forward.step == 0 else np.where(masked, drawn, final)
        assert np.array_equal(keep, each.keep) and np.array_equal(final, each.codes)
        assert np.array_equal(masked, np.ones_like(masked) if each.masked is None else each.masked)
        if forward.remasked:
            masked = kernels.least_confident(confidence, forward.remasked, masked)
        else:
            f_hat = f_hat + kernels.contribution(book, scales, forward.scale, final)
            assert_near(f_hat, latents[forward.scale], COMPONENT)


def test_the_twins_have_the_same_tie_rules():
    generator = np.random.default_rng(0)
    logits = generator.integers(-3, 4, (40, 30)).astype(np.float32)
    uniforms = generator.random(40).astype(np.float32)
    for top_k, top_p in ((0, 1.0), (5, 1.0), (0, 0.5), (9, 0.7), (30, 0.01), (1, 0.3)):
        keep = kernels.surviving(logits, top_k, top_p)
        assert np.array_equal(twin.surviving(torch.from_numpy(logits), top_k, top_p), keep)
        drawn, confidence = kernels.draw_codes(logits, keep, uniforms)
        ours = twin.draw_codes(torch.from_numpy(logits), torch.from_numpy(keep), torch.from_numpy(uniforms))
        assert np.array_equal(ours[0], drawn)
        assert_near(ours[1], confidence, 1e-6)
        noise = generator.gumbel(size=logits.shape).astype(np.float32)
        mixed = twin.smooth_weights(*map(torch.from_numpy, (logits, keep, noise)), 0.5)
        assert_near(mixed, kernels.smooth_weights(logits, keep, noise, 0.5), 1e-6)
    last = torch.tensor([[True, True, False]])
    assert twin.draw_codes(torch.zeros(1, 3), last, torch.ones(1))[0].tolist() == [1]
    confidence = generator.integers(0, 3, (6, 20)).astype(np.float32)
    among = generator.random((6, 20)) < 0.6
    ours = twin.least_confident(torch.from_numpy(confidence), 5, torch.from_numpy(among))
    assert np.array_equal(ours, kernels.least_confident(confidence, 5, among))


@torch.no_grad()
def test_all_scales_by_cache_are_the_block_causal_pass(tiny):
    model, tokenizer = tiny
    seen = []
    final = codes(tiny, [2, 0], sampling=PLAIN.with_changes(all_scales=True), on_forward=seen.append)
    conditions = model.conditions(torch.tensor([2, 0]))
    x = model.all_inputs(conditions.cond, tokenizer.quantize.inputs(model.config.scales, torch.from_numpy(final))[0])
    attends = [CoarserScales(model.config.scales.cells)] * model.config.depth
    whole = model.run(x, conditions, "next-scale", attends)
    assert_near(torch.cat([each.cond for each in seen], dim=1), whole, COMPONENT)
    apart = model.run(x, conditions, "next-scale", [type(attends[0]).__base__(model.config.scales.cells)] * 2)
    assert distance(apart, whole) > 1e-3


def test_a_smooth_preview_is_reproducible(tiny):
    sampling = PLAIN.with_changes(smooth=True)
    one, again = (sample_codes(*tiny, [1], draws=PhiloxDraws(4), sampling=sampling) for _ in range(2))
    assert one.codes is None and torch.equal(one.f_hat, again.f_hat)
    other = sample_codes(*tiny, [1], draws=PhiloxDraws(5), sampling=sampling)
    assert distance(other.f_hat, one.f_hat) > 1e-3


def test_requests_that_are_refused(tiny):
    with pytest.raises(InputError, match=r"label 4 .* classes are the whole numbers 0 to 3"):
        codes(tiny, [0, 4])
    with pytest.raises(InputError, match="labels is empty"):
        codes(tiny, [])
    with pytest.raises(InputError, match="top_k is 21, but the model has 20 codes"):
        codes(tiny, [0], sampling=SAMPLING.with_changes(top_k=21))
    with pytest.raises(InputError, match=r"schedule of scale 1 is \[3, 5\], which sums to 8"):
        codes(tiny, [0], sampling=SAMPLING.with_changes(schedule=[[4], [3, 5]]))
