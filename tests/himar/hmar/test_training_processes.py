"""HMAR's training in several processes: the same weights as in one, copied (DDP) or sharded (FSDP2)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from himar.loading.files import read_state
from himar.training.processes import Processes
from himar.training.settings import Execution
from tests.closeness import RUN, assert_near
from tests.himar.two_processes import run_two

from . import joint_training


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The folder where two processes that were started as torchrun does have saved what they learned."""
    return run_two(joint_training.__name__, tmp_path_factory.mktemp("joint"))


@pytest.fixture(scope="module")
def alone() -> dict:
    return joint_training.trainings(Execution(), Processes())


def joined(tensors: dict) -> torch.Tensor:
    """All tensors as one vector, so that a comparison is of all of them together."""
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("phase", ["next-scale", "masked"])
def test_two_processes_learn_what_one_does(together, alone, kind, phase):
    ours, theirs = torch.load(together / "result.pt")[kind][phase], alone[phase]
    assert_near(ours["losses"], theirs["losses"], RUN)
    assert_near(joined(ours["weights"]), joined(theirs["weights"]), RUN)
    state, _ = read_state(together / f"{phase}-{kind == 'fsdp'}.safetensors", key=None)
    assert all(state[f"model.{name}"].equal(value) for name, value in ours["weights"].items())
