"""himar evaluate on models from text: captions of MS-COCO and prompts of T2I-CompBench become images, and refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from himar.data.captions import read_texts
from himar.data.crop import read_square
from himar.evaluation.caption_draws import draw_prompts
from himar.evaluation.image_sets import open_images
from himar.families.hi_mar.checkpoints import load_checkpoint, save_checkpoint
from himar.families.hi_mar.model import randomise
from himar.images import sample_images
from himar.text.encoder import TextEncoder
from himar.vae.layouts import load_vae
from himar_kernels import InputError, PhiloxDraws
from tests.closeness import assert_same_pixels
from tests.himar.small_captions import ANNOTATIONS, write_captions
from tests.himar.small_evaluation import VAE, one_error, run
from tests.himar.tiny_text import build, write_text_folder

MANY = {
    "images": [{"id": number, "file_name": f"{number}.jpg"} for number in range(40)],
    "annotations": [
        {"image_id": number, "caption": f"{word} {number}"} for number in range(40) for word in ("a", "the", "red")
    ],
}


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A folder with a tiny model from text, its tower, and captions of 40 images."""
    folder = tmp_path_factory.mktemp("text")
    save_checkpoint(randomise(build(), 0), folder / "model.safetensors")
    write_text_folder(folder / "text")
    write_captions(folder / "captions.json", **MANY)
    return folder


def make(room: Path, out: Path, *more: str | Path, captions: Path | None = None) -> int:
    """Make images of captions, eight where `more` does not say; return the exit code."""
    images = () if "--images" in more else ("--images", "8")
    options = ("--vae", VAE, "--captions", captions or room / "captions.json", "--text", room / "text")
    return run("evaluate", room / "model.safetensors", *options, "--chunk", "3", "--out", out, *images, *more)


@pytest.fixture(scope="module")
def whole(room, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "c.npz"
    assert make(room, out, "--seed", "5") == 0
    return out


def test_each_image_is_that_of_its_prompt_seed_and_index(room, whole):
    with np.load(whole) as file:
        assert sorted(file.files) == ["arr_0", "prompts"]
        images, prompts = file["arr_0"], file["prompts"].tolist()
    listed = read_texts(room / "captions.json").captions
    assert tuple(prompts) == draw_prompts(listed, 8, 5, "")
    contexts, _ = TextEncoder.open(room / "text").encode(prompts)
    model = load_checkpoint(room / "model.safetensors")
    wanted = sample_images(model, load_vae(VAE), None, PhiloxDraws(5), contexts=contexts)
    assert_same_pixels(images, wanted)
    assert list(whole.parent.iterdir()) == [whole]


def test_shards_in_any_order_and_a_stopped_run_give_the_same_file(room, whole, tmp_path, capsys):
    out = tmp_path / "c.npz"
    assert make(room, out, "--seed", "5", "--shard", "2/2") == 0
    assert make(room, out, "--seed", "5", "--merge") == 1
    assert "2 of 3 parts are missing" in one_error(capsys)
    assert make(room, out, "--seed", "6") == 1
    assert "parts of a run with another seed" in one_error(capsys)
    other = write_captions(tmp_path / "other.json", **{**MANY, "annotations": MANY["annotations"][::-1]})
    assert make(room, out, "--seed", "5", captions=other) == 1
    assert "parts of a run with another prompts_sha256" in one_error(capsys)
    assert make(room, out, "--seed", "5", "--shard", "1/2", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 5
    assert make(room, out, "--seed", "5", "--merge") == 0
    assert out.read_bytes() == whole.read_bytes()


def test_captions_are_drawn_by_the_seed_of_different_images():
    captions = [tuple(f"{image} {number}" for number in range(1 + image % 5)) for image in range(2000)]
    drawn = draw_prompts(captions, 2000, 3, "")
    assert sorted(int(prompt.split()[0]) for prompt in drawn) == list(range(2000))
    assert draw_prompts(captions, 50, 3, "") == drawn[:50]
    assert draw_prompts(captions, 50, 4, "") != drawn[:50]
    fives = np.bincount([int(prompt.split()[1]) for prompt in drawn if int(prompt.split()[0]) % 5 == 4])
    assert len(fives) == 5 and fives.min() > 50 and fives.max() < 110  # 400 over five captions
    with pytest.raises(
        InputError, match=r"2001 images were asked for, but f.json has captions of 2000; ask for at most"
    ):
        draw_prompts(captions, 2001, 3, "f.json")


def test_prompts_that_are_cut_are_counted(room, tmp_path, capsys):
    long = [{**entry, "caption": "one two three four five six"} for entry in ANNOTATIONS["annotations"][:3]]
    captions = write_captions(tmp_path / "long.json", annotations=long)
    assert make(room, tmp_path / "c.npz", "--images", "3", captions=captions) == 0
    assert (
        "note: longer than the text tower's 5 tokens, so that their ends are cut: 1 of 1 prompts"
        in capsys.readouterr().err
    )


def test_a_tower_that_the_model_was_not_trained_with_is_told(room, tmp_path, capsys):
    one = write_captions(tmp_path / "one.json")
    assert make(room, tmp_path / "c.npz", "--images", "2", captions=one) == 0
    assert "away from the model's own; the model was trained with another tower" in capsys.readouterr().err
    model = load_checkpoint(room / "model.safetensors")
    model.empty_context.data.copy_(TextEncoder.open(room / "text").encode([""])[0])
    save_checkpoint(model, tmp_path / "own.safetensors")
    options = ("--vae", VAE, "--captions", one, "--text", room / "text", "--images", "2")
    assert run("evaluate", tmp_path / "own.safetensors", *options, "--out", tmp_path / "own.npz") == 0
    assert "warning" not in capsys.readouterr().err


def test_what_does_not_fit_is_one_sentence_and_leaves_nothing(room, model, tmp_path, capsys):
    out = tmp_path / "out" / "c.npz"
    out.parent.mkdir()
    (tmp_path / "list.json").write_text('["a", "b"]')
    assert make(room, out, captions=tmp_path / "list.json") == 1
    assert 'is no captions file: it has no list "images"; give one as MS-COCO' in one_error(capsys)
    assert make(room, out, "--images", "41") == 1
    assert "41 images were asked for, but" in (said := one_error(capsys)) and "has captions of 40" in said
    options = ("--vae", VAE, "--out", out, "--captions", room / "captions.json", "--text", room / "text")
    assert run("evaluate", room / "model.safetensors", *options) == 1
    assert "30000 images were asked for" in one_error(capsys)
    assert run("evaluate", model, *options, "--images", "8") == 1
    assert "makes images of classes; leave prompts and --text out" in one_error(capsys)
    assert run("evaluate", room / "model.safetensors", *options[:4], "--images", "8") == 1
    assert "makes images from text; give --captions or --compbench, and --text" in one_error(capsys)
    wide = write_text_folder(tmp_path / "wide", width=16)
    assert run("evaluate", room / "model.safetensors", *options[:6], "--text", wide, "--images", "8") == 1
    assert "gives 5 rows of 16, but this model takes 5 of 12" in one_error(capsys)
    captions = write_captions(
        tmp_path / "token.json",
        annotations=[{**entry, "caption": "a <|endoftext|>"} for entry in MANY["annotations"]],
        images=MANY["images"],
    )
    assert make(room, out, captions=captions) == 1
    assert "holds <|endoftext|>" in one_error(capsys)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--captions", "c.json", "--out", "c.npz"], "--captions needs --text"),
        (["--compbench", "p.txt", "--out", "c"], "--compbench needs --text"),
        (["--captions", "c.json", "--compbench", "p.txt", "--text", "t", "--out", "c"], "exclude each other"),
        (["--text", "t", "--images", "8", "--out", "c.npz"], "give them with --captions or --compbench"),
        (
            ["--captions", "c.json", "--text", "t", "--per-class", "--out", "c.npz"],
            "--per-class is for models of classes",
        ),
        (["--captions", "c.json", "--text", "t", "--random-classes", "--out", "c.npz"], "--random-classes is for"),
        (["--captions", "c.json", "--text", "t"], "needs --images (how many to make) and --out"),
        (["--captions", "c.json", "--text", "t", "--out", "c"], "does not end in .npz"),
        (
            ["--captions", "c.json", "--text", "t", "--out", "c.npz", "--images-per-prompt", "2"],
            "belongs to --compbench",
        ),
        (["--compbench", "p.txt", "--text", "t", "--out", "c", "--images", "8"], "use --images-per-prompt"),
        (["--compbench", "p.txt", "--text", "t"], "--compbench needs --out"),
        (["--compbench", "p.txt", "--text", "t", "--out", "c.npz"], "give a folder for the .png files"),
        (["--compbench", "p.txt", "--text", "t", "--out", "c", "--extractor", "digits"], "only writes images"),
        (["--images", "8", "--out", "c.npz", "--crop", "16"], "--crop is for folders of images"),
    ],
)
def test_options_that_contradict_each_other_are_wrong_usage(arguments, said, capsys):
    assert run("evaluate", "model.pth", *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def compbench(room: Path, prompts: Path, out: Path, *more: str) -> int:
    options = ("--vae", VAE, "--compbench", prompts, "--text", room / "text", "--chunk", "4", "--out", out)
    return run("evaluate", room / "model.safetensors", *options, *more)


def test_compbench_s_scripts_find_every_prompt_s_images(room, tmp_path):
    prompts, out = tmp_path / "color_val.txt", tmp_path / "samples"
    prompts.write_text("a red three\n\na blue seven on the left.\t\n", encoding="utf-8")
    for shard in ("2/2", "1/2"):
        assert compbench(room, prompts, out, "--images-per-prompt", "3", "--shard", shard) == 0
        assert not out.exists()
    assert compbench(room, prompts, out, "--images-per-prompt", "3", "--merge") == 0
    # How its scripts sort the files and read their prompts.
    files = sorted(out.iterdir(), key=lambda path: int(path.name.split("_")[-1].split(".")[0]))
    found = [path.name.split("_")[0] for path in files]
    assert found == ["a red three"] * 3 + ["a blue seven on the left."] * 3
    assert files[4].name == "a blue seven on the left._000004.png"
    contexts, _ = TextEncoder.open(room / "text").encode(found)
    wanted = sample_images(
        load_checkpoint(room / "model.safetensors"), load_vae(VAE), None, PhiloxDraws(0), contexts=contexts
    )
    assert_same_pixels(np.stack([np.asarray(Image.open(path)) for path in files]), wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["color_val.txt", "samples"]


def test_compbench_makes_ten_images_of_a_prompt(room, tmp_path, capsys):
    prompts, out = tmp_path / "p.txt", tmp_path / "samples"
    prompts.write_text("a red three\n")
    assert compbench(room, prompts, out) == 0
    assert len(list(out.iterdir())) == 10
    assert compbench(room, prompts, out) == 1
    assert "exists; remove it, or choose another --out" in one_error(capsys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no prompt; write one a line"),
        (b"\xff\xfea", "is not UTF-8 text (byte 0)"),
        (b"a red three\na cat and/or a dog", "prompt 2 of "),
        (b"a cat and/or a dog", "holds '/', which no file's name can hold; write it without"),
        (b"snake_case", "holds '_', before which T2I-CompBench's scripts end the prompt; write it without"),
        (b"long " * 60, "makes a file name of 310 bytes, and 255 is the most; shorten it"),
    ],
)
def test_prompts_that_cannot_be_file_names_are_refused(room, content, said, tmp_path, capsys):
    (tmp_path / "p.txt").write_bytes(content)
    assert compbench(room, tmp_path / "p.txt", tmp_path / "samples") == 1
    assert said in one_error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


def write_photographs(folder: Path) -> Path:
    """Write images of several sizes."""
    folder.mkdir()
    for number in range(30):
        noise = np.random.default_rng(number).integers(0, 256, (40 + number, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"COCO_val2014_{7 * number:012d}.png")
    return folder


def test_photographs_of_any_size_are_cropped_to_squares(tmp_path, capsys):
    folder = write_photographs(tmp_path / "val2014")
    images = open_images(folder, crop=32)
    pixels = np.concatenate(list(images.batches(8)))
    assert images.size == (32, 32) and pixels.shape == (30, 32, 32, 3)
    assert np.array_equal(pixels[3], read_square(folder / "COCO_val2014_000000000021.png", 32).pixels)
    saved = tmp_path / "val.npz"
    digits = ("--extractor", "digits", "--json")
    assert run("evaluate", folder, "--crop", "32", "--save-statistics", saved, *digits) == 0
    np.savez(tmp_path / "same.npz", pixels)
    capsys.readouterr()
    for reference in ((folder, "--crop", "32"), (saved,)):
        assert run("evaluate", tmp_path / "same.npz", "--against", *reference, *digits) == 0
        assert abs(json.loads(capsys.readouterr().out)["fid"]) < 1e-3
    assert run("evaluate", tmp_path / "same.npz", "--against", saved, "--crop", "32", *digits) == 2
    assert run("evaluate", folder, *digits) == 1
    assert "pixels, but the images before it are" in one_error(capsys)


@pytest.mark.gpu
def test_captions_on_a_gpu_give_the_images_of_the_cpu(room, whole, tmp_path):
    assert torch.cuda.is_available()
    assert make(room, tmp_path / "gpu.npz", "--seed", "5", "--device", "cuda:0") == 0
    with np.load(tmp_path / "gpu.npz") as gpu, np.load(whole) as cpu:
        assert np.abs(gpu["arr_0"].astype(int) - cpu["arr_0"]).max() <= 2
