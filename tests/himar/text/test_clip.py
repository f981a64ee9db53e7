"""A whole CLIP model gives transformers' vectors of images and texts, and other folders are refused in a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil

from himar.text.clip import load_clip
from himar.text.pixels import PixelSettings
from himar.text.vision import VisionConfig
from himar_kernels import CheckpointError, ConfigError
from tests.closeness import COMPONENT, assert_near

from .clip_models import clip_model, saved, text_model, token_ids


def pictures(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("size", ["small", "wide"])
def test_vectors_are_those_of_transformers(size, activation, tmp_path):
    theirs = (
        clip_model(size, activation, image_size=48, patch_size=16) if size == "wide" else clip_model(size, activation)
    )
    clip = load_clip(saved(theirs, tmp_path))
    side = clip.vision.config.size
    pixels = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    ids = token_ids(size, 4)
    with torch.no_grad():
        wanted = theirs(input_ids=ids, pixel_values=pixels)
    images, texts = clip.image_features(pixels), clip.text_features(ids.numpy())
    assert_near(images, wanted.image_embeds, COMPONENT)
    assert_near(texts, wanted.text_embeds, COMPONENT)
    assert_near(images @ texts.T, wanted.logits_per_image / theirs.logit_scale.exp(), COMPONENT)
    assert not any(parameter.requires_grad for parameter in clip.parameters())


@pytest.mark.parametrize("layout", ["sharded", "half", "older"])
def test_folders_of_every_layout_hold_the_same_model(layout, tmp_path):
    theirs = clip_model()
    saved(theirs, tmp_path, **({"max_shard_size": "20KB"} if layout == "sharded" else {}))
    if layout == "sharded":
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    else:
        path = tmp_path / "model.safetensors"
        state = load_file(path)
        if layout == "half":
            state = {name: value.half() for name, value in state.items()}
        state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]  # which older versions wrote
        save_file(state, path)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    ids = token_ids("small", 2)
    with torch.no_grad():
        wanted = theirs(input_ids=ids, pixel_values=pixels)
    clip = load_clip(tmp_path)
    near = 3e-3 if layout == "half" else COMPONENT
    assert_near(clip.image_features(pixels), wanted.image_embeds, near)
    assert_near(clip.text_features(ids.numpy()), wanted.text_embeds, near)


@pytest.mark.parametrize(("height", "width"), [(256, 256), (40, 57), (57, 40), (31, 31), (32, 301)])
def test_pixels_are_prepared_as_by_transformers(height, width, tmp_path):
    theirs = CLIPImageProcessorPil(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3]
    )
    theirs.save_pretrained(tmp_path)
    images = pictures(3, height, width)
    wanted = theirs(list(images), return_tensors="pt")["pixel_values"]
    assert_near(PixelSettings.open(tmp_path, 32)(images), wanted, 1e-5)


def test_without_a_file_pixels_are_prepared_as_clip_s(tmp_path):
    images = pictures(2, 256, 256)
    wanted = CLIPImageProcessorPil()(list(images), return_tensors="pt")["pixel_values"]
    assert_near(PixelSettings.open(tmp_path, 224)(images), wanted, 1e-5)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"size": 224, "crop_size": 224}}))
    assert PixelSettings.open(tmp_path, 224) == PixelSettings(224, 224)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"resample": 2}, "says resample 2; himar prepares images as CLIP, with 3"),
        ({"do_center_crop": False}, "says do_center_crop False"),
        ({"rescale_factor": "1/255"}, "says rescale_factor '1/255'"),
        ({"crop_size": 64}, "crops to 64 pixels, and the vision tower takes 32"),
        ({"size": 16}, "resizes to 16 pixels, less than the 32 of its crop"),
        ({"size": {"height": 32, "width": 32}}, "himar takes a number of pixels, or one as shortest_edge"),
        ({"crop_size": {"height": 32, "width": 30}}, "or one as height and width"),
        ({"image_mean": [0.5]}, "says image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, "which is no number per colour"),
        ([], "does not hold a JSON object"),
    ],
)
def test_other_ways_to_prepare_pixels_are_refused(values, said, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=said):
        PixelSettings.open(tmp_path, 32)


def test_sizes_that_no_tower_has_are_refused():
    with pytest.raises(ConfigError, match="patches of 32 pixels do not fill images of 100"):
        VisionConfig(size=100)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return saved(clip_model(), tmp_path_factory.mktemp("clip"))


@pytest.fixture
def folder(written, tmp_path) -> Path:
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def changed(folder: Path, change) -> Path:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


def test_folders_that_are_no_whole_clip_model_are_refused(folder, tmp_path_factory):
    tower = saved(text_model("small", projection=True), tmp_path_factory.mktemp("tower"))
    with pytest.raises(CheckpointError, match="holds no vision tower with its projection: it has no vision_model"):
        load_clip(tower)
    with pytest.raises(CheckpointError, match="holds no text tower with its projection: it has no text_projection"):
        load_clip(changed(folder, lambda state: state.pop("text_projection.weight")))
    with pytest.raises(CheckpointError, match="is not a folder; give the one with a CLIP model's"):
        load_clip(folder / "none")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("vision_model.pre_layrnorm.bias"), "not a CLIP vision tower .* lacks pre_layrnorm"),
        (lambda state: state.pop("vision_model.encoder.layers.0.mlp.fc1.weight"), "is missing or has another shape"),
        (lambda state: state.update({"text_projection.weight": torch.zeros(20, 32)}), "they do not belong together"),
        (lambda state: state.update({"visual_projection.weight": torch.zeros(24, 41)}), r"\(24, 32\) and \(24, 41\)"),
        (lambda state: state["visual_projection.weight"].fill_(float("nan")), "not finite"),
        (lambda state: state.update({"vision_model.embeddings.position_embedding.weight": torch.zeros(15, 40)}),
         r"position_embedding.weight has shape \(15, 40\)"),
    ],
)  # fmt: skip
def test_weights_that_do_not_belong_together_are_refused(folder, change, said):
    with pytest.raises(CheckpointError, match=said):
        load_clip(changed(folder, change))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_act": "relu"}, "activation is 'relu'"),
        ({"image_size": 64}, "says image_size 64, and the weights have 32"),
        ({"num_attention_heads": 7}, "7 heads do not divide the width 40"),
        (None, "has no vision_config"),
    ],
)
def test_a_configuration_that_is_not_the_weights_is_refused(folder, values, said):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"] = None if values is None else config["vision_config"] | values
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=said):
        load_clip(folder)
