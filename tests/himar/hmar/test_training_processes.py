"""HMAR's training in several processes: the same weights as in one, copied (DDP) or sharded (FSDP2)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from himar.loading.files import read_state
from himar.training.processes import Processes
from himar.training.settings import Execution
from tests.closeness import RUN, assert_near

from . import joint_training


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The folder where two processes that were started as torchrun does have saved what they learned."""
    folder = tmp_path_factory.mktemp("joint")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", joint_training.__name__, folder],
            cwd=Path(__file__).parents[3],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
    return folder


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
