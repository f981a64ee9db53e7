"""Edits of Hi-MAR through the engines: eager's tokens in every variant, the command, recipes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from himar import load_checkpoint, load_vae, save_checkpoint
from himar.families.hi_mar.editing import edit, edit_tokens
from himar.families.hi_mar.presets import VARIANTS
from himar.text import encode, load_text_tower
from himar_export.cli import main
from himar_kernels import InputError, PhiloxDraws
from himar_kernels.arithmetic.editing import Edit, check_edit
from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.text import Tokenizer
from himar_runtime import Bundle, Device, Pipeline, load_networks, read_recipes
from himar_runtime.edit_files import read_image
from himar_runtime.engines.deferred import DeferredEngine
from himar_runtime.families.hi_mar.resident.runner import ResidentRunner
from himar_runtime.request import Request
from tests.closeness import RUN, SAME_ENGINES, assert_near, assert_same_pixels, distance
from tests.export import graph_engines
from tests.export.test_variant_loops import OTHERS, grid
from tests.himar.small_edits import IMAGES, SIDE, holes, small_vae
from tests.runtime.host_lane import HostLane, on_host_lane

pytestmark = pytest.mark.slow

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
EVERY = [*VARIANTS, *OTHERS, "learned"]
LABELS = [0, 2, 1, 2]
GUIDED = SamplingConfig(2, 3, low_guidance=2.0, high_guidance=1.5, low_diffusion_steps=4, high_diffusion_steps=3)
SEED = 2**40 + 7


@pytest.fixture(scope="module")
def vae():
    return small_vae()


@pytest.fixture(scope="module")
def variant(small_variant, vae):
    """The model of a variant with its pipeline over graphs, by name; up to three images in a run."""
    made: dict[str, Any] = {}

    def get(name: str) -> tuple[Any, Pipeline]:
        if name not in made:
            model = small_variant({} if name == "learned" else OTHERS.get(name, name))
            networks = graph_engines.graph_networks(model, vae=vae)
            made[name] = model, Pipeline(graph_engines.bundle_of(model, networks), networks)
        return made[name]

    return get


def require_eager(model, vae, result, labels, sampling, *, first: int = 0, dilation: int = 0) -> None:
    checked = check_edit(IMAGES, holes(), SIDE, labels, dilation=dilation)
    options = {"draws": PhiloxDraws(SEED), "sampling": sampling, "first_index": first}
    eager, scale = edit_tokens(model, vae, checked, labels, **options), np.float32(model.config.vae_scale)
    for image in range(4):
        assert_near(result.latents[image] * scale, grid(eager.tokens)[image], RUN)
        if not model.config.single_scale:
            assert_near(result.low_latents[image] * scale, grid(eager.low_tokens)[image], RUN)
    assert np.array_equal(result.images[~holes()], IMAGES[~holes()])


@pytest.mark.parametrize("labels", [LABELS, None])
@pytest.mark.parametrize("name", EVERY)
def test_an_edit_has_the_tokens_of_the_eager_editor(variant, vae, name, labels):
    model, pipeline = variant(name)
    result = pipeline.edit(IMAGES, list(holes()), labels, seed=SEED, sampling=GUIDED, first_index=9)
    require_eager(model, vae, result, labels, GUIDED, first=9)
    assert not np.array_equal(result.images[holes()], IMAGES[holes()])
    assert result.labels.tolist() == (labels or [-1] * 4)
    other = pipeline.edit(IMAGES, list(holes()), [1, 1, 0, 1], seed=SEED, sampling=GUIDED, first_index=9)
    assert all(distance(*pair) > 20 * RUN for pair in zip(other.latents, result.latents, strict=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"low_guidance": 1.0, "high_guidance": 1.0},
        {"low_guidances": [3.0, 1.0], "high_diffusion_counts": [5, 4, 3]},
        {"low_solver": "dpm++", "high_solver": "ddim"},
        {"high_forecast": 2, "low_diffusion_steps": 20, "high_diffusion_steps": 20, "guidance_interval": 2},
    ],
)
def test_settings_reach_an_edit_as_a_whole_image(variant, vae, changes):
    model, pipeline = variant("dit-high")
    sampling = GUIDED.with_changes(**changes)
    result = pipeline.edit(IMAGES, list(holes()), LABELS, seed=SEED, sampling=sampling, dilation=1)
    require_eager(model, vae, result, LABELS, sampling, dilation=1)


@pytest.mark.parametrize("name", EVERY)
def test_where_all_is_drawn_an_edit_is_the_image_of_its_seed_bit_for_bit(variant, name):
    """Also with a mask that covers all, which users are refused: the loop knows nothing of the image then."""
    _, pipeline = variant(name)
    plain = pipeline.generate([2, 1], seed=5, sampling=GUIDED, first_index=2)
    edited = pipeline.edit(IMAGES[2:], np.stack([holes()[3]] * 2), [2, 1], seed=5, sampling=GUIDED, first_index=2)
    every = Edit(IMAGES[2:], np.ones((2, SIDE, SIDE), np.bool_))
    covered = pipeline._run(Request(plain.labels, np.arange(2, 4), GUIDED, PhiloxDraws(5), every), None)
    for found in (edited, covered):
        assert np.array_equal(found.latents, plain.latents) and np.array_equal(found.low_latents, plain.low_latents)
    assert np.array_equal(covered.images, plain.images)


@pytest.mark.parametrize("name", ["single-scale", "visual", "dit-high", "dit-both"])
def test_images_with_other_masks_run_apart_and_come_in_order(variant, name):
    _, pipeline = variant(name)
    order = [1, 0, 3, 1, 2, 0, 1, 1]
    images, masks = IMAGES[order], list(holes()[order])
    labels = [LABELS[each] for each in order]
    seen = []

    def on_step(step):
        seen.append((step.done, step.total, step.images))

    together = pipeline.edit(images, masks, labels, seed=3, sampling=GUIDED, on_step=on_step)
    assert together.labels.tolist() == labels and [each.index for each in together.recipes] == list(range(8))
    assert [done for done, _, _ in seen] == list(range(1, seen[-1][1] + 1)) and len({each[1] for each in seen}) == 1
    assert {images for _, _, images in seen} == {1, 2}  # at most three of each mask fit a run: four are two and two
    for place, image in enumerate(order):
        one = slice(place, place + 1)
        alone = pipeline.edit(images[one], masks[one], labels[one], seed=3, sampling=GUIDED, first_index=place)
        assert_near(alone.latents[0], together.latents[place], SAME_ENGINES)
        assert alone.recipes[0] == together.recipes[place]
        assert np.array_equal(together.images[place][~holes()[image]], IMAGES[image][~holes()[image]])


def test_what_was_finished_when_an_edit_was_cancelled_keeps_its_place(variant):
    _, pipeline = variant("dit-high")
    order = [1, 0, 1, 0]
    whole = pipeline.edit(IMAGES[order], list(holes()[order]), LABELS, seed=3, sampling=GUIDED)
    first = 2 + 3  # steps of the first run, of images 0 and 2, which have one mask

    stopped = pipeline.edit(
        IMAGES[order], list(holes()[order]), LABELS, seed=3, sampling=GUIDED, on_step=lambda step: step.done <= first
    )
    assert stopped.status == "cancelled" and [each.index for each in stopped.recipes] == [0, 2]
    assert stopped.labels.tolist() == [0, 1]
    assert_near(stopped.latents, whole.latents[[0, 2]], SAME_ENGINES)


def test_previews_in_full_size_show_the_rest_as_it_is(variant):
    _, pipeline = variant("dit-high")
    seen = []
    pipeline.clone().edit(
        [IMAGES[1]],
        [holes()[1]],
        [1],
        sampling=GUIDED,
        on_step=lambda s: seen.append((s.phase, s.so_far(), s.preview())) or True,
    )
    rest = IMAGES[1][~holes()[1]]
    assert [(phase, so_far.shape[1]) for phase, so_far, _ in seen] == [("low", 8)] * 2 + [("high", 16)] * 3
    assert all(np.array_equal(so_far[0][~holes()[1]], rest) for phase, so_far, _ in seen if phase == "high")
    assert all(preview.shape == (1, 8, 8, 3) for *_, preview in seen)


def test_the_resident_loop_edits_on_the_host_over_engines_of_its_own(variant, vae, host_kernels):
    model, pipeline = variant("dit-high")
    networks = graph_engines.graph_networks(model, vae=vae)
    resident = Pipeline(pipeline.bundle, on_host_lane(networks, HostLane(host_kernels)))
    assert isinstance(resident._runner, ResidentRunner)
    before = resident.generate(LABELS[:3], seed=1, sampling=GUIDED).latents
    result = resident.edit(IMAGES, list(holes()), LABELS, seed=SEED, sampling=GUIDED)
    require_eager(model, vae, result, LABELS, GUIDED)
    assert np.array_equal(resident.generate(LABELS[:3], seed=1, sampling=GUIDED).latents, before)
    assert resident.clone().edit(IMAGES[:1], holes()[:1], [0], sampling=GUIDED).status == "complete"


# The command, on bundles that it builds.


@pytest.fixture(scope="module")
def bundle(bundles, small_variant) -> Path:
    """Of a released layout's small model with the digits' VAE, built once for all workers; its checkpoint beside it."""
    out = bundles / "small-editing"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            save_checkpoint(small_variant({}), checkpoint := out.with_suffix(".safetensors"))
            vae = WEIGHTS / "digits-vae.safetensors"
            command = ["build", checkpoint, "--vae", vae, "--editing", "--max-batch", 3, "--out", out, "--json"]
            assert main([str(each) for each in command]) == 0
    return out


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """An image and its mask as a user has them, and what does not fit."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(IMAGES[1]).save(folder / "image.png")
    Image.fromarray(255 * holes()[1].astype(np.uint8)).save(folder / "mask.png")
    Image.fromarray(IMAGES[1][:8, :10]).save(folder / "small.png")
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(folder / "empty.png")
    Image.fromarray(IMAGES[1][..., 0].astype(np.uint16) * 256).save(folder / "deep.png")
    return folder


def command(bundle: Path, files: Path, out: Path, *options: object, image="image.png", mask="mask.png") -> list[str]:
    masked = [] if mask is None else ["--mask", str(files / mask)]
    return ["edit", str(bundle), "--image", str(files / image), *masked, "--out", str(out), *map(str, options)]


def test_the_bundle_edits_as_eager_and_loads_what_edits_need_when_they_come(bundle):
    opened = Bundle.open(bundle)
    networks = load_networks(opened, Device("cpu"), 1)
    late = {name: engine for name, engine in networks.engines.items() if isinstance(engine, DeferredEngine)}
    assert set(late) == {"vae_encoder", "transformer_high_edit"}
    pipeline = Pipeline(opened, networks)
    plain = pipeline.generate([1], sampling=GUIDED)
    assert all(engine._engine is None for engine in late.values())
    model, vae = load_checkpoint(bundle.with_suffix(".safetensors")), load_vae(WEIGHTS / "digits-vae.safetensors")
    require_eager(model, vae, pipeline.edit(IMAGES, list(holes()), LABELS, seed=SEED, sampling=GUIDED), LABELS, GUIDED)
    found = pipeline.edit(IMAGES, list(holes()), LABELS, seed=3, sampling=GUIDED, feather=2, dilation=1).images
    options = {"draws": PhiloxDraws(3), "sampling": GUIDED, "feather": 2, "dilation": 1}
    assert_same_pixels(found, edit(model, vae, IMAGES, list(holes()), LABELS, **options))
    assert np.array_equal(pipeline.generate([1], sampling=GUIDED).latents, plain.latents)
    everything = pipeline.edit(IMAGES[3:], holes()[3:], [1], sampling=GUIDED)
    assert np.array_equal(everything.latents, plain.latents)


@pytest.mark.gpu
def test_edits_on_a_gpu_are_the_cpus(bundle):
    on_gpu, on_cpu = (Pipeline.load(bundle, device=device) for device in ("cuda", "cpu"))
    plain = on_gpu.generate([1, 2], seed=1, sampling=GUIDED).latents
    found, expected = (
        each.edit(IMAGES, list(holes()), LABELS, seed=SEED, sampling=GUIDED) for each in (on_gpu, on_cpu)
    )
    assert_near(found.latents, expected.latents, RUN)
    assert np.array_equal(found.images[~holes()], IMAGES[~holes()])
    assert np.array_equal(on_gpu.generate([1, 2], seed=1, sampling=GUIDED).latents, plain)


def test_verify_covers_what_edits_run(bundle, capsys):
    capsys.readouterr()
    assert main(["verify", str(bundle), "--json"]) == 0
    found = {each["name"]: each["relative_l2"] for each in json.loads(capsys.readouterr().out)["comparisons"]}
    for name in ("vae_encoder: latent", "vae_encoder: low latent", "transformer_high_edit: condition"):
        assert found[name] < 1e-5


def test_a_refitted_bundle_edits(bundle, tmp_path):
    refit = ["refit", bundle, bundle.with_suffix(".safetensors"), "--vae", WEIGHTS / "digits-vae.safetensors"]
    assert main([*map(str, refit), "--out", str(tmp_path / "new"), "--json"]) == 0
    old, new = (
        Pipeline.load(each).edit(IMAGES, list(holes()), LABELS, sampling=GUIDED) for each in (bundle, tmp_path / "new")
    )
    assert np.array_equal(old.images, new.images)


def test_the_command_writes_variants_whose_recipes_make_them_again(bundle, files, tmp_path, capsys):
    out, pipeline = tmp_path / "edit.png", Pipeline.load(bundle)
    options = ["--class", 2, "--count", 2, "--seed", 9, "--dilation", 1, "--feather", 2, "--low-steps", 1, "--json"]
    assert main(command(bundle, files, out, *options)) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 2
    recipes, sheet = read_recipes(out), read_image(out)
    assert (recipes[1].edit.dilation, recipes[1].edit.feather, recipes[1].label) == (1, 2, 2)
    again = pipeline.edit(**recipes[1].edit_request(IMAGES[1], holes()[1]))
    assert_same_pixels(again.images[0], sheet[:, SIDE + 2 :])
    assert np.array_equal(again.images[0][~holes()[1]], IMAGES[1][~holes()[1]]) and again.recipes == recipes[1:]
    other = pipeline.edit(**{**recipes[1].edit_request(IMAGES[1], holes()[1]), "dilation": 0})
    assert not np.array_equal(other.images, again.images)
    assert main(["inspect", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"edited mask    sha256 {recipes[1].edit.mask[:16]}…" in said
    assert "edited dilation 1" in said and "edited feather 2" in said
    plain = tmp_path / "plain.png"
    assert main(command(bundle, files, plain, "--seed", 9)) == 0
    assert read_recipes(plain)[0].to_dict()["edit"].keys() == {"image", "mask"}
    assert read_recipes(plain)[0].sampling.low_guidance == 1 and read_recipes(plain)[0].label is None


def test_the_command_draws_around_a_smaller_image(bundle, files, tmp_path):
    out = tmp_path / "folder"
    assert main(command(bundle, files, out, "--place", "6,2", "--seed", 2, image="small.png", mask=None)) == 0
    made = read_image(out / "2-00000-edit.png")
    assert np.array_equal(made[2:10, 6:16], IMAGES[1][:8, :10])


@pytest.mark.parametrize(
    ("options", "names", "code", "sentence"),
    [
        ([], {"image": "small.png"}, 1, "image 0 has 10 × 8 pixels, but the model's images have 16 × 16"),
        ([], {"mask": "empty.png"}, 1, "mask 0 is empty, so there is nothing to draw; mark the pixels to change."),
        ([], {"image": "deep.png"}, 1, "has pixels of type I;16; save it with 8 bits a channel first."),
        (["--class", "3"], {}, 1, "label 3 (number 0 of the list) is not a class of this model"),
        (["--class", "1", "--prompt", "a"], {}, 2, "--class and --prompt are both given; give the one that the model"),
        (["--prompt", "a cat"], {}, 1, "prompts are given, but this bundle's model makes images of classes; give"),
        (["--guidance", "2"], {}, 1, "guidance is 2.0, but neither class nor prompt is given"),
        (["--low-guidances", "1,2"], {}, 1, "low_guidances is [1.0, 2.0], but neither class nor prompt is given"),
        (["--dilation", "17"], {}, 1, "dilation is 17; it must be a whole number from 0 to 16, the side of the"),
        (["--feather", "17"], {}, 1, "feather is 17; it must be a whole number from 0 to 16, the side of the"),
        (["--dilation", "-1"], {}, 2, "Invalid value for '--dilation': -1 is not in the range x>=0."),
        (["--feather", "x"], {}, 2, "Invalid value for '--feather': 'x' is not a valid integer range."),
        (["--top-k", "3"], {}, 1, "top_k is given"),
        (["--high-steps", "17"], {}, 1, "high_steps is 17, but phase high has only 16 positions"),
    ],
)  # fmt: skip
def test_what_the_command_refuses_leaves_nothing(bundle, files, tmp_path, capsys, options, names, code, sentence):
    assert main(command(bundle, files, tmp_path / "out.png", *options, **names)) == code
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "--editing is given, but no VAE, which encodes the images to be edited; give it with --vae."),
        (
            ("--vae", WEIGHTS / "digits-vae.safetensors", "--precision", "vae_encoder=fp16"),
            "rounding would change what",
        ),
    ],
)
def test_builds_that_could_not_edit_are_refused(bundle, tmp_path, capsys, options, sentence):
    checkpoint, out = bundle.with_suffix(".safetensors"), tmp_path / "b"
    assert main([str(each) for each in ("build", checkpoint, "--editing", *options, "--out", out)]) in (1, 2)
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_every_bundle_of_hmar_edits_and_draws_its_own_ring(build_hmar, hmar_bundle, tmp_path, files, capsys):
    with pytest.raises(AssertionError):
        build_hmar(tmp_path / "b", "--editing")
    said = " ".join(capsys.readouterr().err.split())
    assert "--editing is given, but every bundle of the family 'hmar' can edit; leave it out." in said
    assert main(command(hmar_bundle, files, tmp_path / "out.png", "--dilation", 1)) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "dilation is 1, but an HMAR model draws a ring around the mask at its fine scales by itself" in said


def test_a_feather_blends_an_edit_of_hmar(hmar_bundle):
    pipeline, quick = Pipeline.load(hmar_bundle), {"schedule": []}
    image, mask = np.full((1, 144, 144, 3), 40, np.uint8), np.zeros((144, 144), np.bool_)
    mask[:, 60:] = True
    plain, blended = (pipeline.edit(image, mask, [1], feather=feather, **quick).images for feather in (0, 3))
    assert np.array_equal(blended, Edit(image, mask[None], feather=3).paste(plain))
    assert not np.array_equal(blended, plain)


@pytest.fixture(scope="module")
def text_editing_bundle(bundles, text_checkpoint) -> Path:
    """As `text_bundle`, but it can edit."""
    out, vae, folder = bundles / "text-editing", WEIGHTS / "digits-vae.safetensors", text_checkpoint.with_name("clip")
    with FileLock(f"{out}.lock"):
        if not out.exists():
            build = ["build", text_checkpoint, "--vae", vae, "--text", folder, "--editing", "--max-batch", 3]
            assert main([str(each) for each in (*build, "--out", out, "--json")]) == 0
    return out


def test_plain_graphs_are_those_of_a_bundle_that_cannot_edit(text_editing_bundle, text_bundle, files, tmp_path, capsys):
    both = text_editing_bundle, text_bundle
    able, plain = (json.loads((each / "manifest.json").read_text()) for each in both)
    assert able["schema_version"] == plain["schema_version"] == "4.0"
    assert set(able["components"]) - set(plain["components"]) == {"vae_encoder", "transformer_high_edit"}
    for name in plain["components"]:
        one, other = ((each / f"{name}.onnx").read_bytes() for each in both)
        assert one == other, name
    sizes = [each["files"]["weights.bin"]["bytes"] for each in (able, plain)]
    encoder = sum(part["bytes"] for part in able["components"]["vae_encoder"]["parts"])
    assert sizes[0] - sizes[1] < encoder + 4096  # the edits' transformer shares the other's weights
    capsys.readouterr()
    assert main(command(text_bundle, files, tmp_path / "out.png")) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "text has no vae_encoder, which reads the images to be edited; build it again with --editing." in said
    assert not (tmp_path / "out.png").exists()


def test_a_model_from_text_edits_with_prompts(text_editing_bundle, text_checkpoint, files, tmp_path, capsys):
    out, folder = text_editing_bundle, text_checkpoint.with_name("clip")
    vae = WEIGHTS / "digits-vae.safetensors"
    prompts = ["two red", "red", "two", "red"]
    pipeline = Pipeline.load(out)
    result = pipeline.edit(IMAGES, list(holes()), prompts=prompts, seed=4)
    tokens, _ = Tokenizer.open(folder).ids(prompts)
    contexts = encode(load_text_tower(folder), tokens)
    model, checked = load_checkpoint(text_checkpoint), check_edit(IMAGES, holes(), SIDE)
    for given, found in ((contexts, result), (None, pipeline.edit(IMAGES, list(holes()), seed=4))):
        eager = edit_tokens(model, load_vae(vae), checked, contexts=given, draws=PhiloxDraws(4))
        assert_near(found.latents * np.float32(model.config.vae_scale), grid(eager.tokens), RUN)
    assert [each.prompt for each in result.recipes] == prompts
    again = pipeline.edit(**result.recipes[1].edit_request(IMAGES[1], holes()[1]))
    assert_same_pixels(again.images[0], result.images[1])
    capsys.readouterr()
    assert main(command(out, files, tmp_path / "a.png", "--prompt", "a much longer text")) == 0
    assert "warning: longer than the 5 tokens that the model takes" in " ".join(capsys.readouterr().err.split())
    assert read_recipes(tmp_path / "a.png")[0].prompt == "a much longer text"
    with pytest.raises(InputError, match="labels are given, but this bundle's model makes images from text; give pro"):
        pipeline.edit(IMAGES[:1], holes()[:1], [0])
    with pytest.raises(InputError, match="4 images and 2 prompts are given; give one prompt per image"):
        pipeline.edit(IMAGES, list(holes()), prompts=prompts[:2])
    with pytest.raises(InputError, match="labels and prompts are given to say what to generate; give prompts, as"):
        pipeline.edit(IMAGES[:1], holes()[:1], [0], prompts=["red"])
