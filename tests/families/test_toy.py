"""A family that lies in its own folder goes through every room by one line in the registry."""

from __future__ import annotations

import base64
import json
import sys

import numpy as np
import pytest
import torch

from himar_export.cli import main
from himar_kernels import InputError
from himar_kernels.families.registry import FAMILIES, FamilyModules
from himar_runtime import Bundle, Pipeline, Recipe, read_recipes
from himar_runtime.families.hi_mar.family import hi_mar_model
from tests.closeness import COMPONENT, assert_near
from tests.families.toy.model import FAMILY, toy_checkpoint
from tests.families.toy.runtime import ToySampling
from tests.runtime.service.conftest import JSON, Server

ROOM = "tests.families.toy"
MODULES = FamilyModules(f"{ROOM}.model", f"{ROOM}.model", f"{ROOM}.runtime", f"{ROOM}.export", f"{ROOM}.checks")
SERVE = f"""
import sys
from himar_kernels.families.registry import FAMILIES, FamilyModules
FAMILIES["toy"] = {MODULES!r}
from himar_runtime.service.cli import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def registry():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "toy", MODULES)
        yield


@pytest.fixture(scope="module")
def built(registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    checkpoint = toy_checkpoint(folder / "toy.pth")
    assert main(["build", str(checkpoint), "--out", str(folder / "bundle"), "--max-batch", "4", "--json"]) == 0
    return folder / "bundle"


def test_it_builds_with_its_name_in_a_manifest_that_older_readers_refuse(built):
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["model"] == {"family": "toy", "classes": 5}
    assert manifest["schema_version"] == "3.0"
    assert list(manifest["components"]) == ["puller", "vae_decoder"]
    assert [check["passed"] for check in manifest["verification"]] == [True, True]


def test_verify_and_inspect_tell_of_it(built, capsys):
    assert main(["verify", str(built)]) == 0
    assert "puller: pulled" in capsys.readouterr().out
    assert main(["inspect", str(built)]) == 0
    printed = capsys.readouterr().out
    assert "toy, 5 classes" in printed
    assert "noise" in printed


def test_its_engines_give_the_images_of_its_loop_in_pytorch(built):
    pipeline = Pipeline.load(built)
    model = FAMILY.model_from(_weights(built.parent / "toy.pth"), built.parent / "toy.pth", None)
    result = pipeline.generate([3, 1], seed=5, noise=0.0, steps=2)
    latent = torch.zeros(2, 3, 4, 4)
    for _ in range(2):
        latent = model.puller(torch.tensor([3, 1]), latent)
    assert_near(result.latents, latent.numpy(), COMPONENT)
    assert result.images.shape == (2, 8, 8, 3)


def test_an_image_depends_on_its_seed_and_index_alone_and_its_recipe_makes_it_again(built, tmp_path):
    pipeline = Pipeline.load(built)
    result = pipeline.generate(range(5), seed=7)  # two chunks: max_batch is 4
    alone = pipeline.generate(**result.recipes[4].request())
    np.testing.assert_array_equal(alone.images[0], result.images[4])
    out = tmp_path / "sheet.png"
    assert main(["generate", str(built), "--labels", "4", "--count", "2", "--out", str(out)]) == 0
    recipe = read_recipes(out)[1]
    assert recipe.family == "toy"
    assert recipe.sampling == ToySampling()
    assert Recipe.from_dict(recipe.to_dict(), "x") == recipe


def test_a_callback_counts_its_steps_and_may_cancel(built):
    seen = []
    pipeline = Pipeline.load(built)
    result = pipeline.generate(range(5), on_step=lambda step: seen.append((step.phase, step.step, step.done)) or True)
    assert result.status == "complete"
    assert seen[-1] == ("pull", 2, 6)
    cancelled = pipeline.generate([0], on_step=lambda step: False)
    assert (cancelled.status, cancelled.images.shape) == ("cancelled", (0, 8, 8, 3))


def test_the_service_serves_it_with_its_own_settings(built, tmp_path):
    server = Server([sys.executable, "-c", SERVE], built, tmp_path / "log")
    try:
        connection = server.connect()
        body = json.dumps({"labels": [2], "seed": 3, "steps": 2, "output": "latents"})
        connection.request("POST", "/v1/images", body, JSON)
        answer = json.loads(connection.getresponse().read())
        image = answer["images"][0]
        latents = np.frombuffer(base64.b64decode(image["latents"]), "<f4").reshape(image["shape"])
        expected = Pipeline.load(built).generate([2], seed=3, steps=2)
        np.testing.assert_array_equal(latents, expected.latents[0])
        assert image["recipe"]["family"] == "toy"
        connection.request("POST", "/v1/images", json.dumps({"labels": [2], "low_steps": 2}), JSON)
        answer = json.loads(connection.getresponse().read())
        assert "unknown key 'low_steps'; known keys: labels, seed" in answer["error"]
        assert "steps, noise, output" in answer["error"]
    finally:
        server.process.terminate()
        server.process.wait(30)


def test_what_is_hi_mars_alone_refuses_it_in_a_sentence(built):
    with pytest.raises(
        InputError, match="this bundle's model is of the family 'toy', and this works on 'hi_mar' alone"
    ):
        hi_mar_model(Bundle.open(built).manifest)


def test_it_is_refitted(built, tmp_path):
    out = tmp_path / "refitted"
    assert main(["refit", str(built), str(built.parent / "toy.pth"), "--out", str(out)]) == 0
    assert Bundle.open(out).manifest.raw["files"] == Bundle.open(built).manifest.raw["files"]


def test_a_family_without_cost_and_bench_is_refused_by_them_in_a_sentence(built, capsys):
    commands = {"cost": ["inspect", "--cost"], "bench": ["bench", "--checkpoint", str(built.parent / "toy.pth")]}
    for part, command in commands.items():
        assert main([*command, str(built)]) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert f"of the family 'toy', which has no {part}; the families with one are 'hi_mar', 'hmar'." in said


def test_without_its_line_a_bundle_names_the_family_that_is_missing(built, monkeypatch):
    recipe = Pipeline.load(built).generate([0]).recipes[0].to_dict()
    monkeypatch.delitem(FAMILIES, "toy")
    with pytest.raises(Exception, match=r"model\.family is 'toy'; this himar knows 'hi_mar'.*: install a newer himar"):
        Bundle.open(built)
    with pytest.raises(Exception, match=r"recipe of a model of the family 'toy'; this himar knows 'hi_mar'"):
        Recipe.from_dict(recipe, "x.png")


def _weights(path):
    from himar.loading.checkpoint_files import read_weights

    return read_weights(path)
