"""Loading a user's checkpoint: sizes from shapes, safe loading, and one clear sentence for everything wrong."""

import argparse
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from himar.families.hi_mar.checkpoints import load_checkpoint, measure, save_checkpoint
from himar.families.hi_mar.config import PRESETS, read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar_kernels import CheckpointError, ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"
CHECKPOINT = GOLDEN / "himar-narrow-128.pth"
HEADS = {"heads": 3, "dit_heads": 3}
LAYOUTS = {"himar-b": "himar_base", "himar-l": "himar_large", "himar-h": "himar_huge"}


@pytest.fixture(scope="module")
def layout():
    return json.loads((GOLDEN / "checkpoint-layout.json").read_text())


@pytest.mark.parametrize(("preset", "key"), LAYOUTS.items())
def test_presets_have_the_released_keys_and_shapes(layout, preset, key):
    config = resolve(read_config(preset), {}, preset)
    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in HiMAR(config).state_dict().items()}
    assert shapes == layout[key]


@pytest.mark.parametrize(("preset", "key"), LAYOUTS.items())
def test_sizes_are_read_off_the_shapes(layout, preset, key):
    shapes = {name: tuple(shape) for name, shape in layout[key].items()}
    given = {"heads": PRESETS[preset]["heads"], "dit_heads": PRESETS[preset]["dit_heads"]}
    from_shapes = resolve(given, measure(shapes, key), key)
    named = resolve(read_config(preset), {}, preset)
    sizes = [{k: v for k, v in c.to_dict().items() if k != "sampling"} for c in (from_shapes, named)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("preset", "millions"), [("himar-b", 244.5), ("himar-l", 529.2), ("himar-h", 1090.6)])
def test_parameter_counts_are_the_papers(preset, millions):
    with torch.device("meta"):
        model = HiMAR(resolve(read_config(preset), {}, preset))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_config_needs_only_what_shapes_cannot_tell(tmp_path):
    small = tmp_path / "small.json"
    small.write_text(json.dumps(HEADS))
    config = load_checkpoint(CHECKPOINT, small).config
    assert (config.width, config.grid, config.cond_scale, config.classes) == (48, 8, 4, 7)
    assert config.default_sampling.low_steps == 16


def test_loading_does_not_import_the_compiler_which_takes_seconds():
    code = (
        f"import sys, himar\nhimar.load_checkpoint({str(CHECKPOINT)!r}, {HEADS!r})\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_our_own_file_carries_its_configuration_and_equal_weights(tmp_path):
    model = load_checkpoint(CHECKPOINT, HEADS)
    save_checkpoint(model, tmp_path / "m.safetensors")
    again = load_checkpoint(tmp_path / "m.safetensors")
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_random_weights_leave_no_parameter_without_effect():
    """Zero modulations or last layers would let a wrong export pass unseen."""
    model = randomise(HiMAR(resolve(read_config("digits"), {})), seed=0)
    assert all(parameter.any() for parameter in model.parameters())
    again = randomise(HiMAR(model.config), seed=0)
    assert torch.equal(model.state_dict()["mask_token"], again.state_dict()["mask_token"])


def expect(error, text, path, config=HEADS, **options):
    with pytest.raises(error, match=text):
        load_checkpoint(path, config, **options)


def test_a_missing_checkpoint(tmp_path):
    expect(CheckpointError, "does not exist", tmp_path / "none.pth")


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_truncated_checkpoint(tmp_path, kept):
    data = CHECKPOINT.read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    expect(CheckpointError, "damaged", cut)


def test_a_truncated_safetensors(tmp_path):
    path = tmp_path / "m.safetensors"
    save_checkpoint(load_checkpoint(CHECKPOINT, HEADS), path)
    path.write_bytes(path.read_bytes()[:-1000])
    expect(CheckpointError, "damaged", path)


def test_a_checkpoint_of_another_model(tmp_path):
    torch.save({"model_ema": {"conv.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    expect(CheckpointError, "not a Hi-MAR checkpoint", tmp_path / "other.pth")


def test_a_vae_given_as_the_model():
    expect(CheckpointError, "not a Hi-MAR checkpoint", GOLDEN / "vae-narrow.ckpt", weights="model")


def test_a_checkpoint_that_lacks_one_tensor_or_has_one_of_another_shape(tmp_path):
    state = torch.load(CHECKPOINT, weights_only=False)["model_ema"]
    lacking = {name: tensor for name, tensor in state.items() if name != "decoder_norm.bias"}
    torch.save({"model_ema": lacking}, tmp_path / "lacking.pth")
    expect(CheckpointError, "lacks decoder_norm.bias", tmp_path / "lacking.pth")
    state["decoder_norm.bias"] = torch.zeros(5)
    torch.save({"model_ema": state}, tmp_path / "wrong.pth")
    expect(CheckpointError, r"decoder_norm.bias has shape \(5,\)", tmp_path / "wrong.pth")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"model_ema": {}, "args": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "trap.pth", HEADS)
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"model_ema": Trap()}))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "old.pth", HEADS)
    assert not (tmp_path / "sprung").exists()


def test_a_namespace_of_arguments_is_allowed(tmp_path):
    state = torch.load(CHECKPOINT, weights_only=False)["model_ema"]
    torch.save({"model_ema": state, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "released.pth")
    assert load_checkpoint(tmp_path / "released.pth", HEADS).config.width == 48


def test_weights_cannot_be_chosen_where_there_is_one_set(tmp_path):
    save_checkpoint(load_checkpoint(CHECKPOINT, HEADS), tmp_path / "m.safetensors")
    expect(CheckpointError, "one set of weights", tmp_path / "m.safetensors", None, weights="model")


def test_a_small_config_keeps_what_the_file_carries(tmp_path):
    """Else the VAE's scale would silently fall back to the released one."""
    own = {**HEADS, "vae_scale": 0.9, "vae_stride": 4, "sampling": {"low_guidance": 3.0}}
    save_checkpoint(load_checkpoint(CHECKPOINT, own), tmp_path / "m.safetensors")
    config = load_checkpoint(tmp_path / "m.safetensors", HEADS).config
    assert (config.vae_scale, config.vae_stride, config.default_sampling.low_guidance) == (0.9, 4, 3.0)


def test_missing_entry_names_those_present():
    expect(CheckpointError, "no entry 'ema'", CHECKPOINT, weights="ema")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("himar-b", "width = 768, but the checkpoint's shapes say 48"),
        ({**HEADS, "enc_depth": 9}, "enc_depth = 9, but the checkpoint's shapes say 3"),
        ({**HEADS, "img_size": 256}, "img_size = 256, but the checkpoint's shapes say 128"),
        ({"heads": 3}, "lacks dit_heads"),
        ({"heads": 5, "dit_heads": 3}, "width 48 does not divide into heads 5"),
        ({"heads": 0, "dit_heads": 3}, "heads is 0"),
        ({**HEADS, "haeds": 3}, "unknown key 'haeds'"),
        ({**HEADS, "sampling": {"low_steps": 17}}, "phase low has only 16 positions"),
        ({**HEADS, "sampling": {"speed": 2}}, "unknown key 'speed'"),
        ({**HEADS, "vae_scale": -1.0}, "vae_scale is -1.0"),
        ({**HEADS, "vae_scale": True}, "vae_scale is True; it must be a positive number"),
        ({**HEADS, "vae_scale": 10**400}, "vae_scale is 1000000000"),
        ({**HEADS, "enc_depth": 10**30}, "enc_depth is 1000000000000000000000000000000; it must be a whole number"),
        ({**HEADS, "cond_scale": 1025}, "cond_scale is 1025; it must be a whole number of at least 0, at most 1024"),
        ("no-such-preset", "neither a preset"),
        ({"config": 3}, "config is 3; it must be a JSON object"),
        ({**HEADS, "vae_stride": "4"}, "vae_stride is '4'"),
    ],
)
def test_a_config_that_is_wrong_or_contradicts_the_shapes(config, text):
    expect(ConfigError, text, CHECKPOINT, config)


def test_a_config_file_that_is_not_json(tmp_path):
    (tmp_path / "c.json").write_text("{heads: 3")
    expect(ConfigError, "not a readable JSON file", CHECKPOINT, tmp_path / "c.json")
    (tmp_path / "c.json").write_text("[3, 3]")
    expect(ConfigError, "must hold a JSON object", CHECKPOINT, tmp_path / "c.json")


def test_a_released_checkpoint_without_a_configuration():
    expect(ConfigError, "give a preset or a JSON file", CHECKPOINT, None)
