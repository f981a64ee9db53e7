"""The names of classes: from the data to the weights, kept in their order, and taken by --labels."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from himar.data.folder import list_images
from himar.data.source import ImageLatents
from himar.families.hi_mar.checkpoints import load_checkpoint, save_checkpoint
from himar.families.hi_mar.model import HiMAR, randomise
from himar.loading.files import read_state, write_safetensors
from himar.training.run import Outputs, run_training
from himar.training.state import STATE_FILE
from himar.vae.autoencoder import AutoencoderKL, VaeConfig
from himar.vae.layouts import load_vae
from himar.vae.training import save_vae
from himar_kernels import CheckpointError
from tests.himar import tiny_training as tiny
from tests.himar.small_cache import run

SIZES = {
    **{name: value for name, value in tiny.TINY.to_dict().items() if name != "sampling"},
    "classes": 12,
    "sampling": {"low_steps": 2, "high_steps": 2, "low_diffusion_steps": 2, "high_diffusion_steps": 2},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Folders 0 … 11 of two images each, a VAE and a configuration."""
    folder = tmp_path_factory.mktemp("numbered")
    chance = np.random.default_rng(0)
    for label in range(12):
        (folder / "images" / str(label)).mkdir(parents=True)
        for number in range(2):
            pixels = chance.integers(0, 255, (20, 16, 3), dtype=np.uint8) // (label + 1)
            Image.fromarray(pixels).save(folder / "images" / str(label) / f"{number}.png")
    torch.manual_seed(0)
    sizes = VaeConfig(ch=32, ch_mult=(1, 1, 1), z_channels=4, num_res_blocks=1, attention_levels=())
    save_vae(folder / "vae.safetensors", AutoencoderKL(sizes))
    (folder / "config.json").write_text(json.dumps(SIZES))
    return folder


def train(files: Path, data: Path, out: Path, *more: str) -> int:
    common = ("--config", files / "config.json", "--vae", files / "vae.safetensors", "--batch", "4", "--lr", "1e-3")
    return run("train", *common, "--data", data, "--out", out, "--snapshot-every", "2", *more)


def test_training_keeps_the_names_and_sample_takes_them(files, tmp_path, capsys):
    data = tmp_path / "images"
    for number, name in enumerate(("cat", "great dane, a dog", "owl")):
        (data / name).mkdir(parents=True)
        for image in range(2):
            Image.new("RGB", (16, 16), (80 * number, image, 0)).save(data / name / f"{image}.png")
    assert train(files, data, tmp_path / "run", "--steps", "2", "--released-layout") == 0
    assert "3 classes: 0 = cat, 1 = great dane, a dog, 2 = owl" in capsys.readouterr().err
    weights = tmp_path / "run" / "model.safetensors"
    model = load_checkpoint(weights)
    assert model.class_names == ("cat", "great dane, a dog", "owl", *[""] * 9)
    save_checkpoint(model, tmp_path / "again.safetensors")
    assert load_checkpoint(tmp_path / "again.safetensors").class_names == model.class_names

    def sample(labels: str, out: str) -> int:
        return run("sample", weights, "--vae", files / "vae.safetensors", "--labels", labels, "--out", tmp_path / out)

    assert sample('owl,"great dane, a dog",0', "names.png") == 0
    assert sample("2,1,0", "numbers.png") == 0
    assert (tmp_path / "names.png").read_bytes() == (tmp_path / "numbers.png").read_bytes()
    capsys.readouterr()
    assert sample("great dane", "x.png") == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "'great dane' is not a class of" in said
    assert "the nearest names are 'great dane, a dog'" in said
    assert not (tmp_path / "x.png").exists()


def test_a_model_without_names_says_so(files, tmp_path, capsys):
    save_checkpoint(randomise(HiMAR(tiny.TINY), 0), tmp_path / "m.safetensors")
    assert load_checkpoint(tmp_path / "m.safetensors").class_names is None
    arguments = ("--vae", files / "vae.safetensors", "--labels", "cat", "--out", tmp_path / "x.png")
    assert run("sample", tmp_path / "m.safetensors", *arguments) == 2
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "'cat' is neither a number nor a range" in said
    assert "does not know its classes' names" in said


@pytest.mark.parametrize("names", ["{", '"cat"', '["cat"]', json.dumps([1] * 10)])
def test_names_in_a_checkpoint_that_make_no_sense_are_refused(tmp_path, names):
    model = randomise(HiMAR(tiny.TINY), 0)
    model.class_names = tuple(map(str, range(10)))
    save_checkpoint(model, tmp_path / "m.safetensors")
    state, metadata = read_state(tmp_path / "m.safetensors", key=None)
    write_safetensors(tmp_path / "m.safetensors", state, {**metadata, "himar_class_names": names})
    with pytest.raises(CheckpointError, match="class names that are not a list of 10"):
        load_checkpoint(tmp_path / "m.safetensors")


def test_numbered_folders_keep_their_numbers_through_a_cache(files, tmp_path, capsys):
    cache = ("--vae", files / "vae.safetensors", "--out", tmp_path / "cache", "--img-size", "16")
    assert run("cache-latents", files / "images", *cache) == 0
    assert train(files, tmp_path / "cache", tmp_path / "run", "--steps", "2") == 0
    assert load_checkpoint(tmp_path / "run" / "model.safetensors").class_names == tuple(map(str, range(12)))
    capsys.readouterr()


def test_a_number_that_is_another_classs_name_comes_with_a_warning(files, tmp_path, capsys):
    model = randomise(HiMAR(tiny.TINY), 0)
    model.class_names = ("0", "1", "10", "2", *[""] * 6)
    save_checkpoint(model, tmp_path / "m.safetensors")
    arguments = ("--vae", files / "vae.safetensors", "--out", tmp_path / "x.png", "--labels")
    assert run("sample", tmp_path / "m.safetensors", *arguments, "2") == 0
    assert "warning: label 2 is class number 2, named '10'; the class named '2' is number 3" in capsys.readouterr().err
    assert run("sample", tmp_path / "m.safetensors", *arguments, '0,1,"2"') == 0
    assert "warning" not in capsys.readouterr().err


def as_begun_earlier(state: Path) -> None:
    """Take out of a training's state what earlier versions did not write."""
    tensors, metadata = read_state(state, key=None)
    values = json.loads(metadata["himar_training"])
    del values["run"]["data"]["class_names"]
    write_safetensors(state, tensors, {"himar_training": json.dumps(values)})


def test_a_resumed_training_keeps_the_order_in_which_it_began(files, tmp_path, capsys):
    former = ImageLatents(list_images(files / "images").former(), load_vae(files / "vae.safetensors"), 16)
    assert train(files, files / "images", tmp_path / "run", "--steps", "2") == 0
    # The same training with the classes in the order of their names as text.
    from himar.families.hi_mar.config import read_config, resolve
    from himar.families.hi_mar.training_settings import changed_settings, paper_settings

    config = resolve(read_config(str(files / "config.json")), {})
    settings = changed_settings(paper_settings(24, 4), steps=4, rate=1e-3, snapshot_every=2, batch=4)

    class Stopped(Exception):  # noqa: N818
        pass

    def stop(progress):
        if progress.step == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run_training(config, former, settings, 0, Outputs(tmp_path / "old"), stop)
    for known in (True, False):
        if not known:
            as_begun_earlier(tmp_path / "old" / STATE_FILE)
        capsys.readouterr()
        assert train(files, files / "images", tmp_path / "old", "--steps", "4", "--resume") == 0
        said = " ".join(capsys.readouterr().err.split())
        assert "continues in the order in which it began" in said
        assert "class 2 is the folder 10" in said
        assert load_checkpoint(tmp_path / "old" / "model.safetensors").class_names[:3] == ("0", "1", "10")


def test_classes_that_changed_places_are_refused(files, tmp_path, capsys):
    data = tmp_path / "images"
    for name in ("a", "b"):
        (data / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(data / name / "x.png")
    assert train(files, data, tmp_path / "run", "--steps", "2") == 0
    state = tmp_path / "run" / STATE_FILE
    tensors, metadata = read_state(state, key=None)
    values = json.loads(metadata["himar_training"])
    assert values["run"]["data"]["class_names"] == ["a", "b"]
    values["run"]["data"]["class_names"] = ["b", "a"]
    write_safetensors(state, tensors, {"himar_training": json.dumps(values)})
    assert train(files, data, tmp_path / "run", "--steps", "2", "--resume") == 1
    assert "class 0 was 'b' when this training began and is 'a' now" in " ".join(capsys.readouterr().err.split())
    (data / "b").rename(data / "c")  # another name for the same class is no other data
    values["run"]["data"]["class_names"] = ["a", "b"]
    write_safetensors(state, tensors, {"himar_training": json.dumps(values)})
    assert train(files, data, tmp_path / "run", "--steps", "2", "--resume") == 0
    with safe_open(tmp_path / "run" / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["himar_class_names"])[:2] == ["a", "c"]


def test_images_that_cannot_be_read_stop_a_training_before_it_begins(files, tmp_path, capsys):
    data = tmp_path / "images"
    for name in ("a", "b"):
        (data / name).mkdir(parents=True)
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(data / name / f"{number}.png")
    (data / "b" / "1.png").write_bytes((data / "b" / "0.png").read_bytes()[:400])
    (data / "b" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    assert train(files, data, tmp_path / "run", "--steps", "2") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "left out b/Thumbs.db: not an image" in said
    assert "b/1.png (" in said
    assert "cannot be read; remove them, or let himar cache-latents leave them out" in said
    assert not (tmp_path / "run").exists()
