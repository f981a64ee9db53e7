"""Recordings of HMAR: replays that are exact, settings that a recording does not say, and damage that is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from himar_kernels import InputError
from himar_kernels.families.hmar import (
    RecordedDraws,
    load_recording,
    recorded_cases,
    recorded_request,
    recorded_samples,
    surviving,
)

GOLDEN = Path(__file__).parents[2] / "golden"
NARROW = GOLDEN / "hmar-narrow-144.npz"
IMAGES = np.arange(3)


@pytest.fixture(scope="module")
def arrays():
    return load_recording(NARROW)


@pytest.fixture(scope="module")
def bare():
    """The arrays alone, as where no .json lies beside the .npz."""
    with np.load(NARROW) as archive:
        return {name: archive[name] for name in archive.files}


def test_the_request_of_a_case_is_what_was_asked(arrays) -> None:
    request = recorded_request(arrays, "masked")
    assert recorded_cases(arrays) == ["masked", "nsp", "smooth", "unfiltered", "unguided", "var"]
    assert request.sampling.to_dict() == {
        **{"guidance": 2.0, "top_k": 50, "top_p": 0.9, "mask_guidance": 1e-6, "all_scales": False, "smooth": False},
        "schedule": [[1], [1, 3], [2, 3, 4], [6, 12, 18], [21, 27, 33]],
    }
    assert request.codes.shape == (3, 131)
    assert np.array_equal(request.codes[:, -81:], arrays["masked/forward11/codes"])
    assert recorded_samples(request)[4, 2].shape == (3, 81)
    assert recorded_request(arrays, "var").sampling.all_scales
    assert recorded_request(arrays, "smooth").sampling.smooth


@pytest.mark.parametrize("case", ["masked", "nsp", "unfiltered", "unguided", "var"])
def test_settings_are_read_off_what_the_run_did(arrays, bare, case) -> None:
    """Of both filters together several pairs make the same decisions; any of them will do."""
    found, told = recorded_request(bare, case), recorded_request(arrays, case)
    for each in found.forwards:
        assert np.array_equal(
            surviving(each.logits, found.sampling.top_k, found.sampling.top_p), each.keep[: len(each.logits)]
        )
    assert found.sampling.with_changes(top_k=told.sampling.top_k, top_p=told.sampling.top_p) == told.sampling
    if case != "var":
        assert found.sampling == told.sampling


def test_settings_of_the_other_recording_are_read_off_what_the_run_did(tmp_path) -> None:
    (tmp_path / "r.npz").write_bytes((GOLDEN / "hmar-narrow-256.npz").read_bytes())
    told = recorded_request(load_recording(GOLDEN / "hmar-narrow-256.npz"), "default").sampling
    assert recorded_request(load_recording(tmp_path / "r.npz"), "default").sampling == told
    (tmp_path / "r.json").write_text("[1")
    assert recorded_request(load_recording(tmp_path / "r.npz"), "default").sampling == told


def test_what_the_arrays_say_goes_before_the_file_beside_it(bare, tmp_path) -> None:
    np.savez(tmp_path / "r.npz", **bare, **{"nsp/top_k": np.array(140)})
    (tmp_path / "r.json").write_text(json.dumps({"sampling": {"nsp": {"cfg": 1.7, "top_k": 7, "top_p": 0.99}}}))
    assert recorded_request(load_recording(tmp_path / "r.npz"), "nsp").sampling.top_k == 140


def test_a_run_whose_guidance_nothing_tells(bare) -> None:
    with pytest.raises(InputError, match="does not say smooth/guidance, and its logits do not tell; record it again"):
        recorded_request(bare, "smooth")


def test_draws_are_replayed_by_scale_and_step(arrays) -> None:
    draws = RecordedDraws.from_file(NARROW, "masked")
    assert np.array_equal(draws.uniforms(1, 1, IMAGES, 4), arrays["masked/forward02/uniform"])
    assert np.array_equal(draws.uniforms(4, 2, IMAGES[1:2], 81), arrays["masked/forward11/uniform"][1:2])
    gumbel = RecordedDraws(arrays, "smooth").gumbel(3, IMAGES[:1], 36, 144)
    assert np.array_equal(gumbel, arrays["smooth/forward03/gumbel"])


def test_draws_that_a_recording_lacks(arrays) -> None:
    draws = RecordedDraws(arrays, "masked")
    with pytest.raises(InputError, match="masked has no forward of scale 1, step 2; replay it with its own schedule"):
        draws.uniforms(1, 2, IMAGES, 4)
    with pytest.raises(InputError, match=r"masked/forward02/uniform has shape \(3, 4\) of images, but \(9,\) is asked"):
        draws.uniforms(1, 1, IMAGES, 9)
    with pytest.raises(InputError, match="masked/forward02/uniform holds 3 images; image 3 was asked"):
        draws.uniforms(1, 1, np.array([3]), 4)
    with pytest.raises(InputError, match="lacks the array masked/forward00/gumbel"):
        draws.gumbel(0, IMAGES, 1, 144)
    with pytest.raises(InputError, match="no case 'nope'; it has masked, nsp, smooth, unfiltered, unguided, var"):
        RecordedDraws(arrays, "nope")
    with pytest.raises(InputError, match="is a smooth preview, which draws no codes"):
        _ = recorded_request(arrays, "smooth").codes


def test_uniforms_outside_their_range(arrays) -> None:
    broken = {**arrays, "masked/forward02/uniform": np.ones((3, 4), np.float32)}
    with pytest.raises(InputError, match=r"holds uniforms from 1.0 to 1.0; they must be in \[0, 1\)"):
        RecordedDraws(broken, "masked").uniforms(1, 1, IMAGES, 4)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels", np.array(["a"]), "nsp/labels is of type <U1; it must hold integers"),
        ("labels", np.zeros((2, 2), np.int64), "nsp/labels has shape"),
        ("forward01/logits", np.zeros(3), "nsp/forward01/logits has shape"),
        ("f_hat02", np.zeros(3), "nsp/f_hat02 has shape"),
        ("top_p", np.array(1.5), "recorded case 'nsp': top_p is 1.5"),
    ],
)
def test_a_damaged_recording_names_the_array(arrays, name, value, message) -> None:
    with pytest.raises(InputError, match=message):
        recorded_request({**arrays, f"nsp/{name}": value}, "nsp")


def test_a_file_that_is_no_recording(tmp_path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match=r"text\.npz is not a readable \.npz recording"):
        load_recording(tmp_path / "text.npz")
