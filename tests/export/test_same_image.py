"""The same seed gives the same image: whatever the batch, the chunks, and from eager or engines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from himar import generate, load_checkpoint, load_vae
from himar_export.families.hi_mar.record import record
from himar_export.verify.verify import verify_recording
from himar_kernels import PhiloxDraws, to_uint8
from himar_kernels.families.hi_mar import RecordedDraws, SamplingConfig, recorded_request
from himar_runtime import Device, Pipeline, load_networks, read_recipes
from tests.closeness import RUN, assert_near, assert_same_pixels
from tests.runtime.host_lane import HostLane, on_host_lane

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
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


def test_solvers_are_those_of_the_eager_model_in_both_loops(pipeline, digits_bundle, host_kernels, tmp_path):
    """Both solvers in both phases, from a recording of the eager model; and what `verify` makes of it."""
    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    lane = HostLane(host_kernels)
    networks = on_host_lane(load_networks(pipeline.bundle, Device("cpu"), 1), lane)
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


SHORT = {"low_steps": 4, "high_steps": 2, "low_guidance": 2.0, "high_guidance": 2.5}
CHEAPER = {
    "forecast": {"low_diffusion_steps": 24, "high_diffusion_steps": 30, "low_forecast": 3, "high_forecast": 4},
    "order 2 of a solver": {
        **{"low_diffusion_steps": 14, "high_diffusion_steps": 16, "low_forecast": 2, "high_forecast": 2},
        **{"forecast_order": 2, "forecast_first": 3, "forecast_last": 1, "low_solver": "dpm++", "high_solver": "ddim"},
    },
    "condition cache": {"low_diffusion_steps": 24, "high_diffusion_steps": 30, "guidance_interval": 3},
    "both": {
        **{"low_diffusion_steps": 24, "high_diffusion_steps": 30, "low_forecast": 3, "high_forecast": 4},
        **{"forecast_order": 0, "guidance_interval": 2},
    },
    "lists": {
        **{"low_diffusion_counts": (20, 12, 6, 6), "high_diffusion_counts": (30, 12), "low_guidances": (1, 1.5, 2, 3)},
        **{
            "least_guidance": 1.6,
            "high_forecast": 4,
            "forecast_first": 4,
            "low_solver": "dpm++",
            "high_solver": "ddim",
        },
    },
}
EVERY = {
    **{"low_forecast": 1, "high_forecast": 1, "forecast_order": 1, "forecast_first": 8, "forecast_last": 3},
    **{"guidance_interval": 1, "least_guidance": 0.0, "high_diffusion_counts": (), "low_diffusion_counts": ()},
}


@pytest.mark.parametrize("name", CHEAPER)
def test_chains_that_leave_evaluations_out_are_the_eager_model_s_in_both_loops(pipeline, host_kernels, tmp_path, name):
    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    lane = HostLane(host_kernels)
    resident = Pipeline(pipeline.bundle, on_host_lane(load_networks(pipeline.bundle, Device("cpu"), 1), lane))
    sampling = SamplingConfig(**SHORT, **CHEAPER[name])
    arrays = record(model, None, LABELS[:3], draws=PhiloxDraws(SEED), sampling=sampling, case="run")
    assert recorded_request(arrays, "run").sampling == sampling
    expected = to_latents(arrays["run/latent"], model)
    for each in (pipeline, resident):
        for draws in (PhiloxDraws(SEED), RecordedDraws(arrays, "run")):
            assert_near(each.generate(LABELS[:3], draws=draws, sampling=sampling).latents, expected, RUN)
        alone = each.generate(LABELS[1:2], seed=SEED, first_index=1, sampling=sampling)
        assert_same_pixels(alone.images[0], each.generate(LABELS[:3], seed=SEED, sampling=sampling).images[1])
    np.savez(tmp_path / "run.npz", **arrays)
    assert all(comparison.passed for comparison in verify_recording(pipeline.bundle, tmp_path / "run.npz"))
    whole = pipeline.generate(LABELS[:3], seed=SEED, sampling=replace(sampling, **EVERY)).latents
    assert np.abs(whole - expected).max() > 1e-3  # something was left out


def to_latents(latent: np.ndarray, model) -> np.ndarray:
    return latent / np.float32(model.config.vae_scale)


def test_another_seed_is_another_image(pipeline, chunked):
    other = pipeline.generate([LABELS[0]], seed=SEED + 1)
    assert np.abs(other.images[0].astype(int) - chunked.images[0]).max() > 10


def test_a_png_is_made_again_from_its_recipe(pipeline, chunked, tmp_path):
    path = chunked.save(tmp_path)[40]
    again = pipeline.generate(**read_recipes(path)[0].request())
    assert_same_pixels(again.images[0], chunked.images[40])
