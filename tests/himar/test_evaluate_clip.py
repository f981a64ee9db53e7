"""himar evaluate --clip: the score that transformers' vectors give, of a checkpoint's images and of an .npz."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from himar.families.hi_mar.checkpoints import save_checkpoint
from himar.families.hi_mar.model import randomise
from himar_kernels.text import Tokenizer
from tests.himar.small_captions import write_captions
from tests.himar.small_evaluation import VAE, one_error, run
from tests.himar.text.clip_models import clip_model, saved
from tests.himar.tiny_text import build, write_text_folder

PROMPTS = [f"{colour} {digit}" for colour in ("red", "blue", "a green") for digit in ("one", "two", "three", "seven")]


@pytest.fixture(scope="module")
def theirs():
    return clip_model("wide")


@pytest.fixture(scope="module")
def clip(theirs, tmp_path_factory) -> Path:
    """The folder of a whole small CLIP model with a tokenizer of its own."""
    folder = write_text_folder(tmp_path_factory.mktemp("clip"), length=77, merges=0)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return saved(theirs, folder)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)


@pytest.fixture
def archive(images, tmp_path) -> Path:
    np.savez(tmp_path / "images.npz", arr_0=images, prompts=PROMPTS)
    return tmp_path / "images.npz"


def score(theirs, clip: Path, images: np.ndarray, prompts: list[str]) -> float:
    """Return the score by transformers."""
    ids, _ = Tokenizer.open(clip).ids(prompts)
    pixels = CLIPImageProcessorPil.from_pretrained(clip)(list(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        found = theirs(input_ids=torch.from_numpy(ids), pixel_values=pixels)
    return 100 * float((found.image_embeds * found.text_embeds).sum(dim=1).clamp(min=0).mean())


def test_the_score_is_that_of_transformers_vectors(theirs, clip, images, archive, capsys):
    wanted = score(theirs, clip, images, PROMPTS)
    assert wanted > 0.5
    for batch in ("5", "64"):
        assert run("evaluate", archive, "--clip", clip, "--batch", batch, "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert found["clip"]["score"] == pytest.approx(wanted, abs=1e-3)
        assert (found["source"], found["clip"]["images"], found["clip"]["scale"]) == (str(archive), 12, 100)
    assert run("evaluate", archive, "--clip", clip) == 0
    text = capsys.readouterr().out
    assert f"CLIP score {wanted:.3f} (mean of 100·max(cos, 0); with 2.5 {wanted / 40:.4f})" in text
    assert "12 images with prompts, CLIP model of sha256 " in text


def test_images_that_show_other_prompts_score_otherwise(theirs, clip, images, tmp_path, capsys):
    np.savez(tmp_path / "turned.npz", arr_0=images, prompts=PROMPTS[::-1])
    assert run("evaluate", tmp_path / "turned.npz", "--clip", clip, "--json") == 0
    found = json.loads(capsys.readouterr().out)["clip"]["score"]
    assert found == pytest.approx(score(theirs, clip, images, PROMPTS[::-1]), abs=1e-3)
    assert abs(found - score(theirs, clip, images, PROMPTS)) > 0.01


def test_prompts_that_are_cut_are_told(clip, images, tmp_path, capsys):
    np.savez(tmp_path / "long.npz", arr_0=images, prompts=[*PROMPTS[1:], "long " * 40])
    assert run("evaluate", tmp_path / "long.npz", "--clip", clip) == 0
    assert (
        "note: longer than this CLIP model takes, so that their ends are cut: 1 of 12 prompts"
        in capsys.readouterr().err
    )


def test_captions_are_sampled_measured_and_scored_in_one_command(theirs, clip, tmp_path, capsys):
    save_checkpoint(randomise(build(), 0), tmp_path / "model.safetensors")
    listed = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(12)],
        "annotations": [{"image_id": number, "caption": prompt} for number, prompt in enumerate(PROMPTS)],
    }
    captions = write_captions(tmp_path / "captions.json", **listed)
    options = ("--vae", VAE, "--captions", captions, "--text", write_text_folder(tmp_path / "text"), "--images", "10")
    out = tmp_path / "c.npz"
    assert run("evaluate", tmp_path / "model.safetensors", *options, "--out", out, "--clip", clip, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    with np.load(out) as file:
        wanted = score(theirs, clip, file["arr_0"], file["prompts"].tolist())
    assert found["clip"]["score"] == pytest.approx(wanted, abs=1e-3)


def test_features_and_the_score_stand_in_one_report(clip, digits, tmp_path, capsys):
    with np.load(digits[1]) as file:
        images = file["arr_0"][:12]
    np.savez(tmp_path / "digits.npz", arr_0=images, prompts=PROMPTS)
    command = ("evaluate", tmp_path / "digits.npz", "--clip", clip, "--extractor", "digits")
    assert run(*command, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["inception_score"] > 1 and report["clip"]["images"] == 12
    assert run(*command) == 0
    text = capsys.readouterr().out
    assert "inception score" in text and "CLIP score" in text


def test_images_without_their_prompts_are_refused(clip, images, tmp_path, capsys):
    save = tmp_path / "a.npz"
    for arrays, said in (
        ({}, "has no prompts beside its images, only arr_0; himar evaluate --captions writes them"),
        ({"prompts": np.arange(12)}, "are int64 (12,), not a text per image"),
        ({"prompts": np.array([PROMPTS])}, "(1, 12), not a text per image"),
        ({"prompts": np.array(PROMPTS, dtype=object)}, "are not texts (Object arrays cannot be loaded"),
        ({"prompts": PROMPTS[1:]}, "has 12 images and 11 prompts; give one each"),
        ({"prompts": [*PROMPTS[1:], "<|endoftext|>"]}, "prompt 11 holds <|endoftext|>"),
    ):
        np.savez(save, arr_0=images, **arrays)
        assert run("evaluate", save, "--clip", clip) == 1
        assert said in one_error(capsys)


def test_a_folder_of_images_has_no_prompts(clip, images, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.fromarray(images[0]).save(tmp_path / "images" / "0.png")
    assert run("evaluate", tmp_path / "images", "--clip", clip) == 1
    assert "is a folder, whose images have no prompts; give an .npz with both" in one_error(capsys)


def test_clip_folders_that_do_not_fit_are_refused(clip, archive, tmp_path, capsys):
    tower = write_text_folder(tmp_path / "tower")
    assert run("evaluate", archive, "--clip", tower) == 1
    assert "holds no vision tower with its projection" in one_error(capsys)
    assert run("evaluate", archive, "--clip", tmp_path / "absent") == 1
    assert "is not a folder; give the one with a CLIP model's" in one_error(capsys)
    other = write_text_folder(tmp_path / "other", length=77, merges=3)
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((clip / name).read_bytes())
    assert run("evaluate", archive, "--clip", other) == 1
    assert "has 517 tokens and its text tower 514; take both from one model" in one_error(capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.pth", "--images", "8", "--out", "c.npz", "--clip", "c"], "make them with --captions"),
        (["model.pth", "--compbench", "p", "--text", "t", "--out", "c", "--clip", "c"], "only writes images"),
        (["model.pth", "--captions", "j", "--text", "t", "--out", "c.npz", "--clip", "c", "--shard", "1/2"],
         "--shard only makes images"),
        (["a.npz", "--clip", "c", "-k", "5"], "--neighbours is for measuring"),
        (["a.npz", "--clip", ""], "the path is empty"),
    ],
)  # fmt: skip
def test_options_that_contradict_a_score_are_wrong_usage(arguments, said, capsys):
    assert run("evaluate", *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())
