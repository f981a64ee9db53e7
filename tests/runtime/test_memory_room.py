"""What a bundle takes is predicted from its manifest, and what clearly has no room is not loaded."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from himar_kernels import BundleError, EngineError
from himar_runtime import Bundle, Device, Manifest, Pipeline
from himar_runtime.memory.available import VARIABLE
from himar_runtime.memory.prediction import Measured, predict
from himar_runtime.memory.room import fitting_batch, require_room
from himar_runtime.service.service import Service, Settings
from tests.conftest import GOLDEN


def test_runs_lie_on_a_straight_line_up_to_the_largest_call() -> None:
    found = Measured(100, (1, 4), (10, 40), 8)
    assert [found.run(images) for images in (1, 2, 4, 8, 64)] == [10, 20, 40, 80, 80]
    assert Measured(100, (1,), (10,), 1).run(1) == 10
    assert Measured(100, (1, 4), (10, 10), 64).run(64) == 10


def described(bundle: Path, **memory: Any) -> Manifest:
    """Return a bundle's manifest with other figures of its memory."""
    manifest = Bundle.open(bundle).manifest
    entry = {"loaded": 5_000_000, "images": [1, 4], "runs": [1_000_000, 4_000_000], "most": 64, **memory}
    components = dict.fromkeys(manifest.components, entry)
    return replace(manifest, raw={**manifest.raw, "memory": {"by": "a test", "components": components}})


def test_lanes_share_what_is_loaded_and_run_for_themselves(digits_bundle) -> None:
    found = predict(described(digits_bundle), 8, lanes=3)
    count = len(found.components)
    assert (found.loaded, found.runs) == (count * 5_000_000, 3 * count * 8_000_000)
    assert found.total == found.loaded + found.runs
    assert found.source == "measured when the bundle was built, by a test"


def test_what_is_loaded_when_first_needed_is_in_no_total(hmar_bundle) -> None:
    found = predict(described(hmar_bundle), 1)
    later = {each.name for each in found.components if each.deferred}
    assert later == {"var_trunk", "var_tail", "vae_encoder"}
    assert found.loaded == (len(found.components) - 3) * 5_000_000


def test_of_an_earlier_bundle_the_weights_alone_are_known() -> None:
    manifest = Bundle.open(GOLDEN / "bundle-1.2" / "bundle").manifest
    found = predict(manifest, 1, lanes=2)
    assert found.runs == 0 and found.source.startswith("weights as they stand")
    assert found.loaded == sum(each.weights for each in found.components) > 0


def test_a_gpu_holds_the_weights_and_the_loops_buffers(digits_bundle, hmar_bundle) -> None:
    for bundle in (digits_bundle, hmar_bundle):
        manifest = described(bundle)
        found = predict(manifest, 1, device="cuda")
        assert found.buffers > manifest.max_batch * 3 * manifest.model.img_size**2  # of pixels alone
        assert all(each.loaded == each.weights for each in found.components)


@pytest.mark.parametrize(
    "wrong",
    [{"loaded": -1}, {"images": []}, {"images": [4, 1]}, {"runs": [1]}, {"images": [0, 4]}, {"runs": [1, 0.5]}],
)
def test_wrong_figures_are_refused(digits_bundle, wrong) -> None:
    with pytest.raises(BundleError, match=r"memory.components.transformer_low is .* build the bundle again"):
        predict(described(digits_bundle, **wrong), 1)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"loaded": 10**400}, r"transformer_low.loaded is 10{199}…; it must be at most 2\^63-1"),
        ({"most": 2**63}, r"transformer_low.most is \d+; it must be at most 2\^63-1"),
        ({"runs": [1, 10**400]}, "transformer_low is .*…; it must give bytes once loaded"),
        ({"images": [1, 2**63]}, "transformer_low is .*; it must give bytes once loaded"),
    ],
)
def test_numbers_that_no_machine_counts_are_refused(digits_bundle, wrong, sentence) -> None:
    with pytest.raises(BundleError, match=sentence) as error:
        predict(described(digits_bundle, **wrong), 1)
    assert len(str(error.value)) < 400


def needs(bundle: Path, images: int, lanes: int = 1) -> float:
    """Return in GB what is predicted."""
    return predict(Bundle.open(bundle).manifest, images, lanes).total / 1e9


def test_a_bundle_without_room_is_not_loaded(digits_bundle, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "0.001")
    with pytest.raises(EngineError) as caught:
        Pipeline.load(digits_bundle)
    assert re.fullmatch(
        rf"{re.escape(str(digits_bundle))} needs about [0-9.]+ MB of memory \(weights [0-9.]+ MB, runs of 1 image "
        r"[0-9.]+ MB\), and HIMAR_MEMORY_LIMIT has 1.0 MB left; use a bundle built with --int8, or set "
        r"HIMAR_MEMORY_LIMIT=none to try all the same.",
        str(caught.value),
    )
    monkeypatch.setenv(VARIABLE, "none")
    Pipeline.load(digits_bundle)


def test_where_it_is_tight_it_is_loaded_with_a_warning(digits_bundle, monkeypatch, caplog) -> None:
    monkeypatch.setenv(VARIABLE, f"{needs(digits_bundle, 1) / 1.1:.6f}")
    Pipeline.load(digits_bundle)
    assert "it may just fit" in caplog.text and "generate fewer at once" in caplog.text


def test_where_there_is_room_nothing_is_said(digits_bundle, monkeypatch, caplog) -> None:
    monkeypatch.setenv(VARIABLE, f"{1.3 * needs(digits_bundle, 64):.6f}")
    with caplog.at_level(logging.WARNING):
        Pipeline.load(digits_bundle).clone()
    assert not caplog.records


def test_a_lane_without_room_is_refused(digits_bundle, monkeypatch) -> None:
    pipeline = Pipeline.load(digits_bundle)
    monkeypatch.setenv(VARIABLE, "0.001")
    with pytest.raises(EngineError, match=r"^another lane of .* needs about .* use fewer lanes, or set"):
        pipeline.clone()


def test_a_service_counts_its_lanes_and_batch(digits_bundle, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{needs(digits_bundle, 8, 4) / 1.4:.6f}")
    with pytest.raises(EngineError, match=r"runs of 8 images in 4 lanes .* use a smaller --max-batch, or fewer lanes"):
        Service(Settings(digits_bundle, lanes=4, max_batch=8))
    service = Service(Settings(digits_bundle, lanes=1, max_batch=1))
    service.close()


def test_a_service_takes_the_largest_batch_that_fits_and_says_so(digits_bundle, monkeypatch, caplog) -> None:
    bundle, lanes = Bundle.open(digits_bundle), 2
    most = bundle.manifest.max_batch
    assert fitting_batch(bundle, Device("cpu"), lanes=lanes) == most and not caplog.records
    monkeypatch.setenv(VARIABLE, f"{needs(digits_bundle, 5, lanes) / 0.89:.6f}")
    assert fitting_batch(bundle, Device("cpu"), lanes=lanes) == 5
    [record] = caplog.records
    assert re.fullmatch(
        rf"{re.escape(str(digits_bundle))} runs in batches of at most 5, not of {most}: those need about [0-9.]+ GB of "
        r"memory in 2 lanes, and HIMAR_MEMORY_LIMIT has [0-9.]+ MB left",
        record.getMessage(),
    )
    caplog.clear()
    Service(Settings(digits_bundle, lanes=lanes)).close()
    assert [each.getMessage() for each in caplog.records] == [record.getMessage()]
    monkeypatch.setenv(VARIABLE, "none")
    assert fitting_batch(bundle, Device("cpu"), lanes=lanes) == most


def test_a_service_is_refused_where_one_image_does_not_fit(digits_bundle, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{needs(digits_bundle, 1, 2) / 1.1:.6f}")
    Service(Settings(digits_bundle, lanes=2)).close()
    monkeypatch.setenv(VARIABLE, f"{needs(digits_bundle, 1, 2) / 1.4:.6f}")
    with pytest.raises(
        EngineError, match=r"runs of 1 image in 2 lanes .* use fewer lanes, or a bundle built with --int8"
    ):
        Service(Settings(digits_bundle, lanes=2))


def test_weights_that_are_mapped_need_no_room(digits_bundle, monkeypatch, tmp_path) -> None:
    bundle = Bundle.open(digits_bundle)
    found = predict(bundle.manifest, 1)
    monkeypatch.setenv(VARIABLE, f"{1.2 * found.runs / 1e9:.6f}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EngineError):
        require_room(bundle, Device("cpu"), images=1)
    monkeypatch.setenv("HIMAR_ORT_PACKED", "1")
    require_room(bundle, Device("cpu"), images=1)


def test_the_manifest_holds_what_was_measured(digits_bundle) -> None:
    manifest = Bundle.open(digits_bundle).manifest
    entries = json.loads(json.dumps(manifest.raw["memory"]))["components"]
    assert entries.keys() == manifest.components.keys()
    assert all(entry["runs"][1] > entry["runs"][0] > 0 for entry in entries.values())
    assert entries["vae_decoder"]["most"] == 8  # its profile's
