"""A training that goes on from a checkpoint's weights."""

import json

import pytest
import torch

from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.model import randomise
from himar.training.family import Start
from himar.training.optimise import Schedule
from himar.training.run import Outputs, run_training
from himar.training.state import STATE_FILE
from himar_kernels import ConfigError
from tests.himar import tiny_training as tiny
from tests.himar.small_evaluation import one_error, run


def begun(seed: int) -> Start:
    return Start(randomise(tiny.HiMAR(tiny.TINY), seed).requires_grad_(False), f"weights {seed}")


def test_the_first_step_begins_at_the_weights_that_were_given(tmp_path):
    start = begun(4)
    settings = tiny.settings(schedule=Schedule(steps=1, peak=1e-4, warmup=0))
    written = run_training(tiny.TINY, tiny.latents(), settings, 0, Outputs(tmp_path / "a"), start=start)
    near = load_checkpoint(written, tiny.TINY).state_dict()
    far = load_checkpoint(run_training(tiny.TINY, tiny.latents(), settings, 0, Outputs(tmp_path / "b"))).state_dict()
    for name, value in start.model.state_dict().items():
        assert (near[name] - value).abs().max() <= 10 * settings.schedule.peak, name
    moved = (far["mask_token"] - start.model.state_dict()["mask_token"]).abs().max()
    assert moved > 10 * settings.schedule.peak


def test_a_resumed_training_must_have_begun_with_the_same_weights(tmp_path):
    outputs, settings = Outputs(tmp_path), tiny.settings(2, snapshot_every=1)
    whole = run_training(tiny.TINY, tiny.latents(), settings, 0, outputs, start=begun(4)).read_bytes()
    assert (tmp_path / STATE_FILE).exists()
    again = run_training(tiny.TINY, tiny.latents(), settings, 0, outputs, start=begun(4), resume=True)
    assert again.read_bytes() == whole
    for other in (begun(5), None):
        with pytest.raises(ConfigError, match="start was 'weights 4' when this training began"):
            run_training(tiny.TINY, tiny.latents(), settings, 0, outputs, start=other, resume=True)


def test_the_command_takes_a_checkpoint_and_one_of_its_sets(tmp_path, capsys):
    sizes = {name: value for name, value in tiny.TINY.to_dict().items() if name != "sampling"}
    (tmp_path / "tiny.json").write_text(json.dumps(sizes))
    state = dict(begun(4).model.state_dict())
    torch.save({"a": state, "b": {**state, "mask_token": state["mask_token"] + 1}}, tmp_path / "m.pth")
    common = ("train", "--config", tmp_path / "tiny.json", "--data", tmp_path, "--out", tmp_path / "out")
    assert run(*common, "--weights", "a") == 2
    assert "--weights needs --start-from" in capsys.readouterr().err
    assert run(*common, "--start-from", tmp_path / "m.pth") == 1
    assert "holds 2 sets of weights, a and b; choose one with --weights NAME" in one_error(capsys)
    (tmp_path / "tiny.json").write_text(json.dumps({**sizes, "width": 64}))
    assert run(*common, "--start-from", tmp_path / "m.pth", "--weights", "a") == 1
    assert "width = 64, but the checkpoint's shapes say 32" in one_error(capsys)
    assert not (tmp_path / "out").exists()
