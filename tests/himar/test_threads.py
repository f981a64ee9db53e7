"""Every command that runs PyTorch takes no more CPU threads than it was given CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import himar.cli
import himar_export.cli
from himar import device
from himar_kernels.shared.console import run_cli

COMMANDS = {
    "himar sample": "sample absent.safetensors --labels 1 --out x.png",
    "himar drift": "drift absent.safetensors",
    "himar init": "init --config digits --out file/x.safetensors",
    "himar train": "train --config digits --data images --out out",
    "himar cache-latents": "cache-latents absent --vae absent.ckpt --out cache",
    "himar evaluate": "evaluate absent --extractor digits",
    "himar-export build": "build absent.pth --out bundle",
    "himar-export refit": "refit absent absent.pth --out bundle",
    "himar-export record": "record absent.pth --labels 1 --out run.npz",
}


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """PyTorch's own choice is two threads, and one CPU is given."""
    monkeypatch.setattr(device, "default_threads", lambda: 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "file").touch()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_the_cpus_it_was_given(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli = himar.cli.cli if command.startswith("himar ") else himar_export.cli.cli
    assert run_cli(cli, COMMANDS[command].split()) == 1, capsys.readouterr().err
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("two_threads")
def test_threads_that_are_asked_for_are_taken() -> None:
    device.use_threads(3)
    assert torch.get_num_threads() == 3
    device.use_threads()
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("two_threads")
def test_pytorchs_own_choice_is_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "default_threads", lambda: 16)
    device.use_threads()
    assert torch.get_num_threads() == 2
