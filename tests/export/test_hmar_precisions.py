"""HMAR in half precision and int8: engines against recorded forwards, and images that do not depend on their batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from himar_export.cli import main
from himar_kernels.families.hmar import RecordedDraws, load_recording, recorded_masks, recorded_request
from himar_runtime import Device, Pipeline, load_networks
from himar_runtime.families.hmar.family import hmar_model
from himar_runtime.families.hmar.host import load_codebook
from himar_runtime.families.hmar.loop import Observed, Request, run_scales
from tests.closeness import distance

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDING = GOLDEN / "hmar-narrow-144.npz"


@pytest.fixture(scope="module", params=["int8", "fp16"])
def bundle(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / request.param
    model, config, vae = (GOLDEN / f"hmar-{name}" for name in ("narrow-144.pth", "narrow-144.json", "vae-narrow.pth"))
    arguments = [model, "--config", config, "--vae", vae, f"--{request.param}", "--max-batch", 3, "--out", out]
    assert main(["build", *map(str, arguments)]) == 0
    return out


@pytest.mark.parametrize("case", ["masked", "var"])
def test_recorded_forwards_match(bundle, capsys, case):
    """Codes may differ, and with them the cells redrawn; with those of the recording every forward is judged."""
    assert main(["verify", str(bundle), "--recording", str(RECORDING), "--case", case, "--json"]) == 0
    outputs = {each["name"]: each for each in json.loads(capsys.readouterr().out)["comparisons"]}
    judged = [name for name, each in outputs.items() if name.startswith(f"run {case}: logits") and each["limit"]]
    assert len(judged) == (2 if case == "masked" else 1)


def test_bfloat16_is_verified_in_emulation(build_hmar, tmp_path):
    entry = json.loads((build_hmar(tmp_path / "bf16", "--bf16", "--max-batch", "3") / "manifest.json").read_text())
    compared = {each["name"]: each for each in entry["verification"]}
    assert compared["run selftest: logits of next_scale_tail"]["relative_l2"] > 1e-3


def test_an_image_does_not_depend_on_its_batch(bundle):
    pipeline = Pipeline.load(bundle)
    settings = {"schedule": [[1], [1, 3]], "top_k": 20}
    together = pipeline.generate([1, 2, 3, 4], seed=5, **settings)  # two chunks: max_batch is 3
    for index, label in enumerate([1, 2, 3, 4]):
        alone = pipeline.generate([label], seed=5, first_index=index, **settings)
        np.testing.assert_array_equal(together.arrays["codes"][index], alone.arrays["codes"][0])


def test_a_replay_redraws_the_cells_that_it_is_given(hmar_bundle):
    pipeline = Pipeline.load(hmar_bundle)
    networks = load_networks(pipeline.bundle, Device("cpu"), None)
    arrays = load_recording(RECORDING)
    request = recorded_request(arrays, "masked")
    given = {place: np.roll(masked, 1, axis=1) for place, masked in recorded_masks(request).items()}
    seen: dict[tuple[int, int], Observed] = {}

    def replay(masks):
        run_scales(
            networks,
            hmar_model(pipeline.bundle.manifest),
            load_codebook(pipeline.bundle),
            Request(request.labels, np.arange(len(request.labels)), request.sampling, RecordedDraws(arrays, "masked")),
            lambda step, latent: True,
            forced_masks=masks,
            on_forward=lambda each: seen.update({(each.forward.scale, each.forward.step): each}),
        )
        return {place: each.logits for place, each in seen.items() if place in given}

    own, recorded, other = replay(None), replay(recorded_masks(request)), replay(given)
    first = min(given)
    np.testing.assert_array_equal(own[first], recorded[first])
    assert distance(other[first], own[first]) > 0.01
