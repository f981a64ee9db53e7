"""A training that is stopped, resumed or killed: nothing is lost, nothing differs, and another run is refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from himar.data.latents import LatentSet
from himar.families.hi_mar.loss_draws import LossSettings
from himar.loading.files import CheckpointError, read_state, write_safetensors
from himar.training.optimise import TrainingError
from himar.training.run import train_model
from himar.training.state import STATE_FILE, load_state
from himar_kernels import ConfigError
from tests.himar import tiny_training as tiny


class StopHereError(Exception):
    pass


def train(state: Path | None, *, stop_at: int | None = None, resume: bool = False, seed: int = 3, **changes):
    """Return the losses by step and the averaged weights; `stop_at` ends the training in that step."""
    figures = {}

    def on_step(progress):
        figures[progress.step] = dict(progress.figures)
        if progress.step == stop_at:
            raise StopHereError

    latents = changes.pop("latents", tiny.latents())
    arguments = (tiny.model(), latents, tiny.settings(**changes), seed, on_step)
    try:
        averaged = train_model(*arguments, state=state, resume=resume)
    except StopHereError:
        return figures, None
    return figures, averaged.state_dict()


@pytest.mark.parametrize("changes", [{}, {"order": "epochs"}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(tmp_path, changes):
    whole_figures, whole = train(None, **changes)
    state = tmp_path / STATE_FILE
    train(state, stop_at=8, **changes)  # The last snapshot is of step 5.
    torch.rand(3)
    figures, resumed = train(state, resume=True, **changes)
    assert sorted(figures) == list(range(6, 13))
    assert figures == {step: whole_figures[step] for step in figures}
    assert all(value.equal(resumed[name]) for name, value in whole.items())


def test_a_finished_run_resumes_to_its_result(tmp_path):
    state = tmp_path / STATE_FILE
    _, first = train(state)
    figures, again = train(state, resume=True)
    assert figures == {}
    assert all(value.equal(again[name]) for name, value in first.items())


def test_resume_begins_where_there_is_no_state_and_a_state_is_not_overwritten_without_it(tmp_path):
    state = tmp_path / STATE_FILE
    figures, _ = train(state, resume=True)
    assert min(figures) == 1
    before = state.read_bytes()
    with pytest.raises(CheckpointError, match="holds a training; resume it"):
        train(state)
    assert state.read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch": 4}, r"settings\.batch was 8 when this training began and is 4 now"),
        ({"ema": 0.9001}, r"settings\.ema was 0\.9 .* 0\.9001 now"),
        ({"steps": 13}, r"settings\.schedule\.steps was 12 .* 13 now"),
        ({"loss": LossSettings(pivot_share=0.5)}, r"settings\.loss\.pivot_share was 0\.25 .* 0\.5 now"),
        ({"precision": "bf16"}, r"settings\.precision was 'fp32' .* 'bf16' now"),
        ({"seed": 4}, r"seed was 3 .* 4 now"),
        ({"latents": tiny.latents(23)}, r"data\.images was 24 .* 23 now"),
    ],
)
def test_a_changed_run_is_refused_with_the_key_and_both_values(tmp_path, changes, text):
    state = tmp_path / STATE_FILE
    train(state, stop_at=6)
    with pytest.raises(ConfigError, match=text):
        train(state, resume=True, **changes)


def test_changed_data_of_the_same_size_and_a_changed_model_are_refused(tmp_path):
    state = tmp_path / STATE_FILE
    train(state, stop_at=6)
    good = tiny.latents()
    moved = LatentSet(good.high + 0.1, good.low, good.labels)
    with pytest.raises(ConfigError, match=r"data\.token_means"):
        train(state, resume=True, latents=moved)
    rounded = LatentSet(good.high + 1e-6, good.low, good.labels)
    train(state, resume=True, latents=rounded)
    other = replace(tiny.TINY, dit_heads=1)
    with pytest.raises(ConfigError, match=r"config\.dit_heads was 2 .* 1 now"):
        train_model(tiny.HiMAR(other, 0.1), good, tiny.settings(), 3, state=state, resume=True)


def test_snapshots_may_be_spaced_differently_after_a_resume(tmp_path):
    state = tmp_path / STATE_FILE
    _, whole = train(None)
    train(state, stop_at=6)
    _, resumed = train(state, resume=True, snapshot_every=2)
    assert all(value.equal(resumed[name]) for name, value in whole.items())


def test_a_loss_that_breaks_leaves_the_last_good_state(tmp_path):
    state = tmp_path / STATE_FILE
    latents = tiny.latents()

    def poison(progress):
        if progress.step == 7:
            latents.high[:] = float("nan")

    with pytest.raises(TrainingError, match="step 8 is nan"):
        train_model(tiny.model(), latents, tiny.settings(), 3, poison, state=state)
    figures, _ = train(state, resume=True)
    assert min(figures) == 6


def test_other_files_are_no_training_state(tmp_path):
    path = tmp_path / STATE_FILE
    write_safetensors(path, {"x": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="not a training state"):
        load_state(path, {})
    write_safetensors(
        path,
        {"x": torch.zeros(1)},
        {"himar_training": json.dumps({"format": 2, "step": 1, "run": {}, "scaler": {}, "updates": 1})},
    )
    with pytest.raises(CheckpointError, match="format 2 and this version reads 1"):
        load_state(path, {})
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(CheckpointError, match="damaged"):
        load_state(path, {})


def broken(how: str, tensors: dict[str, torch.Tensor], values: dict) -> None:
    """Change a state as damage or a wrong hand would."""
    weight, moment = "model.z_proj.weight", "exp_avg.z_proj.weight"
    match how:
        case "shape":  # PyTorch would repeat it to fit, without a word.
            tensors[weight] = tensors[weight][:1].clone()
        case "type":
            tensors[weight] = tensors[weight].double()
        case "missing":
            del tensors["average.z_proj.weight"]
        case "unknown":
            tensors["model.more"] = torch.zeros(1)
        case "one moment":
            del tensors[moment]
        case "no moments":
            for name in [name for name in tensors if name.startswith("exp_avg")]:
                del tensors[name]
        case "generator":
            tensors["generator"] = tensors["generator"][:100].clone()
        case "beyond the end":
            values["step"] = 13
        case "before the beginning":
            values["step"] = values["updates"] = -1
        case "more updates than steps":
            values["updates"] = values["step"] + 1
        case "a step in words":
            values["step"] = "five"
        case "no settings":
            values["run"] = []
        case "loss scale":
            values["scaler"] = {"scale": "large"}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The state of a training that was stopped after its first snapshot, at step 5 of 12."""
    state = tmp_path_factory.mktemp("stopped") / STATE_FILE
    train(state, stop_at=6)
    return state


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("shape", r"model\.z_proj\.weight is torch\.float32 \(1, 4\), where this training has .*\(32, 4\)"),
        ("type", r"model\.z_proj\.weight is torch\.float64"),
        ("missing", r"it lacks average\.z_proj\.weight"),
        ("unknown", r"it has an unknown model\.more"),
        ("one moment", r"it lacks exp_avg\.z_proj\.weight"),
        ("no moments", "it has no moments of the optimiser"),
        ("generator", r"generator is torch\.uint8 \(100,\)"),
        ("beyond the end", "13 steps with 5 updates, of 12 steps in all"),
        ("before the beginning", "-1 steps with -1 updates"),
        ("more updates than steps", "5 steps with 6 updates"),
        ("a step in words", "its step is 'five'"),
        ("no settings", r"its run is \[\]"),
        ("loss scale", "its loss scale is {'scale': 'large'}"),
    ],
)
def test_a_damaged_state_is_refused_with_what_is_wrong(stopped, tmp_path, how, text):
    tensors, metadata = read_state(stopped, key=None)
    values = json.loads(metadata["himar_training"])
    broken(how, tensors, values)
    state = tmp_path / STATE_FILE
    write_safetensors(state, tensors, {"himar_training": json.dumps(values)})
    before = state.read_bytes()
    with pytest.raises(CheckpointError, match=rf"{STATE_FILE} is damaged: .*{text}.*; train anew in another folder"):
        train(state, resume=True)
    assert state.read_bytes() == before


def test_a_state_cut_short_anywhere_is_refused(stopped, tmp_path):
    whole = stopped.read_bytes()
    state = tmp_path / STATE_FILE
    for length in (0, 7, 1000, len(whole) // 2, len(whole) - 1):
        state.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="is damaged or cut short"):
            train(state, resume=True)


def test_means_that_are_no_numbers_are_another_run(stopped, tmp_path):
    tensors, metadata = read_state(stopped, key=None)
    values = json.loads(metadata["himar_training"])
    values["run"]["data"]["token_means"][0] = "one"
    write_safetensors(tmp_path / STATE_FILE, tensors, {"himar_training": json.dumps(values)})
    with pytest.raises(ConfigError, match=r"data\.token_means was \['one'"):
        train(tmp_path / STATE_FILE, resume=True)


@pytest.mark.slow
def test_a_training_killed_at_any_moment_leaves_files_that_load_and_resumes_exactly(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.himar.killed_training", tmp_path / "run", "20"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["steps"] == sorted(found["steps"])
    assert len(found["steps"]) == 20
    assert found["left_overs"] > 0  # Some kills came while a file was being written.
    assert found["hidden"] == []
    assert found["different"] == []
