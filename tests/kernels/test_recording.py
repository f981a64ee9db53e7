"""Recorded runs are the ruler of parity: replaying the wrong row or step would hide or invent an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from himar_kernels import InputError
from himar_kernels.families.hi_mar import (
    RecordedDraws,
    SamplingConfig,
    load_recording,
    plan,
    recorded_request,
    revealed_positions,
)

GOLDEN = Path(__file__).parents[1] / "golden"
NARROW = GOLDEN / "himar-narrow-128.npz"
S, N, C = 16, 64, 16
IMAGES = np.arange(3)
EVERY_POSITION = np.tile(np.arange(N), (3, 1))


def test_the_request_of_a_case_is_what_was_asked() -> None:
    request = recorded_request(load_recording(NARROW), "constant")
    assert request.sampling == SamplingConfig(
        low_steps=16,
        high_steps=2,
        low_guidance=2.2,
        high_guidance=1.7,
        guidance_schedule="constant",
        temperature=1.0,
        low_diffusion_steps=25,
        high_diffusion_steps=12,
    )
    assert request.low_latent.shape == (3, C, 4, 4)
    assert request.latent.shape == (3, C, 8, 8)
    assert request.labels.dtype == np.int64


def test_every_draw_of_a_run_is_there_in_its_order() -> None:
    arrays = load_recording(NARROW)
    draws = RecordedDraws.from_file(NARROW, "guided")
    order = {"low": draws.order("low", S, IMAGES), "high": draws.order("high", N, IMAGES)}
    assert np.array_equal(order["low"], arrays["guided/orders"][:, :S])
    assert np.array_equal(order["high"] + S, arrays["guided/orders"][:, S:])
    for overall, step in enumerate(plan(recorded_request(arrays, "guided").sampling, S, N)):
        prefix = f"guided/step{overall:03d}/{step.phase}"
        recorded = arrays[f"{prefix}/noise"]
        chain = range(len(recorded) - 1, -1, -1)
        if step.phase == "low":
            positions = revealed_positions(order["low"], step)
            noise = draws.noise("low", step.index, chain, IMAGES, positions, C)
            assert np.array_equal(noise.reshape(recorded.shape), recorded)
        else:
            noise = draws.noise("high", step.index, chain, IMAGES, EVERY_POSITION, C)
            as_images = noise.transpose(0, 1, 3, 2).reshape(recorded.shape)
            assert np.array_equal(as_images, recorded)
            initial = draws.initial_noise("high", step.index, IMAGES, EVERY_POSITION, C)
            assert np.array_equal(initial[1, 9], arrays[f"{prefix}/init_noise"][1, :, 1, 1])


def test_some_images_get_their_own_rows() -> None:
    draws = RecordedDraws.from_file(NARROW, "guided")
    order = draws.order("low", S, IMAGES)
    positions = np.sort(order[:, 15:], axis=1)
    every = draws.initial_noise("low", 0, IMAGES, positions, C)
    assert np.array_equal(draws.initial_noise("low", 0, IMAGES[2:], positions[2:], C), every[2:])
    assert np.array_equal(draws.order("low", S, IMAGES[1:2]), order[1:2])
    some = draws.noise("high", 0, [3], IMAGES[1:2], np.array([[5, 60]]), C)
    assert np.array_equal(some, draws.noise("high", 0, [3], IMAGES, EVERY_POSITION, C)[:, 1:2, [5, 60]])


def test_a_missing_case_names_those_present() -> None:
    arrays = load_recording(NARROW)
    with pytest.raises(InputError, match="no case 'nope'; it has constant, guided, unguided"):
        recorded_request(arrays, "nope")
    with pytest.raises(InputError, match="no case 'nope'"):
        RecordedDraws(arrays, "nope")


def test_shapes_that_do_not_fit_name_the_array() -> None:
    draws = RecordedDraws.from_file(NARROW, "guided")
    with pytest.raises(InputError, match=r"guided/orders .* no order of 9 low positions"):
        draws.order("low", 9, IMAGES)
    with pytest.raises(InputError, match="guided/orders holds 3 images; image 3"):
        draws.order("low", S, np.array([3]))
    with pytest.raises(InputError, match="guided/step000/low/init_noise has shape"):
        draws.initial_noise("low", 0, IMAGES, np.zeros((3, 2), np.int64), C)
    with pytest.raises(InputError, match="guided/step016/high/noise has shape"):
        draws.noise("high", 0, [0], IMAGES, EVERY_POSITION, 4)
    with pytest.raises(InputError, match="guided/step016/high/noise holds 12 diffusion steps; k = 12"):
        draws.noise("high", 0, [12], IMAGES, EVERY_POSITION, C)
    with pytest.raises(InputError, match="guided/step016/high/init_noise holds 64 positions; position 64"):
        draws.initial_noise("high", 0, IMAGES, EVERY_POSITION + 1, C)
    with pytest.raises(InputError, match="lacks the array guided/step019/high/noise"):
        draws.noise("high", 3, [0], IMAGES, EVERY_POSITION, C)


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.npz"
    text.write_text("not an archive")
    with pytest.raises(InputError, match=r"text\.npz is not a readable"):
        load_recording(text)
    with pytest.raises(InputError, match=r"absent\.npz is not a readable"):
        load_recording(tmp_path / "absent.npz")
    np.save(tmp_path / "array.npz", np.zeros(3))
    with pytest.raises(InputError, match="is not a readable"):
        load_recording(tmp_path / "array.npz.npy")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("orders", np.zeros(3), r"guided/orders has shape \(3,\); it must have 2 dimensions"),
        ("orders", np.zeros((3, 80)), "guided/orders is of type float64; it must hold integers"),
        ("labels", np.array(["a"]), "guided/labels is of type <U1"),
        ("low_steps", np.array(0), "guided/low_steps is 0; it must be 1 to"),
        ("low_steps", np.array(2.5), "guided/low_steps is of type float64"),
        ("low_guidance", np.array("x"), "guided/low_guidance is of type <U1; it must be a number"),
        ("temperature", np.array(np.nan), "temperature is nan"),
        ("latent", np.zeros(3), "guided/latent has shape"),
        ("step000/low/noise", np.array(1.0), "guided/step000/low/noise has shape"),
    ],
)
def test_a_damaged_recording_names_the_array(name: str, value: np.ndarray, message: str) -> None:
    arrays = {**load_recording(NARROW), f"guided/{name}": value}
    with pytest.raises(InputError, match=message):
        RecordedDraws(arrays, "guided")
        recorded_request(arrays, "guided")


def test_noise_has_the_shapes_of_the_heads_kind_in_either_phase() -> None:
    """A DiT head in phase low and an MLP head in phase high: grids and rows change places."""
    arrays = load_recording(NARROW)
    draws = RecordedDraws(arrays, "guided")
    order = draws.order("low", S, IMAGES)
    positions = np.sort(order[:, 15:], axis=1)
    rows, grids = (arrays[f"guided/step{step:03d}/{phase}/noise"] for step, phase in ((0, "low"), (16, "high")))
    swapped = {
        **{name: value for name, value in arrays.items() if name.startswith("guided/") and "/step" not in name},
        "guided/step000/low/noise": grids[..., :4, :4],
        "guided/step000/low/init_noise": grids[0, ..., :4, :4],
        "guided/step016/high/noise": rows,
        "guided/step016/high/init_noise": rows[0],
    }
    other = RecordedDraws(swapped, "guided")
    every = np.tile(np.arange(S), (3, 1))
    noise = other.noise("low", 0, [2], IMAGES, every, C)
    assert np.array_equal(noise[0].transpose(0, 2, 1).reshape(3, C, 4, 4), grids[len(grids) - 3, ..., :4, :4])
    assert np.array_equal(
        other.initial_noise("high", 0, IMAGES, positions, C), draws.noise("low", 0, [24], IMAGES, positions, C)[0]
    )


def test_a_single_scale_is_recorded_without_phase_low() -> None:
    arrays = load_recording(NARROW)
    steps = {name: value for name, value in arrays.items() if name.startswith("guided/step") and "/high/" in name}
    single = {name: arrays[f"guided/{name}"] for name in ("labels", "temperature", "latent", "guidance_schedule")}
    single |= {"low_steps": np.array(0), "high_steps": np.array(1), "orders": arrays["guided/orders"][:, S:] - S}
    single |= {name: arrays[f"guided/{name}"] for name in ("low_guidance", "high_guidance")}
    recording = {f"guided/{name}": value for name, value in single.items()}
    recording |= {name.replace("step016", "step000"): value for name, value in steps.items() if "step016" in name}
    request = recorded_request(recording, "guided")
    assert request.low_latent.shape == (3, C, 0, 0)
    assert request.sampling.high_steps == len(request.guidance) == 1
    draws = RecordedDraws(recording, "guided")
    assert np.array_equal(draws.order("high", N, IMAGES) + S, arrays["guided/orders"][:, S:])
    whole = RecordedDraws(arrays, "guided").initial_noise("high", 0, IMAGES, EVERY_POSITION, C)
    assert np.array_equal(draws.initial_noise("high", 0, IMAGES, EVERY_POSITION, C), whole)
