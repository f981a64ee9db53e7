"""A KL VAE in LDM's and diffusers' layouts: the same weights give the same outputs, and diffusers' own outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from himar.data.latents import LatentSet, check_fit
from himar.families.hi_mar.config import resolve
from himar.families.hi_mar.presets import PRESETS
from himar.vae.autoencoder import AutoencoderKL, VaeConfig, require_fit
from himar.vae.layouts import load_vae
from himar_kernels import CheckpointError, ConfigError, InputError
from tests.golden import make_vae_diffusers

GOLDEN = Path(__file__).parents[1] / "golden"
DEEP = VaeConfig(
    ch=32, ch_mult=(1, 2, 2), z_channels=4, num_res_blocks=1, attention_levels=(2,), decoder_attention_levels=(2,)
)
# Written by hand from diffusers' names, level by level: independent of the product's rules.
TABLE = {
    "encoder.down.0.block.0.": "encoder.down_blocks.0.resnets.0.",
    "encoder.down.0.downsample.conv.": "encoder.down_blocks.0.downsamplers.0.conv.",
    "encoder.down.1.block.0.": "encoder.down_blocks.1.resnets.0.",
    "encoder.down.1.downsample.conv.": "encoder.down_blocks.1.downsamplers.0.conv.",
    "encoder.down.2.block.0.": "encoder.down_blocks.2.resnets.0.",
    "encoder.down.2.attn.0.": "encoder.down_blocks.2.attentions.0.",
    "encoder.mid.block_1.": "encoder.mid_block.resnets.0.",
    "encoder.mid.block_2.": "encoder.mid_block.resnets.1.",
    "encoder.mid.attn_1.": "encoder.mid_block.attentions.0.",
    "encoder.norm_out.": "encoder.conv_norm_out.",
    "decoder.mid.block_1.": "decoder.mid_block.resnets.0.",
    "decoder.mid.block_2.": "decoder.mid_block.resnets.1.",
    "decoder.mid.attn_1.": "decoder.mid_block.attentions.0.",
    "decoder.norm_out.": "decoder.conv_norm_out.",
    "decoder.up.2.block.0.": "decoder.up_blocks.0.resnets.0.",
    "decoder.up.2.block.1.": "decoder.up_blocks.0.resnets.1.",
    "decoder.up.2.attn.0.": "decoder.up_blocks.0.attentions.0.",
    "decoder.up.2.attn.1.": "decoder.up_blocks.0.attentions.1.",
    "decoder.up.2.upsample.conv.": "decoder.up_blocks.0.upsamplers.0.conv.",
    "decoder.up.1.block.0.": "decoder.up_blocks.1.resnets.0.",
    "decoder.up.1.block.1.": "decoder.up_blocks.1.resnets.1.",
    "decoder.up.1.upsample.conv.": "decoder.up_blocks.1.upsamplers.0.conv.",
    "decoder.up.0.block.0.": "decoder.up_blocks.2.resnets.0.",
    "decoder.up.0.block.1.": "decoder.up_blocks.2.resnets.1.",
}
PRESENT = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OLDER = {"norm": "group_norm", "q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}


@pytest.fixture(scope="module")
def own() -> AutoencoderKL:
    torch.manual_seed(5)
    return AutoencoderKL(DEEP).eval().requires_grad_(False)


def in_diffusers_layout(state: dict[str, torch.Tensor], attention: dict[str, str], matrices: bool):
    renamed = {}
    for name, value in state.items():
        start = next((start for start in TABLE if name.startswith(start)), None)
        if start is None:
            renamed[name] = value
            continue
        rest = name.removeprefix(start).replace("nin_shortcut", "conv_shortcut")
        if "attn" in start:
            leaf, kind = rest.split(".")
            rest = f"{attention[leaf]}.{kind}"
            value = value[:, :, 0, 0] if matrices and value.ndim == 4 else value
        renamed[TABLE[start] + rest] = value
    return renamed


def folder_of(path: Path, state: dict[str, torch.Tensor], **config) -> Path:
    path.mkdir(exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, path / "diffusion_pytorch_model.safetensors")
    (path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", "act_fn": "silu", **config}))
    return path


@torch.no_grad()
def distances(one: AutoencoderKL, two: AutoencoderKL) -> tuple[float, float]:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latent = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    pairs = ((one.moments(image), two.moments(image)), (one.decode(latent), two.decode(latent)))
    return tuple(float((a - b).norm() / b.norm()) for a, b in pairs)


LOSS = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4)}


@pytest.mark.parametrize("kind", ["lightning", "first stage", "loss", "whole LDM", "bare", "compiled"])
def test_ldms_files_give_the_same_outputs(tmp_path, own, kind):
    state = own.state_dict()
    content = {
        "lightning": {"state_dict": {**state, **LOSS}, "epoch": 1, "callbacks": {}},
        "first stage": {"state_dict": {f"first_stage_model.{name}": value for name, value in state.items()}},
        "loss": {"model": {**state, **LOSS}},
        "whole LDM": {
            "state_dict": {
                "model.diffusion_model.out.0.weight": torch.zeros(3),
                "model_ema.decay": torch.tensor(0.9),
                "cond_stage_model.transformer.wte.weight": torch.zeros(3),
                **{f"first_stage_model.{name}": value for name, value in {**state, **LOSS}.items()},
            }
        },
        "bare": dict(state),
        "compiled": {"model": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    }[kind]
    torch.save(content, tmp_path / "vae.ckpt")
    loaded = load_vae(tmp_path / "vae.ckpt")
    assert loaded.config == DEEP
    assert distances(loaded, own) == (0, 0)


@pytest.mark.parametrize("attention", [PRESENT, OLDER], ids=["present", "older"])
@pytest.mark.parametrize("matrices", [True, False])
@pytest.mark.parametrize("form", ["folder", "file", "pth"])
def test_diffusers_layout_gives_the_same_outputs(tmp_path, own, attention, matrices, form):
    state = in_diffusers_layout(own.state_dict(), attention, matrices)
    assert not set(state) & {name for name in own.state_dict() if name.startswith(tuple(TABLE))}
    path = folder_of(tmp_path / "vae", state, scaling_factor=0.3)
    if form == "file":
        path /= "diffusion_pytorch_model.safetensors"
    if form == "pth":
        path = tmp_path / "vae.pth"
        torch.save(state, path)
    loaded = load_vae(path)
    assert loaded.config == DEEP
    assert loaded.scaling_factor == (0.3 if form == "folder" else None)
    assert max(distances(loaded, own)) < 1e-6


@pytest.mark.parametrize("case", ["attention", "bare"])
@torch.no_grad()
def test_diffusers_own_outputs_are_reached(tmp_path, case):
    """One VAE has attention at 8 × 8 in both halves; the other none at all, no quant_conv, and a shift."""
    made = make_vae_diffusers
    with np.load(GOLDEN / "vae-diffusers.npz") as file:
        layout = json.loads(bytes(file[f"{case}/layout"]))
        moments, decoded = (torch.from_numpy(file[f"{case}/{name}"]) for name in ("moments", "decoded"))
    state = {name: torch.from_numpy(made.weight(name, tuple(shape))) for name, shape in layout["shapes"].items()}
    vae = load_vae(folder_of(tmp_path / "vae", state, **layout["config"]))
    assert vae.scaling_factor == layout["config"]["scaling_factor"]
    assert vae.config.mid_attention == (case == "attention")
    shift = layout["config"].get("shift_factor") or 0
    latent = moments[:, :4] - shift
    expected = torch.cat([latent, moments[:, 4:]], dim=1)
    for ours, theirs in ((vae.moments(torch.from_numpy(made.image())), expected), (vae.decode(latent), decoded)):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_vae(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_weight_that_is_missing_or_of_another_shape_is_named_never_made_up(tmp_path, own):
    whole = in_diffusers_layout(own.state_dict(), PRESENT, True)
    path = folder_of(tmp_path / "vae", whole)
    for name, ours in (
        ("decoder.up_blocks.0.attentions.1.to_q.weight", "decoder.up.2.attn.1.q.weight"),
        ("encoder.mid_block.attentions.0.to_v.bias", "encoder.mid.attn_1.v.bias"),
        ("decoder.up_blocks.2.resnets.1.conv1.weight", "decoder.up.0.block.1.conv1.weight"),
    ):
        folder_of(path, {key: value for key, value in whole.items() if key != name})
        assert f"has no {ours}" in refusal(path)
        folder_of(path, {**whole, name: torch.zeros(7)})
        assert f"{ours} is (7,)" in refusal(path)
    folder_of(path, {**whole, "decoder.up_blocks.0.attentions.1.to_extra.weight": torch.zeros(2)})
    assert "decoder.up.2.attn.1.to_extra.weight" in refusal(path)
    folder_of(path, {**whole, "encoder.mid.attn_1.q.bias": torch.zeros(64)})
    assert "another name of the same weight" in refusal(path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "AutoencoderDC"}, "is of a AutoencoderDC; himar reads diffusers' AutoencoderKL"),
        ({"act_fn": "relu"}, "act_fn = 'relu'"),
        ({"norm_num_groups": 16}, "norm_num_groups = 16"),
        ({"latents_mean": [0.1]}, "latents_mean = [0.1]"),
        ({"scaling_factor": 0}, "scaling_factor = 0; it must be a number"),
        ({"scaling_factor": "x"}, "scaling_factor = 'x'"),
        ({"shift_factor": [1]}, "shift_factor = [1]"),
    ],
)
def test_a_configuration_of_another_network_is_refused(tmp_path, own, config, said):
    path = folder_of(tmp_path / "vae", in_diffusers_layout(own.state_dict(), PRESENT, True), **config)
    assert said in refusal(path)
    assert "config.json" in refusal(path)


def test_a_pipelines_folder_names_the_vae_in_it(tmp_path, own):
    folder_of(tmp_path / "vae", in_diffusers_layout(own.state_dict(), PRESENT, True))
    assert f"give {tmp_path / 'vae'}" in refusal(tmp_path)


def test_the_scaling_factor_must_be_the_models(own):
    sizes = {**PRESETS["digits"], "channels": 4, "vae_stride": 4}
    config = resolve(sizes, {})
    own.scaling_factor = config.vae_scale
    require_fit(own, config, "vae")
    own.scaling_factor = 0.18215
    with pytest.raises(ConfigError, match=r"vae says in its config.json scaling_factor 0.18215, but .* times 0.95"):
        require_fit(own, config, "vae")
    own.scaling_factor = None


def test_patches_of_latents_are_refused_as_such():
    kl8 = AutoencoderKL(VaeConfig(ch=32, ch_mult=(1, 1, 1, 1), z_channels=4, num_res_blocks=1, attention_levels=()))
    config = resolve({**PRESETS["mar-b"]}, {})
    with pytest.raises(ConfigError, match="patches of 2 × 2 latents, which himar does not read"):
        require_fit(kl8, config, "kl8.ckpt")
    latents = LatentSet(torch.zeros(1, 2, 4, 32, 32), torch.zeros(1, 2, 4, 16, 16), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InputError, match=r"high latents have shape .* patches of 2 × 2 latents"):
        check_fit(config, latents)
