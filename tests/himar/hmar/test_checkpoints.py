"""HMAR's checkpoints: the released layouts, merging, sizes from shapes, and one sentence for everything wrong."""

from __future__ import annotations

import argparse
import json

import pytest
import torch

from himar.families.hmar.checkpoints import load_checkpoint, measure, save_checkpoint
from himar.families.hmar.config import ModelConfig, read_config, resolve
from himar.families.hmar.model import HMAR, initialise, randomise
from himar.families.hmar.presets import PRESETS
from himar.families.hmar.tokenizer.files import measure_tokenizer
from himar.families.hmar.tokenizer.network import Tokenizer
from himar.families.hmar.tokenizer.sizes import TokenizerConfig
from himar_kernels import CheckpointError, ConfigError, InputError
from himar_kernels.families.hmar import SamplingConfig

from .conftest import GOLDEN

CHECKPOINT = GOLDEN / "hmar-narrow-144.pth"
LAYOUT = json.loads((GOLDEN / "hmar-checkpoint-layout.json").read_text())
DEPTHS = (16, 20, 24, 30)
CONSTANTS = ("lvl_1L", "attn_bias_for_masking", "zero_k_bias")
TINY = {"patch_nums": [2, 3, 5], "width": 24, "depth": 3, "heads": 3, "tail": 2, "classes": 4, "vocab": 20}
TINY |= {"latent_channels": 6, "vae_groups": 4}


def weights(shapes: dict) -> dict:
    return {name: tuple(shape) for name, shape in shapes.items() if not name.endswith(CONSTANTS)}


def released() -> dict[str, torch.Tensor]:
    return torch.load(CHECKPOINT, weights_only=True)


def training_form(state: dict[str, torch.Tensor], tail: str) -> dict[str, torch.Tensor]:
    """Rename a merged checkpoint's entries as the training of one of its networks leaves them."""
    other = "mask" if tail == "ns" else "ns"
    plain = {}
    for name, tensor in state.items():
        if name.startswith((f"{other}_blocks", f"{other}_head")):
            continue
        for ours, theirs, first in (("base_blocks", "blocks", 0), (f"{tail}_blocks", "blocks", 3)):
            if name.startswith(f"{ours}."):
                number, rest = name.removeprefix(f"{ours}.").split(".", 1)
                name = f"{theirs}.{int(number) + first}.{rest}"
        plain[name.removeprefix(f"{tail}_") if name.startswith(f"{tail}_head") else name] = tensor
    if tail == "ns":
        plain["word_embed.bias"] = plain.pop("word_embed_bias")
        del plain["mask_embed.weight"]
    return plain


def expect(error, text, path, config=None, **options):
    with pytest.raises(error, match=text):
        load_checkpoint(path, config, **options)


@pytest.fixture
def files(tmp_path):
    """Both networks as training leaves them: one flat, one in a training checkpoint."""
    torch.save(training_form(released(), "ns"), tmp_path / "ns.pth")
    trainer = {
        "transformer_wo_ddp": training_form(released(), "mask"),
        "transformer_opt": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}},
    }
    content = {"epoch": 3, "iter": 7, "trainer": trainer, "args": argparse.Namespace(depth=11)}
    torch.save(content, tmp_path / "mask.pth")
    return tmp_path


@pytest.mark.parametrize("depth", DEPTHS)
def test_presets_have_the_released_keys_and_shapes(depth):
    config = resolve(read_config(f"hmar-d{depth}"), {}, "preset")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in HMAR(config).state_dict().items()}
    assert shapes == weights(LAYOUT[f"hmar_d{depth}"])
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) / 1e6 == pytest.approx(
        {16: 467.69, 20: 845.52, 24: 1384.33, 30: 2556.32}[depth], abs=0.01
    )


@pytest.mark.parametrize("depth", DEPTHS)
def test_sizes_are_read_off_the_shapes(depth):
    preset = read_config(f"hmar-d{depth}")
    levels = torch.arange(10).repeat_interleave(torch.tensor([side**2 for side in preset["patch_nums"]]))
    measured = measure(weights(LAYOUT[f"hmar_d{depth}"]), levels[None], None, "layout")
    assert resolve({"sampling": preset["sampling"], "vae_ch": 160}, measured) == resolve(preset, {})


def test_the_released_tokenizers_sizes_are_read_off_its_shapes():
    shapes = weights(LAYOUT["vae_ch160v4096z32"])
    assert measure_tokenizer(shapes, 32) == TokenizerConfig()
    with torch.device("meta"):
        own = {name: tuple(tensor.shape) for name, tensor in Tokenizer(TokenizerConfig()).state_dict().items()}
    assert own == {name: shape for name, shape in shapes.items() if name != "quantize.ema_vocab_hit_SV"}


def test_a_merged_checkpoint_needs_no_configuration(narrow):
    config = load_checkpoint(CHECKPOINT).config
    sizes = {name: value for name, value in narrow.model.config.to_dict().items() if name not in ("sampling", "vae_ch")}
    assert {name: config.to_dict()[name] for name in sizes} == {**sizes, "vae_groups": 32}
    assert load_checkpoint(CHECKPOINT, {"vae_groups": 4}).config.vae_groups == 4
    assert config.default_sampling.top_k == 144
    assert config.default_sampling.schedule == ((1,), (1, 3), (1, 1, 2, 5))


def test_a_recordings_configuration_by_itself_or_whole(tmp_path, narrow):
    """A `config` object as it stands, with the name of its tokenizer, and the file that it came from."""
    described = json.loads((GOLDEN / "hmar-narrow-144.json").read_text())
    (tmp_path / "c.json").write_text(json.dumps(described["config"]))
    alone = load_checkpoint(CHECKPOINT, tmp_path / "c.json").config
    assert (alone.vae_ch, alone.vae_groups, list(alone.sampling)) == (8, 4, ["default"])
    named = narrow.model.config.sampling
    assert list(named) == ["masked", "unfiltered", "unguided", "nsp", "var"]
    assert named["unfiltered"].top_p == 1.0 and named["var"].all_scales and not named["nsp"].masks


def test_our_own_file_carries_its_configuration_and_equal_weights(tmp_path, narrow):
    save_checkpoint(narrow.model, tmp_path / "m.safetensors")
    again = load_checkpoint(tmp_path / "m.safetensors")
    assert again.config == narrow.model.config
    for name, tensor in narrow.model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_file_without_levels_takes_its_sides_from_the_configuration(tmp_path):
    torch.save({name: tensor for name, tensor in released().items() if name != "lvl_1L"}, tmp_path / "m.pth")
    expect(ConfigError, "does not say the sides of its scales; give patch_nums", tmp_path / "m.pth")
    assert load_checkpoint(tmp_path / "m.pth", {"patch_nums": [1, 2, 3, 6, 9]}).config.img_size == 144
    text = (
        r"patch_nums \[1, 2, 3, 6, 10\] are 5 scales with 150 cells, but .*m.pth has tables for 5 scales with 131 cells"
    )
    expect(ConfigError, text, tmp_path / "m.pth", {"patch_nums": [1, 2, 3, 6, 10]})


def test_a_next_scale_network_alone(files, narrow):
    model = load_checkpoint(files / "ns.pth")
    assert not model.config.masked and model.config.tail == 8
    assert not model.config.default_sampling.masks
    labels, ahead = torch.tensor([1]), torch.from_numpy(narrow.arrays["tf/ns_input"][:1])
    assert torch.equal(model.next_scale_logits(labels, ahead), narrow.model.next_scale_logits(labels, ahead))
    with pytest.raises(InputError, match="masked steps, but this checkpoint has the next-scale network alone"):
        model.config.check_sampling(SamplingConfig(top_k=0, schedule=((1,), (1, 3))))
    with pytest.raises(ConfigError, match="this model has the next-scale network alone"):
        model.tail_vectors(model.conditions(labels), "masked")
    assert len(load_checkpoint(files / "ns.pth", {"tail": 2}).ns_blocks) == 2


def test_two_networks_are_merged(files, narrow):
    merged = load_checkpoint(files / "ns.pth", masked=files / "mask.pth")
    assert merged.config.tail == 8
    for name, tensor in narrow.model.state_dict().items():
        assert torch.equal(tensor, merged.state_dict()[name]), name


def test_networks_that_do_not_belong_together(files, tmp_path):
    expect(CheckpointError, "holds the masked network alone, which cannot predict a scale", files / "mask.pth")
    expect(CheckpointError, "is not a masked network as training", files / "ns.pth", masked=files / "ns.pth")
    expect(CheckpointError, "holds a masked network already", CHECKPOINT, masked=files / "mask.pth")
    other = training_form(released(), "mask")
    other["class_emb.weight"] = other["class_emb.weight"] + 1
    torch.save(other, tmp_path / "other.pth")
    expect(
        CheckpointError,
        "not trained from this next-scale network: class_emb",
        files / "ns.pth",
        masked=tmp_path / "other.pth",
    )
    expect(CheckpointError, r"not trained .*: blocks\.3", files / "ns.pth", {"tail": 7}, masked=files / "mask.pth")


def test_checkpoints_of_other_things(tmp_path):
    expect(CheckpointError, "does not exist", tmp_path / "none.pth")
    expect(CheckpointError, "not an HMAR checkpoint", GOLDEN / "hmar-vae-narrow.pth")
    expect(CheckpointError, "not an HMAR checkpoint", GOLDEN / "himar-narrow-128.pth", weights="model")
    (tmp_path / "cut.pth").write_bytes(CHECKPOINT.read_bytes()[:100_000])
    expect(CheckpointError, "damaged", tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("ns_head.bias", None, "lacks ns_head.bias"),
        ("extra.weight", torch.zeros(2), "has an unknown extra.weight"),
        ("mask_head.bias", torch.zeros(5), r"mask_head.bias has shape \(5,\)"),
        ("lvl_1L", torch.zeros(1, 131, dtype=torch.int64), "lvl_1L does not number the cells of square scales"),
        ("ns_head.bias", torch.full((144,), torch.nan), "ns_head.bias holds values that are not finite"),
    ],
)
def test_a_tensor_that_is_missing_or_wrong(tmp_path, name, value, text):
    state = {**released(), name: value}
    torch.save({key: tensor for key, tensor in state.items() if tensor is not None}, tmp_path / "m.pth")
    expect(CheckpointError, text, tmp_path / "m.pth")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"patch_nums": [1, 2, 3, 4, 5]}, r"patch_nums = \[1, 2, 3, 4, 5\], but the checkpoint says \[1, 2, 3, 6, 9\]"),
        ({"patch_nums": [3, 2]}, "config: patch_nums is .*; sides run from coarse to fine"),
        ({"heads": 4}, "heads = 4, but the checkpoint says 5"),
        ("hmar-d16", "but the checkpoint says"),
        ({"tail": 7}, "tail = 7, but the checkpoint says 8"),
        ({"masked": "yes"}, "masked is 'yes'; it must be true or false"),
        ({"vae_groups": 0}, "vae_groups is 0; it must be a whole number of at least 1"),
        ({"widht": 3}, "config: unknown key 'widht'"),
        ({"config": 3}, "config is 3; it must be a JSON object"),
        ({"sampling": 3}, "sampling must be a JSON object"),
        ({"sampling": {"top_p": 0}}, "sampling 'default': top_p is 0; it must be above 0 and at most 1"),
        ({"sampling": {"top_k": 145}}, "sampling 'default': top_k is 145, but the model has 144 codes"),
        ({"sampling": {"a": {"schedule": [[1], [2, 3]]}}}, "sampling 'a': schedule of scale 1 is .* has 4 cells"),
        ("no-such-preset", "neither a preset"),
    ],
)
def test_a_config_that_is_wrong_or_contradicts_the_checkpoint(config, text):
    expect(ConfigError, text, CHECKPOINT, config)


def test_a_config_file_that_is_not_json(tmp_path):
    (tmp_path / "c.json").write_text("{heads: 3")
    expect(ConfigError, "not a readable JSON file", CHECKPOINT, tmp_path / "c.json")
    (tmp_path / "c.json").write_text("[3]")
    expect(ConfigError, "must hold a JSON object", CHECKPOINT, tmp_path / "c.json")


def test_a_configuration_survives_json():
    config = ModelConfig.from_dict(TINY)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (config.img_size, config.scales.tokens, config.default_sampling.top_k) == (80, 38, 20)
    with pytest.raises(ConfigError, match="config does not give vocab, which"):
        ModelConfig.from_dict({name: value for name, value in TINY.items() if name != "vocab"})
    with pytest.raises(ConfigError, match="width 24 does not divide into heads 5"):
        ModelConfig.from_dict({**TINY, "heads": 5})
    with pytest.raises(ConfigError, match="tail is 4, but the model has 3 blocks"):
        ModelConfig.from_dict({**TINY, "tail": 4})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_and_their_settings_fit_each_other(name):
    config = ModelConfig.from_dict(PRESETS[name], name)
    if name == "hmar-digits":  # not released
        assert list(config.sampling) == ["default", "refined"]
        return
    assert config.width == 64 * config.heads == 64 * config.depth
    if not name.endswith(("-512", "-1024")):
        assert list(config.sampling) == ["sampling", "evaluation", "benchmark"]


def test_random_weights_leave_no_parameter_without_effect():
    config = ModelConfig.from_dict(TINY)
    model = randomise(HMAR(config), seed=0)
    assert all(parameter.any() for parameter in model.parameters())
    assert torch.equal(randomise(HMAR(config), seed=0).pos_1LC, model.pos_1LC)
    assert not torch.equal(model.ns_head.weight, model.mask_head.weight)
    ahead = torch.randn(2, 34, 6)
    rows = torch.tensor([0, 4])
    with torch.no_grad():
        changed = model.next_scale_logits(rows, ahead)
        for block in model.ns_blocks:
            block.attn.v_bias += 1
        assert not torch.equal(model.next_scale_logits(rows, ahead), changed)


def test_training_starts_as_the_paper_says():
    model = initialise(HMAR(ModelConfig.from_dict({**TINY, "width": 240})), seed=1, gate=1e-3)
    sigma = (1 / 720) ** 0.5
    block = model.base_blocks[0]
    assert block.attn.mat_qkv.weight.std().item() == pytest.approx(sigma, rel=0.02)
    assert block.ffn.fc2.weight.std().item() == pytest.approx(sigma / 6**0.5, rel=0.02)
    assert model.ns_head.weight.std().item() == pytest.approx(0.02 * sigma, rel=0.05)
    gates, others = block.ada_lin[1].weight.unflatten(0, (6, -1)).split([2, 4])
    assert gates.std().item() == pytest.approx(1e-3 * sigma, rel=0.02)
    assert others.std().item() == pytest.approx(0.5 * sigma, rel=0.02)
    assert block.attn.scale_mul_1H11.exp().mean().item() == pytest.approx(4)
    assert not model.word_embed_bias.any() and not block.attn.q_bias.any()
    assert torch.equal(model.mask_blocks[1].ffn.fc1.weight, model.ns_blocks[1].ffn.fc1.weight)
    assert torch.equal(model.mask_head.weight, model.ns_head.weight)
