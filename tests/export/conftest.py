"""Very small models with random weights, for what does not depend on a model's size; also one of each variant."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from himar import load_checkpoint, save_checkpoint
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar.families.hi_mar.presets import vary
from himar_export.cli import main
from himar_export.families.hi_mar.components import components
from himar_export.graph.component import Component
from himar_export.make.manifest import BundleWriter

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"

SIZES = {
    "width": 32, "enc_depth": 1, "dec_depth": 1, "heads": 2, "classes": 3, "buffer": 2, "cond_scale": 2,
    "img_size": 16, "vae_stride": 4, "channels": 4, "mlp_depth": 1, "mlp_width": 32, "dit_depth": 1, "dit_width": 32,
    "dit_heads": 2,
}  # fmt: skip
SAMPLING = {
    "low_steps": 2, "high_steps": 3, "low_guidance": 2.0, "high_guidance": 1.5, "low_diffusion_steps": 6,
    "high_diffusion_steps": 5,
}  # fmt: skip


def _checkpoint(path: Path, seed: int, **changes: int) -> Path:
    save_checkpoint(randomise(HiMAR(resolve({**SIZES, **changes}, {})), seed), path)
    return path


@pytest.fixture(scope="session")
def small_checkpoint() -> Callable[..., Path]:
    """Writes a checkpoint: path, seed, changed sizes."""
    return _checkpoint


def _variant(values: Any) -> HiMAR:
    changes = vary({}, values) if isinstance(values, str) else values
    sizes = {**SIZES, "mlp_width": 24, "sampling": SAMPLING}
    model = randomise(HiMAR(resolve(read_config({**sizes, **changes}), {})), 5).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # So that what a network is told weighs as much as the state that it is given.
        if any(part in name for part in ("final_layer", "adaLN_modulation", "class_emb", "attn.proj", "cond_z_proj")):
            parameter *= 8
    return model


@pytest.fixture(scope="session")
def small_variant() -> Callable[[Any], HiMAR]:
    """Makes a model: a row of himar.families.hi_mar.presets.VARIANTS by its name, or values such as {"pivots": …}."""
    return _variant


@pytest.fixture(scope="session")
def build_variant(bundles) -> Callable[..., Path]:
    """Builds the bundle of a row with these options of `build`, once for all workers; its checkpoint lies beside it."""

    def build(variant: str, *options: str) -> Path:
        out = bundles / "-".join(["variant", variant, *(option.strip("-") for option in options)])
        with FileLock(f"{out}.lock"):
            if not out.exists():
                save_checkpoint(_variant(variant), checkpoint := out.with_suffix(".safetensors"))
                command = ["build", str(checkpoint), "--max-batch", "3", *options, "--out", str(out), "--json"]
                assert main(command) == 0
        return out

    return build


@pytest.fixture(scope="session")
def digits_fp16_rtx_graphs(tmp_path_factory) -> tuple[Path, dict[str, Component]]:
    """The heads of digits in fp16 as they are exported for TensorRT: their folder, and their contracts."""
    folder = tmp_path_factory.mktemp("rtx-graphs")
    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    parts = {part.name: part for part in components(model, None, 4) if part.name.endswith("head")}
    writer = BundleWriter(folder, model, 4)
    for part in parts.values():
        writer.add_component(part, "fp16")
    writer.close_weights()
    return folder, parts


@pytest.fixture(scope="session")
def small_rtx_bundle(bundles) -> Path:
    """Of seed 2, in fp16, up to three images, for TensorRT-RTX; built once for all workers of a run."""
    return _rtx_bundle(bundles, "small-rtx", "--fp16")


@pytest.fixture(scope="session")
def small_rtx_fp8_bundle(bundles) -> Path:
    """The same in fp8, its MLP head too."""
    return _rtx_bundle(bundles, "small-rtx-fp8", "--fp8", "--precision", "mlp_head=fp8")


def _rtx_bundle(bundles: Path, name: str, *options: str) -> Path:
    pytest.importorskip("tensorrt_rtx")
    out, cache = bundles / name, bundles / "engine-cache"
    with FileLock(bundles / f"{name}.lock"):
        if not out.exists():
            checkpoint = _checkpoint(bundles / f"{name}.safetensors", 2)
            build = ["build", str(checkpoint), *options, "--max-batch", "3", "--backend", "tensorrt-rtx"]
            assert main([*build, "--cache", str(cache), "--out", str(out), "--json"]) == 0
    return out
