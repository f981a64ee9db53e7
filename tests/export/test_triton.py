"""`himar-export triton`: what it writes, and what it refuses."""

import json

import pytest

from himar_export.cli import main
from himar_runtime import Pipeline
from tests.runtime.conftest import write_bundle
from tests.runtime.tiny_text import write_text_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("triton") / "bundle")


def run(capsys, *arguments, code=0):
    capsys.readouterr()
    assert main(["triton", *map(str, arguments)]) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else " ".join(printed.err.split())


def test_a_model_repository(capsys, bundle, tmp_path):
    out = tmp_path / "models"
    said = run(capsys, bundle, "--out", out, "--lanes", "2", "--threads", "3", "--queue-delay", "2.5")
    assert said == f"wrote {out / 'himar'}; start it with: tritonserver --model-repository {out}\n"
    assert sorted(path.name for path in (out / "himar").iterdir()) == ["1", "config.pbtxt"]
    config = (out / "himar" / "config.pbtxt").read_text().splitlines()
    assert config[:4] == [
        'name: "himar"',
        'backend: "python"',
        "max_batch_size: 64",
        'input { name: "label" data_type: TYPE_INT64 dims: [ 1 ] }',
    ]
    assert "instance_group { count: 2 kind: KIND_CPU }" in config
    assert "dynamic_batching { max_queue_delay_microseconds: 2500 }" in config
    assert 'parameters { key: "threads" value { string_value: "3" } }' in config
    assert not any("decoupled" in line or "partial" in line for line in config)
    copied = Pipeline.load(out / "himar" / "1" / "bundle")
    assert copied.bundle.id == Pipeline.load(bundle).bundle.id


def test_a_repository_takes_further_models(capsys, bundle, tmp_path):
    run(capsys, bundle, "--out", tmp_path, "--link")
    printed = run(capsys, bundle, "--out", tmp_path, "--link", "--name", "b", "--stream", "--device", "cuda:1",
                  "--json")  # fmt: skip
    assert json.loads(printed) == {"model": str(tmp_path / "b"), "name": "b", "lanes": 1, "stream": True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "himar"]
    assert [path.name for path in (tmp_path / "b" / "1").iterdir()] == ["model.py"]
    config = (tmp_path / "b" / "config.pbtxt").read_text()
    assert "model_transaction_policy { decoupled: true }" in config
    assert "instance_group { count: 1 kind: KIND_GPU gpus: [ 1 ] }" in config
    assert 'input { name: "partial_images" data_type: TYPE_INT32 dims: [ 1 ] optional: true }' in config
    assert f'"bundle" value {{ string_value: "{bundle}" }}' in config
    said = run(capsys, bundle, "--out", tmp_path, "--name", "b", code=1)
    assert f"{tmp_path / 'b'} exists already; remove it, or choose another --name or --out." in said


def test_a_model_from_text_takes_prompts(capsys, tmp_path_factory, tmp_path):
    text_bundle = write_text_bundle(tmp_path_factory.mktemp("text") / "bundle")
    run(capsys, text_bundle, "--out", tmp_path, "--device", "cuda", "--link")
    config = (tmp_path / "himar" / "config.pbtxt").read_text()
    assert 'input { name: "prompt" data_type: TYPE_STRING dims: [ 1 ] }' in config
    assert "instance_group { count: 1 kind: KIND_GPU }" in config


def test_what_cannot_be_a_model_is_refused_and_leaves_nothing(capsys, bundle, tmp_path_factory, tmp_path):
    out = tmp_path / "models"
    latents = write_bundle(tmp_path_factory.mktemp("latents") / "bundle", decoder=False)
    said = run(capsys, latents, "--out", out, code=1)
    assert "has no VAE decoder, so it produces latents, not images; build it again with --vae." in said
    assert "is not a folder; give a bundle" in run(capsys, tmp_path / "absent", "--out", out, code=1)
    assert "'a/b' cannot name a model" in run(capsys, bundle, "--out", out, "--name", "a/b", code=2)
    assert "0 is not in the range 1<=x<=64" in run(capsys, bundle, "--out", out, "--lanes", "0", code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_that_fails_leaves_nothing(capsys, bundle, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copytree", fail)
    assert "No space left on device" in run(capsys, bundle, "--out", tmp_path / "models", code=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--lanes", "--device", "--stream", "--queue-delay", "--link"])
def test_help_names_the_options(capsys, option):
    assert option in run(capsys, "--help")
