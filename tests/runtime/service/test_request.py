"""No body, however strange, may fail in another way than with a sentence for its sender."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from himar_kernels import InputError
from himar_runtime import Bundle, Manifest
from himar_runtime.service.answer import LONGEST_SENTENCE, refusal
from himar_runtime.service.request import ImagesRequest, RefusalError, read_request

KEYS = (
    "labels", "seed", "first_index", "sampling", "guidance", "low_guidance", "high_guidance", "low_steps",
    "high_steps", "low_diffusion_steps", "high_diffusion_steps", "guidance_schedule", "temperature", "low_solver",
    "high_solver", "output", "low_forecast", "high_forecast", "forecast_order", "forecast_first", "forecast_last",
    "guidance_interval", "least_guidance", "low_diffusion_counts", "high_diffusion_counts", "low_guidances",
    "high_guidances", "modulation_interval",
)  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.integers(0, 4) | st.floats() | st.text()
    | st.sampled_from(["plain", "default", "linear", "png", "latents", 10**400, -(2**63), 2**64])
)  # fmt: skip
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(), LEAVES, max_size=2)
BODIES = st.dictionaries(st.sampled_from(KEYS) | st.text(), VALUES, max_size=5)
LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def manifest(bundle_path: Path) -> Manifest:
    return Bundle.open(bundle_path).manifest


def read(body: bytes, accept: str, manifest: Manifest) -> ImagesRequest | str:
    try:
        return read_request(body, accept, manifest, max_images=4)
    except (InputError, RefusalError) as error:
        return str(error)


def check(body: bytes, accept: str, manifest: Manifest) -> None:
    found = read(body, accept, manifest)
    if isinstance(found, str):
        assert found and "\n" not in found
        assert len(json.loads(refusal(found).body)["error"]) <= LONGEST_SENTENCE
    else:
        assert 1 <= len(found.labels) <= 4 and 0 <= found.seed < 2**64


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=BODIES, labels=st.none() | LABELS, accept=st.sampled_from(["", "image/png", "*/*"]))
def test_any_object_is_read_or_refused(manifest: Manifest, values: dict[str, Any], labels: Any, accept: str) -> None:
    whole = values if labels is None else {**values, "labels": labels}
    check(json.dumps(whole).encode(), accept, manifest)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary() | st.recursive(LEAVES, st.lists, max_leaves=8).map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_refused(manifest: Manifest, body: bytes) -> None:
    check(body, "", manifest)


@pytest.mark.parametrize("depth", [100, 500, 900, 950, 990, 5000])
def test_nesting_is_refused_wherever_it_stops_being_readable(manifest: Manifest, depth: int) -> None:
    nested = b"[" * depth + b"1" + b"]" * depth
    for body in (nested, b'{"labels": %s}' % nested, b'{"labels": [1], "sampling": %s}' % nested):
        assert isinstance(read(body, "", manifest), str)


def test_solvers_are_read_and_refused_by_name(manifest: Manifest) -> None:
    body = {"labels": [1], "low_solver": "ddim", "high_solver": "dpm++"}
    found = read(json.dumps(body).encode(), "", manifest)
    assert isinstance(found, ImagesRequest)
    assert (found.sampling.low_solver, found.sampling.high_solver) == ("ddim", "dpm++")
    for change, sentence in (
        ({"low_solver": 3}, "low_solver is 3; it must be 'ddpm', 'ddim' or 'dpm++'."),
        ({"low_solver": None}, "low_solver is null; leave the key out, or give a value."),
        ({"temperature": 0.5}, "temperature is 0.5, but it scales the noise of reverse steps"),
    ):
        assert str(read(json.dumps({**body, **change}).encode(), "", manifest)).startswith(sentence)


def test_a_whole_request_is_read_as_it_was_sent(manifest: Manifest) -> None:
    body = {"labels": [1, 4], "seed": 2**64 - 1, "first_index": 9, "sampling": "plain", "guidance": 2, "temperature": 0}
    found = read(json.dumps(body).encode(), "application/json", manifest)
    assert isinstance(found, ImagesRequest)
    assert found.labels.tolist() == [1, 4]
    assert (found.seed, found.first_index, found.output, found.bare) == (2**64 - 1, 9, "png", False)
    wanted = manifest.sampling["plain"].with_changes(low_guidance=2, high_guidance=2, temperature=0)
    assert found.sampling == wanted


def test_settings_of_a_phase_that_the_model_lacks_are_refused(manifest: Manifest) -> None:
    single = replace(manifest, model=replace(manifest.model, pivots="none", cond_scale=0))
    for key in ("low_guidance", "low_steps", "low_diffusion_steps"):
        assert isinstance(read(json.dumps({"labels": [1], key: 2}).encode(), "", manifest), ImagesRequest)
        assert f"{key} is given, but this bundle's model has a single scale" in str(
            read(json.dumps({"labels": [1], key: 2}).encode(), "", single)
        )
    both = read(b'{"labels": [1], "guidance": 2, "high_steps": 3}', "", single)
    assert isinstance(both, ImagesRequest) and both.sampling.high_guidance == 2


def test_forecasts_and_lists_are_taken(manifest: Manifest) -> None:
    steps = next(iter(manifest.sampling.values())).high_steps
    asked = {"high_diffusion_counts": [9] * steps, "high_guidances": [1.5] * steps, "high_forecast": 2}
    found = read_request(json.dumps({"labels": [1], **asked, "guidance_interval": 3}).encode(), "", manifest, 4)
    values = found.sampling.to_dict()
    assert {name: values[name] for name in asked} == asked
    assert values["guidance_interval"] == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"high_diffusion_counts": "9,9"}, "high_diffusion_counts is '9,9'; it must be a list."),
        ({"high_diffusion_counts": 9}, "high_diffusion_counts is 9; it must be a list."),
        ({"high_diffusion_counts": {"1": 9}}, "high_diffusion_counts is {'1': 9}; it must be a list."),
        ({"high_diffusion_counts": None}, "high_diffusion_counts is null; leave the key out, or give a value."),
        ({"high_diffusion_counts": [[9]]}, "high_diffusion_counts[0] is [9]; it must be a whole number."),
        ({"low_diffusion_counts": [9.0]}, "low_diffusion_counts[0] is 9.0; it must be a whole number."),
        ({"low_guidances": ["1"]}, "low_guidances[0] is '1'; it must be a number."),
        ({"high_guidances": [1] * 999}, "high_guidances has 999 scales, but high_steps is"),
        ({"high_forecast": True}, "high_forecast is True; it must be a whole number."),
        ({"forecast_order": 0}, "forecast_order is 0, but no phase is forecast;"),
        ({"least_guidance": "1"}, "least_guidance is '1'; it must be a number."),
    ],
)
def test_lists_and_forecasts_that_are_none_are_refused(manifest: Manifest, asked: dict[str, Any], message: str) -> None:
    assert str(read(json.dumps({"labels": [1], **asked}).encode(), "", manifest)).startswith(message)
