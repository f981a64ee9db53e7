"""The text tower gives transformers' states from transformers' folders, and refuses other folders in a sentence."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from himar.text import TextConfig, TextTower, encode, load_text_tower, save_text_tower
from himar_kernels import CheckpointError, InputError
from tests.closeness import COMPONENT, assert_near

from .clip_models import SIZES, clip_model, saved, text_model, token_ids


def states(model, ids: torch.Tensor) -> torch.Tensor:
    """Return transformers' last states, without a mask of the padding."""
    with torch.no_grad():
        return getattr(model, "text_model", model)(input_ids=ids).last_hidden_state


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("size", SIZES)
def test_every_state_is_that_of_transformers(size, activation, tmp_path):
    theirs = text_model(size, activation)
    tower = load_text_tower(saved(theirs, tmp_path))
    ids = token_ids(size, 5)
    found = encode(tower, ids)
    assert found.shape == (5, tower.config.positions, tower.config.width) and found.dtype == torch.float32
    for row in range(5):  # padding's rows as well as the others
        for rows in (slice(None, 2 + row), slice(2 + row, None)):
            assert_near(found[row, rows], states(theirs, ids)[row, rows], COMPONENT)
    assert_near(tower(ids[:, :4]), found[:, :4], COMPONENT)  # what follows is nothing to a position
    assert not any(parameter.requires_grad for parameter in tower.parameters())


@pytest.mark.parametrize("layout", ["projection", "whole", "sharded", "half", "prefixed"])
def test_folders_of_every_layout_hold_the_same_tower(layout, tmp_path):
    if layout == "whole":
        theirs = saved(model := clip_model(), tmp_path) and model
    else:
        theirs = text_model("small", projection=layout == "projection")
        saved(theirs, tmp_path, **({"max_shard_size": "10KB"} if layout == "sharded" else {}))
    if layout == "sharded":
        assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    if layout in ("half", "prefixed"):
        path = tmp_path / "model.safetensors"
        state = {f"text_model.{name}": value for name, value in load_file(path).items()}
        state["text_model.embeddings.position_ids"] = torch.arange(9)[None]  # which older versions wrote
        save_file({k: v.half() if layout == "half" and v.is_floating_point() else v for k, v in state.items()}, path)
    ids = token_ids("small", 3)
    found = encode(load_text_tower(tmp_path), ids)
    assert_near(found, states(theirs, ids), 2e-3 if layout == "half" else COMPONENT)


def test_a_saved_tower_is_what_transformers_loads(tmp_path):
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    tower = TextTower(TextConfig(32, 2, 4, 48, 60, 9, "gelu")).eval()
    save_text_tower(tower, tmp_path)
    ids = token_ids("small", 3)
    expected = encode(tower, ids)
    assert_near(states(CLIPTextModel.from_pretrained(tmp_path), ids), expected, COMPONENT)
    again = load_text_tower(tmp_path)
    assert again.config == tower.config
    assert torch.equal(encode(again, ids), expected)


def test_a_row_is_the_same_in_any_batch():
    torch.manual_seed(1)
    tower = TextTower(TextConfig(64, 3, 4, 256, 60, 9)).eval()
    ids = token_ids("small", 5)
    assert_near(encode(tower, ids[3:4]), encode(tower, ids)[3:4], 1e-6)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (torch.zeros(2, 8, dtype=torch.long), r"shape \(2, 8\); this tower takes rows of 9"),
        (torch.zeros(9, dtype=torch.long), r"shape \(9,\)"),
        (torch.full((1, 9), 60), "reach from 60 to 60, and this tower has 60 tokens; take the tokenizer"),
        (torch.full((1, 9), -1), "reach from -1 to -1"),
    ],
)
def test_ids_of_another_tokenizer_are_refused(ids, said):
    with pytest.raises(InputError, match=said):
        encode(TextTower(TextConfig(32, 1, 4, 48, 60, 9)), ids)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return saved(text_model("small"), tmp_path_factory.mktemp("clip"))


@pytest.fixture
def folder(written, tmp_path) -> Path:
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "t5"}, "of a model of type 't5'; himar reads CLIP's text tower"),
        ({"hidden_act": "relu"}, "activation is 'relu'; himar has quick_gelu and gelu"),
        ({"num_attention_heads": 5}, "5 heads do not divide the width 32"),
        ({"num_attention_heads": "4"}, "says num_attention_heads '4', which is none"),
        ({"layer_norm_eps": True}, "says layer_norm_eps True, which is none"),
        ({"hidden_size": 64}, "says hidden_size 64, and the weights have 32; take both from one model"),
        ({"num_hidden_layers": 3}, "says num_hidden_layers 3, and the weights have 2"),
        ({"text_config": 3}, "describes its tower by 3 and not by an object"),
    ],
)
def test_a_configuration_that_is_not_the_weights_is_refused(folder, values, said):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(CheckpointError, match=said):
        load_text_tower(folder)


def changed(folder: Path, change) -> Path:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    return folder


def test_weights_that_are_no_text_tower_are_refused(folder):
    with pytest.raises(CheckpointError, match=r"lacks encoder.layers.1.mlp.fc2.bias"):
        load_text_tower(changed(folder, lambda state: state.pop("encoder.layers.1.mlp.fc2.bias")))
    with pytest.raises(CheckpointError, match=r"no text tower in Hugging Face's layout: it has no embeddings"):
        load_text_tower(changed(folder, lambda state: state.pop("embeddings.token_embedding.weight")))
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="it is empty"):
        load_text_tower(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="is a folder without a checkpoint"):
        load_text_tower(folder)
    with pytest.raises(CheckpointError, match=r"is not a folder; give the one with a CLIP model's config.json"):
        load_text_tower(folder / "none")


def test_weights_without_their_configuration_are_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config.json, which names a tower's heads and activation"):
        load_text_tower(folder)
