"""The same seed gives the same image: whatever the batch, the chunks, and from eager or engines."""

from pathlib import Path

import numpy as np
import pytest
from closeness import RUN, assert_near, assert_same_pixels

from himar import generate, load_checkpoint, load_vae
from himar_export.record import record
from himar_export.verify import verify_recording
from himar_kernels import PhiloxDraws, RecordedDraws, SamplingConfig, recorded_request, to_uint8
from himar_runtime import Device, Pipeline, load_networks, read_recipes

WEIGHTS = Path(__file__).parents[2] / "himar" / "weights"
SEED = 11
LABELS = [i % 10 for i in range(70)]


@pytest.fixture(scope="module")
def pipeline(digits_bundle):
    return Pipeline.load(digits_bundle)


@pytest.fixture(scope="module")
def chunked(pipeline):
    """Seventy images are beyond max_batch 64, so this ran in two chunks."""
    return pipeline.generate(LABELS, seed=SEED)


def test_one_at_a_time(pipeline, chunked):
    for index in (0, 34, 35, 69):
        alone = pipeline.generate([LABELS[index]], seed=SEED, first_index=index)
        assert_same_pixels(alone.images[0], chunked.images[index])


def test_whole_or_in_chunks(pipeline, chunked):
    whole = pipeline.generate(LABELS[:64], seed=SEED)
    assert_same_pixels(whole.images, chunked.images[:64])


def test_eager_or_engines(chunked):
    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    vae = load_vae(WEIGHTS / "digits-vae.safetensors")
    latents = generate(model, LABELS[:16], draws=PhiloxDraws(SEED))
    images = to_uint8(vae.decode(latents).numpy())
    assert_same_pixels(images, chunked.images[:16])


def test_solvers_are_those_of_the_eager_model_in_both_loops(pipeline, digits_bundle, host_kernels, host_lane, tmp_path):
    """Both solvers in both phases, from a recording of the eager model; and what `verify` makes of it."""
    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    lane = host_lane.HostLane(host_kernels)
    networks = host_lane.on_host_lane(load_networks(pipeline.bundle, Device("cpu"), 1), lane)
    resident = Pipeline(pipeline.bundle, networks)
    short = {"low_steps": 4, "high_steps": 2, "low_diffusion_steps": 6, "high_diffusion_steps": 5}
    for low, high in (("ddim", "dpm++"), ("dpm++", "ddim")):
        sampling = SamplingConfig(**short, low_guidance=2.0, high_guidance=2.5, low_solver=low, high_solver=high)
        arrays = record(model, None, LABELS[:3], draws=PhiloxDraws(SEED), sampling=sampling, case="run")
        assert not any(name.endswith("/noise") for name in arrays)
        assert recorded_request(arrays, "run").sampling == sampling
        expected = to_latents(arrays["run/latent"], model)
        for each in (pipeline, resident):
            for draws in (PhiloxDraws(SEED), RecordedDraws(arrays, "run")):
                found = each.generate(LABELS[:3], draws=draws, sampling=sampling).latents
                assert_near(found, expected, RUN)
    np.savez(tmp_path / "run.npz", **arrays)
    comparisons = verify_recording(pipeline.bundle, tmp_path / "run.npz")
    assert all(comparison.passed for comparison in comparisons)
    names = [comparison.name for comparison in comparisons]
    assert {"mlp_head: timesteps", "dit_head: alphas_cumprod", "run run: latent"} <= set(names)


def to_latents(latent: np.ndarray, model) -> np.ndarray:
    return latent / np.float32(model.config.vae_scale)


def test_another_seed_is_another_image(pipeline, chunked):
    other = pipeline.generate([LABELS[0]], seed=SEED + 1)
    assert np.abs(other.images[0].astype(int) - chunked.images[0]).max() > 10


def test_a_png_is_made_again_from_its_recipe(pipeline, chunked, tmp_path):
    path = chunked.save(tmp_path)[40]
    again = pipeline.generate(**read_recipes(path)[0].request())
    assert_same_pixels(again.images[0], chunked.images[40])
