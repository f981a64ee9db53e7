"""Training in several processes: the same gradients and weights as in one, copied (DDP) or sharded (FSDP2)."""

import pytest
import torch

from himar.training.processes import Processes, joined_processes
from himar.training.run import train_model
from himar.training.settings import Execution
from himar_kernels import ConfigError
from tests.closeness import COMPONENT, RUN, assert_near
from tests.himar import joint_training
from tests.himar import tiny_training as tiny
from tests.himar.two_processes import run_two


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> dict:
    """What joint_training.py saves when two processes run it, started as torchrun does."""
    folder = run_two(joint_training.__name__, tmp_path_factory.mktemp("joint"))
    return torch.load(folder / "result.pt")


@pytest.fixture(scope="module")
def alone():
    figures = []
    settings = tiny.settings(6, dropout=0.0, snapshot_every=3)
    averaged = train_model(
        tiny.model(0.0), tiny.latents(), settings, 3, lambda progress: figures.append(dict(progress.figures))
    )
    gradients = joint_training.gradients(Execution(), Processes())
    return {"figures": figures, "average": averaged.state_dict(), "gradients": gradients}


def joined(tensors: dict) -> torch.Tensor:
    """All tensors as one vector, so that a comparison is of all of them together."""
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_have_the_gradients_and_weights_of_one_with_the_joint_batch(together, alone, kind):
    together = together[kind]
    assert together["processes"] == 2
    assert together["gradients"].keys() == alone["gradients"].keys()
    assert_near(joined(together["gradients"]), joined(alone["gradients"]), COMPONENT)
    for ours, theirs in zip(together["average figures"], alone["figures"], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert_near(ours[name], value, RUN, name)
    assert_near(joined(together["average"]), joined(alone["average"]), RUN)
    # The state in the middle, whole although each process holds a part of it, leads to the same end.
    assert len(together["resumed figures"]) == 3
    assert joined(together["resumed"]).equal(joined(together["average"]))


@pytest.mark.parametrize("accumulate", [2, 4])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(alone, accumulate):
    parts = joint_training.gradients(Execution(accumulate=accumulate), Processes())
    assert_near(joined(parts), joined(alone["gradients"]), COMPONENT)


def test_every_image_is_some_processs_part_once():
    covered = [index for rank in range(3) for part in Processes(rank, 3).parts(24, 2) for index in range(24)[part]]
    assert covered == list(range(24))
    with pytest.raises(ConfigError, match=r"batch of 24 does not divide into 5 processes × 1 parts; .* multiple of 5"):
        Processes(0, 5).parts(24, 1)
    with pytest.raises(ConfigError, match="accumulate is 0"):
        Execution(accumulate=0)


def test_a_gpu_cannot_be_shared_by_processes_and_an_absent_one_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"'cuda:0' would be shared by 2 processes"), joined_processes("cuda:0"):
        pass
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("RANK")
    with pytest.raises(ConfigError, match="device 'tpu' cannot be used"), joined_processes("tpu"):
        pass
