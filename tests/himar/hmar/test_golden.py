"""The eager model against the released model's numbers: a user's checkpoint must give the images it gave before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from himar.families.hmar.attention import EachScale, own_scale
from himar.families.hmar.sampler import generate, sample_codes
from himar.families.hmar.tokenizer.network import image_values
from himar_kernels.families.hmar import RecordedDraws, recorded_request, recorded_samples
from tests.closeness import COMPONENT, RUN, assert_near

SMOOTH = 1e-3
"""A small τ amplifies float32's noise in a smooth preview: see tests/golden/README.md."""
CASES = [("hmar-narrow-144", case) for case in ("masked", "unfiltered", "unguided", "nsp", "var", "smooth")]
CASES += [("hmar-narrow-256", "default")]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def long(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).long()


def test_tokenizer(recorded, images):
    size, scales, tokenizer = recorded.name[-3:], recorded.model.config.scales, recorded.tokenizer
    values = image_values(images[f"{size}/image_u8"])
    assert_near(tokenizer.latent(values), images[f"{size}/f"], COMPONENT)
    codes = tokenizer.encode(values, scales)
    assert np.array_equal(codes, images[f"{size}/codes"])
    latents = tokenizer.quantize.latents(scales, codes)
    assert_near(latents, images[f"{size}/f_hat"], COMPONENT)
    assert_near(tokenizer.quantize.inputs(scales, codes)[0], images[f"{size}/ns_input"], COMPONENT)
    decoded = tokenizer.decode_codes(codes, scales)
    if size == "256":
        assert_near(decoded[:, :, 96:160, 96:160], images["256/decoded_crop"], RUN)
    else:
        assert_near(tokenizer.encoder(values), images["144/encoder"], COMPONENT)
        assert_near(decoded, images["144/decoded"], RUN)
        assert_near(tokenizer.decode(latents[1])[0], images["144/decoded_scale1_row0"], RUN)


def test_both_networks_over_all_scales(recorded):
    model, arrays = recorded.model, recorded.arrays
    labels, masked = long(arrays["tf/labels"]), torch.from_numpy(arrays["tf/masked"]) > 0
    ahead, own = recorded.tokenizer.quantize.inputs(model.config.scales, long(arrays["tf/codes"]))
    assert_near(ahead, arrays["tf/ns_input"], COMPONENT)
    assert_near(own, arrays["tf/mask_input"], COMPONENT)
    assert_near(model.next_scale_logits(labels, ahead), arrays["tf/nsp_logits"], COMPONENT)
    assert_near(model.masked_logits(labels, ahead, own, masked), arrays["tf/mp_logits"], COMPONENT)
    each = masked.expand(len(labels), -1)
    assert torch.equal(model.masked_logits(labels, ahead, own, each), model.masked_logits(labels, ahead, own, masked))


def test_inputs_and_every_block(narrow):
    model, arrays = narrow.model, narrow.arrays
    labels, masked = long(arrays["tf/labels"]), torch.from_numpy(arrays["tf/masked"]) > 0
    ahead, own = (torch.from_numpy(arrays[f"tf/{name}_input"]) for name in ("ns", "mask"))
    conditions = model.conditions(labels)
    x = model.all_inputs(conditions.cond, ahead)
    assert_near(x, arrays["tf/nsp_x"], COMPONENT)
    assert_near(model.all_masked_inputs(conditions.cond, ahead, own, masked), arrays["tf/mp_x"], COMPONENT)
    attend = EachScale(model.config.scales.cells)
    for place, block in enumerate([*model.base_blocks, *model.ns_blocks]):
        x = block(x, conditions.blocks[place], attend)
        assert_near(x[0], arrays["tf/nsp_blocks_row0"][place], COMPONENT, f"block {place}")


def test_each_scale_alone_is_the_whole_pass(narrow):
    """Inference runs a scale by itself, without a mask; trunk and tail apart, as engines do."""
    model, arrays = narrow.model, narrow.arrays
    ahead, own = (torch.from_numpy(arrays[f"tf/{name}_input"]) for name in ("ns", "mask"))
    masked, scales = torch.from_numpy(arrays["tf/masked"]) > 0, model.config.scales
    conditions = model.conditions(long(arrays["tf/labels"]))
    base = len(model.base_blocks)
    for scale in range(1, len(scales)):
        cells, later = (
            scales.span(scale),
            slice(scales.starts[scale] - 1, scales.starts[scale] - 1 + scales.cells[scale]),
        )
        inputs = {
            "next-scale": model.scale_input(scale, ahead[:, later]),
            "masked": model.masked_input(scale, ahead[:, later], own[:, later], masked[cells]),
        }
        for network, x in inputs.items():
            expected = arrays["tf/nsp_logits" if network == "next-scale" else "tf/mp_logits"][:, cells]
            middle = model.trunk(x, conditions.blocks[:base])
            logits = model.tail(network, middle, *model.tail_vectors(conditions, network))
            assert_near(logits, expected, COMPONENT, f"{network} of scale {scale}")
            assert torch.equal(logits, model.run(x, conditions, network, [own_scale] * model.config.depth))


@pytest.mark.parametrize("forced", [False, True], ids=["drawn", "forced"])
@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_whole_run(models, name, case, forced):
    """Every forward: inputs, logits, what survives, codes, confidences, masks; every latent, and the image."""
    _, model, tokenizer, arrays = models[name]
    request = recorded_request(arrays, case)
    seen, latents = [], []
    sampled = sample_codes(
        model,
        tokenizer,
        request.labels,
        draws=RecordedDraws(arrays, case),
        sampling=request.sampling,
        forced=recorded_samples(request) if forced else None,
        on_forward=seen.append,
        on_scale=lambda scale, f_hat: latents.append(f_hat),
    )
    limit = SMOOTH if case == "smooth" else COMPONENT
    for ours, theirs in zip(seen, request.forwards, strict=True):
        place = f"scale {theirs.scale}, step {theirs.step}"
        assert_near(ours.logits[: len(theirs.logits)], theirs.logits, limit, f"logits of {place}")
        assert np.array_equal(ours.keep, theirs.keep), place
        for what in ("x", "cond", "uncond"):
            if getattr(ours, what) is not None and getattr(theirs, what) is not None:
                assert_near(getattr(ours, what), getattr(theirs, what), COMPONENT, f"{what} of {place}")
        if theirs.drawn is not None:
            assert np.array_equal(ours.drawn, theirs.drawn) and np.array_equal(ours.codes, theirs.codes), place
            assert_near(ours.confidence, theirs.confidence, RUN, f"confidence of {place}")
        assert (ours.masked is None) == (theirs.masked is None)
        assert theirs.masked is None or np.array_equal(ours.masked, theirs.masked), place
    for scale, (ours, theirs) in enumerate(zip(latents, request.f_hat, strict=True)):
        assert_near(ours[: len(theirs)], theirs, limit, f"latent after scale {scale}")
    assert torch.equal(latents[-1], sampled.f_hat)
    if request.image is not None:
        assert_near((tokenizer.decode(sampled.f_hat)[0] + 1) / 2, request.image, RUN)
    if case == "smooth":
        assert sampled.codes is None
    else:
        assert np.array_equal(sampled.codes, request.codes)


def test_generate_gives_the_recorded_image(narrow):
    request = recorded_request(narrow.arrays, "masked")
    draws = RecordedDraws(narrow.arrays, "masked")
    images = generate(narrow.model, narrow.tokenizer, request.labels, draws=draws, sampling=request.sampling)
    assert images.shape == (3, 3, 144, 144)
    assert_near((images[0] + 1) / 2, request.image, RUN)
