"""The text tower as a component: its graph gives the tower's states, and a bundle takes prompts with it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from himar import save_checkpoint
from himar.families.hi_mar.model import HiMAR, randomise
from himar.families.hi_mar.sampler import two_phase
from himar.text import encode
from himar_export.cli import main
from himar_export.graph.onnx_export import to_onnx
from himar_export.graph.text_encoder import text_encoder
from himar_export.make.weights import WeightFile
from himar_kernels import PhiloxDraws
from himar_kernels.text import Tokenizer
from himar_runtime import Pipeline
from tests.closeness import COMPONENT, RUN, assert_near, distance
from tests.himar import tiny_text

from .text_towers import VOCABULARY, text_folder, text_model, tower

LIMITS = {"fp32": COMPONENT, "fp16": 2e-3, "int8": 6e-2}


def exported(folder: Path, made, precision: str, backend: str = "onnxruntime") -> onnxruntime.InferenceSession:
    component = text_encoder(made, 4, backend)
    with (folder / "weights.bin").open("wb") as stream:
        onnx.save(to_onnx(component, precision, WeightFile("weights.bin", stream)), folder / "text_encoder.onnx")
    return onnxruntime.InferenceSession(folder / "text_encoder.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("precision", "activation", "backend"),
    [
        ("fp32", "gelu", "onnxruntime"),
        ("fp16", "quick_gelu", "onnxruntime"),
        ("int8", "quick_gelu", "onnxruntime"),
        ("fp16", "gelu", "tensorrt"),
    ],
)
def test_the_graph_gives_the_towers_states_in_any_batch(tmp_path, precision, activation, backend):
    made = tower(activation, width=64, heads=4, hidden=128, positions=9)
    session = exported(tmp_path, made, precision, backend)
    ids = torch.randint(518, (4, 9), generator=torch.Generator().manual_seed(0))
    found = session.run(None, {"tokens": ids.numpy()})[0]
    assert found.dtype == np.float32
    assert_near(found, encode(made, ids), LIMITS[precision])
    assert precision == "fp32" or distance(found, encode(made, ids)) > 1e-6  # the precision is in it
    np.testing.assert_array_equal(session.run(None, {"tokens": ids[2:3].numpy()})[0], found[2:3])
    later = ids.clone()
    later[:, 5:] = 7  # what follows a position is nothing to it
    np.testing.assert_array_equal(session.run(None, {"tokens": later.numpy()})[0][:, :5], found[:, :5])


@pytest.fixture(scope="module")
def made():
    return tower()


@pytest.fixture(scope="module")
def checkpoint(made, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "text.safetensors"
    save_checkpoint(text_model(made), path)
    return path


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory) -> Path:
    return text_folder(tmp_path_factory.mktemp("towers") / "clip", made)


@pytest.fixture(scope="module")
def bundle(checkpoint, folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "text"
    command = ["build", checkpoint, "--text", folder, "--max-batch", "3", "--out", out, "--json"]
    assert main([*map(str, command)]) == 0
    return out


def test_a_bundle_draws_prompts_as_the_eager_model_draws_their_contexts(bundle, made, checkpoint):
    prompts = ["red two", "", "two red two red two"]
    pipeline = Pipeline.load(bundle)
    result = pipeline.generate(prompts=prompts, seed=4)
    ids, cut = Tokenizer(VOCABULARY).ids(prompts)
    assert list(result.truncated) == cut == [2]
    eager = two_phase(text_model(made), contexts=encode(made, ids), draws=PhiloxDraws(4))
    tokens = eager.tokens.transpose(1, 2).reshape(3, 4, 4, 4).numpy()
    assert_near(result.latents * np.float32(tiny_text.SIZES["vae_scale"]), tokens, RUN)


def test_verify_and_inspect_show_the_tower_and_the_tokenizer(bundle, capsys):
    assert main(["verify", str(bundle), "--json"]) == 0
    names = [each["name"] for each in json.loads(capsys.readouterr().out)["comparisons"]]
    assert "text_encoder: context" in names
    assert main(["inspect", str(bundle)]) == 0
    printed = capsys.readouterr().out
    assert "tokenizer  CLIP's, 518 tokens, rows of 5 padded with 517\n" in printed
    assert "text       clip  sha256 " in printed
    assert "text_encoder" in printed
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["components"]["text_encoder"]["profile"] == {"prompts": [1, 3, 3]}
    assert {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= manifest["files"].keys()


def refused(capsys, *arguments: str | Path) -> str:
    assert main([*map(str, arguments)]) == 1
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("sizes", "vocabulary", "said"),
    [
        (
            {"width": 16},
            VOCABULARY,
            "gives 5 rows of 16, but this model takes 5 of 12; give the tower that it was trained with.",
        ),
        ({"positions": 7}, replace(VOCABULARY, length=7), "gives 7 rows of 12, but this model takes 5 of 12"),
        ({"vocabulary": 517}, VOCABULARY, "has 518 tokens and its text tower 517; take both from one model."),
    ],
)
def test_a_tower_of_other_sizes_is_refused(capsys, checkpoint, tmp_path, sizes, vocabulary, said):
    other = text_folder(tmp_path / "clip", tower(**sizes), vocabulary)
    assert said in refused(capsys, "build", checkpoint, "--text", other, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_of_classes_takes_no_tower(capsys, small_checkpoint, folder, tmp_path):
    model = small_checkpoint(tmp_path / "classes.safetensors", 1)
    said = refused(capsys, "build", model, "--text", folder, "--out", tmp_path / "out")
    assert said.endswith("is a text tower, but this model makes images of classes; leave --text out.")


def test_a_refit_asks_for_the_tower_that_a_bundle_has(capsys, bundle, checkpoint, tmp_path):
    said = refused(capsys, "refit", bundle, checkpoint, "--out", tmp_path / "out")
    assert said.endswith("has a text tower; give its folder with --text, or build a bundle anew.")


def test_a_tower_that_the_model_was_not_trained_with_is_told(caplog, folder):
    from himar_export.make.text import load_fitting_text

    def notices(model: HiMAR) -> list[str]:
        caplog.clear()
        with caplog.at_level("INFO", logger="himar.notices"):
            assert load_fitting_text(folder, model) is not None
        return [record.getMessage() for record in caplog.records]

    assert notices(text_model(tower())) == []
    (notice,) = notices(randomise(tiny_text.build(), 5))
    assert "away from the model's own; the model was trained with another tower or another padding" in notice
