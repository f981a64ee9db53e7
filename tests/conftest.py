"""Bundles that many tests use, each built once per run through the command a user calls."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from himar_export.cli import main
from tests.kernels.host_kernels import HostKernels

ROOT = Path(__file__).parents[1]

# A busy machine, or the first import of a module, takes longer than Hypothesis's 200 ms and is no fault.
settings.register_profile("himar", deadline=None)
settings.load_profile("himar")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start files with slow tests first, and report tests that need a GPU as skipped, with the reason."""
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
    if shutil.which("nvidia-smi"):
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


GOLDEN = Path(__file__).parent / "golden"
WEIGHTS = ROOT / "himar" / "himar" / "weights"


def build(out: Path, *arguments: str | Path) -> Path:
    """Build a bundle unless another worker of this run has; one that is building it is waited for.

    What its engines take in memory is measured with --memory alone, to save a second.
    """
    with FileLock(f"{out}.lock"):
        if not out.exists():
            arguments = arguments if "--memory" in arguments else (*arguments, "--no-memory")
            assert main(["build", *map(str, arguments), "--out", str(out), "--json"]) == 0
    return out


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> Path:
    """A folder that all workers of a run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bundles"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def narrow_128_bundle(bundles) -> Path:
    model, config = GOLDEN / "himar-narrow-128.pth", GOLDEN / "himar-narrow-128.json"
    return build(bundles / "narrow-128", model, "--config", config, "--vae", GOLDEN / "vae-narrow.ckpt")


@pytest.fixture(scope="session")
def narrow_256_bundle(bundles) -> Path:
    """Built without a decoder."""
    model, config = GOLDEN / "himar-narrow-256.pth", GOLDEN / "himar-narrow-256.json"
    return build(bundles / "narrow-256", model, "--config", config)


def digits(out: Path, *arguments: str) -> Path:
    vae = WEIGHTS / "digits-vae.safetensors"
    return build(out, WEIGHTS / "digits.safetensors", "--config", "digits", "--vae", vae, *arguments)


@pytest.fixture(scope="session")
def build_digits() -> Callable[..., Path]:
    return digits


@pytest.fixture(scope="session")
def digits_bundle(bundles) -> Path:
    return digits(bundles / "digits", "--memory")


@pytest.fixture(scope="session")
def digits_editing_bundle(bundles) -> Path:
    return digits(bundles / "digits-editing", "--editing")


@pytest.fixture(scope="session")
def held_bundle(bundles) -> Path:
    """The digits with both parts of their DiT head."""
    return digits(bundles / "digits-held", "--held-modulations")


@pytest.fixture(scope="session")
def digits_fp16_bundle(bundles) -> Path:
    return digits(bundles / "digits-fp16", "--fp16")


@pytest.fixture(scope="session")
def digits_int8_bundle(bundles) -> Path:
    return digits(bundles / "digits-int8", "--int8")


@pytest.fixture(scope="session")
def digits_fp8_bundle(bundles) -> Path:
    return digits(bundles / "digits-fp8", "--fp8")


@pytest.fixture(scope="session")
def digits_bf16_bundle(bundles) -> Path:
    return digits(bundles / "digits-bf16", "--bf16")


def hmar(out: Path, *arguments: str) -> Path:
    model, config = GOLDEN / "hmar-narrow-144.pth", GOLDEN / "hmar-narrow-144.json"
    vae = GOLDEN / "hmar-vae-narrow.pth"
    return build(out, model, "--config", config, "--vae", vae, *arguments)


@pytest.fixture(scope="session")
def build_hmar() -> Callable[..., Path]:
    return hmar


@pytest.fixture(scope="session")
def hmar_bundle(bundles) -> Path:
    """HMAR's narrow-144 with its tokenizer: five scales, both networks and their VAR twins."""
    return hmar(bundles / "hmar-144", "--max-batch", "3")


@pytest.fixture(scope="session")
def text_checkpoint(bundles) -> Path:
    """A tiny model from text with random weights; beside it the folder of its text tower and tokenizer, `clip`."""
    from himar import save_checkpoint
    from tests.export import text_towers

    with FileLock(bundles / "text-checkpoint.lock"):
        if not (path := bundles / "text.safetensors").exists():
            tower = text_towers.tower()
            text_towers.text_folder(bundles / "clip", tower)
            save_checkpoint(text_towers.text_model(tower), path)
    return path


@pytest.fixture(scope="session")
def text_bundle(bundles, text_checkpoint) -> Path:
    """Of that model with tower, tokenizer and the digits' decoder: takes prompts and contexts."""
    sides = "--vae", WEIGHTS / "digits-vae.safetensors", "--text", text_checkpoint.with_name("clip")
    return build(bundles / "text", text_checkpoint, *sides, "--max-batch", "3")


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory) -> HostKernels:
    """The CUDA kernels compiled as host C++."""
    return HostKernels(tmp_path_factory.mktemp("host-kernels"))


@pytest.fixture(scope="session")
def hmar_digits_bundle(bundles) -> Path:
    vae = WEIGHTS / "hmar-digits-vae.safetensors"
    return build(bundles / "hmar-digits", WEIGHTS / "hmar-digits.safetensors", "--config", "hmar-digits", "--vae", vae)


@pytest.fixture(scope="session")
def scenes_bundle(bundles) -> Path:
    """Of the shipped model from text, with its tower and tokenizer."""
    folder = WEIGHTS / "scenes"
    sides = "--vae", folder / "scenes-vae.safetensors", "--text", folder / "scenes-text"
    return build(bundles / "scenes", folder / "scenes.safetensors", *sides)
