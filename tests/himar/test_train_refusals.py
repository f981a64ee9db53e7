"""himar train with input that cannot be trained on: one sentence, the right exit code, and nothing left behind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import himar.families.hi_mar.digits
from himar.cli import main
from himar.families.hi_mar.training_settings import TrainingSettings, paper_settings
from himar.folder_lock import folder_lock
from himar.training.processes import joined_processes
from himar.training.run import Outputs, run_training, train_model
from himar.training.settings import Execution
from himar_kernels import CheckpointError, ConfigError
from tests.himar import tiny_training as tiny


def refused(capsys, *arguments: str | Path, code: int) -> str:
    """Run `himar train` on the digits, which must be refused; return the sentence."""
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", "digits", "--data", "digits", "--steps", "1", *map(str, arguments)])
    text = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == code, text
    assert "unexpected" not in text
    return text


@pytest.fixture(autouse=True)
def no_training(monkeypatch):
    """A refusal that came too late would train the digits' VAE first."""

    def train_vae(*arguments):
        raise AssertionError("trained before the input was refused")

    monkeypatch.setattr(himar.families.hi_mar.digits, "train_vae", train_vae)


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--epochs", "inf", "not in the range"),
        ("--epochs", "nan", "'nan' is not a finite number"),
        ("--warmup-epochs", "nan", "not a finite number"),
        ("--lr", "nan", "not a finite number"),
        ("--lr", "0", "0.0 is not in the range x>0"),
        ("--ema", "1", "1.0 is not in the range 0<=x<1"),
        ("--weight-decay", "inf", "'inf' is not a finite number"),
        ("--clip", "inf", "'inf' is not a finite number"),
        ("--dropout", "1", "1.0 is not in the range"),
        ("--seed", "9" * 30, "is not in the range"),
        ("--threads", "99999999999", "is not in the range 1<=x<=1024"),
        ("--batch", "9" * 20, "is not in the range"),
        ("--device", "meta", "'meta' is not cpu, cuda or cuda:N"),
        ("--device", "mps", "'mps' is not cpu"),
        ("--device", "cuda:999999999999", "is not cpu, cuda or"),
        ("--variant", "cubist", "'cubist' is not one of 'single-scale'"),
        ("--config", "himar-xl", "'himar-xl' is neither a preset"),
        ("--warmup-steps", "5", "warmup is 5; it must be 0 to 1, the number of steps"),
        ("--accumulate", "3", "a batch of 64 does not divide into 1 processes × 3 parts"),
        ("--grid", "3", "--grid needs --tensorboard"),
    ],
)
def test_a_value_that_no_training_can_have_is_wrong_usage(capsys, tmp_path, option, value, text):
    steps = ["--steps", "1"] if option != "--epochs" else []
    assert text in refused(capsys, "--out", tmp_path / "o", *steps, option, value, code=2)
    assert not list(tmp_path.iterdir())


def test_an_option_that_this_model_or_data_would_ignore_is_wrong_usage(capsys, tmp_path):
    out = ("--out", tmp_path / "o")
    for option in ("--pivot-share", "--pivot-warmup"):
        text = refused(capsys, *out, "--variant", "single-scale", option, "1", code=2)
        assert f"{option} was given, but this model has a single scale and so no pivots." in text
    text = refused(capsys, *out, "--data", tmp_path, "--tensorboard", "--grid", "4", code=2)
    assert "--grid needs --vae" in text
    assert not list(tmp_path.iterdir())


def test_sharding_needs_processes(capsys, tmp_path):
    assert "fsdp shards over several processes, and there is one" in refused(
        capsys, "--out", tmp_path / "o", "--fsdp", code=2
    )
    with pytest.raises(ConfigError, match="start with torchrun"):
        train_model(tiny.model(), tiny.latents(), tiny.settings(2), 0, execution=Execution(fsdp=True))


@pytest.mark.parametrize("more", [[], ["--tensorboard"]])
def test_a_folder_that_cannot_be_written_to_is_noticed_before_training(capsys, tmp_path, more):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        message = refused(capsys, "--out", tmp_path / place, *more, code=1)
        assert f"{tmp_path / place} cannot be written: Not a directory; choose a path below a folder" in message
    (tmp_path / "o" / "digits.safetensors").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"digits\.safetensors cannot be written: Is a directory"):
        run_training(tiny.TINY, tiny.latents(), tiny.settings(2), 0, Outputs(tmp_path / "o", "digits.safetensors"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "tensorboard").write_text("a file")
    with pytest.raises(ConfigError, match="tensorboard cannot be written: Not a directory"):
        run_training(tiny.TINY, tiny.latents(), tiny.settings(2), 0, Outputs(tmp_path / "b", board=True))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["b", "digits.safetensors", "file", "o", "tensorboard"]


def test_a_refused_training_leaves_no_board(tmp_path):
    outputs = Outputs(tmp_path / "o", board=True)
    wrong = replace(tiny.latents(), labels=tiny.latents().labels + 90)
    with pytest.raises(ValueError, match="labels run from 90"):
        run_training(tiny.TINY, wrong, tiny.settings(2), 0, outputs)
    with pytest.raises(ConfigError, match="does not divide"):
        run_training(tiny.TINY, tiny.latents(), tiny.settings(2), 0, outputs, execution=Execution(accumulate=3))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1'"),
        ({"WORLD_SIZE": "9" * 30}, "WORLD_SIZE is '999"),
        ({"WORLD_SIZE": "2"}, "RANK is ''"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is '2', where 0 to 1 makes sense"),
        ({"WORLD_SIZE": "2", "RANK": "1.0"}, "RANK is '1.0'"),
        ({"WORLD_SIZE": "1", "RANK": "3"}, "RANK is '3', where 0 to 0 makes sense"),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "x"}, "LOCAL_RANK is 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "the 2 processes that WORLD_SIZE names cannot be joined"),
    ],
)
def test_odd_variables_of_torchrun_are_named(monkeypatch, variables, name):
    for variable in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    device = "cuda" if "LOCAL_RANK" in variables else "cpu"
    with pytest.raises(ConfigError) as error, joined_processes(device):
        pass
    assert name in str(error.value)
    assert "torchrun" in str(error.value)


def test_settings_and_seeds_that_are_not_finite_are_refused_from_python_too():
    with pytest.raises(ConfigError, match="weight_decay is inf; it must be a finite number"):
        TrainingSettings(schedule=tiny.SETTINGS.schedule, batch=1, weight_decay=float("inf"))
    with pytest.raises(ConfigError, match="clip is inf; it must be a finite number"):
        TrainingSettings(schedule=tiny.SETTINGS.schedule, batch=1, clip=float("inf"))
    with pytest.raises(ConfigError, match="for inf epochs"):
        paper_settings(1000, 10, epochs=float("inf"))
    for seed in (-1, 2**63):
        with pytest.raises(ConfigError, match=f"seed is {seed}"):
            train_model(tiny.model(), tiny.latents(), tiny.settings(2), seed)


def test_a_configuration_that_cannot_be_read_is_one_sentence(capsys, tmp_path):
    path = tmp_path / "c.json"
    for content in (b"", b"\xff\xfe", b"[" * 100_000, b"[]", json.dumps({"width": float("nan")}).encode()):
        path.write_bytes(content)
        assert str(path) in refused(capsys, "--config", path, "--out", tmp_path / "o", code=1)
    assert [each.name for each in tmp_path.iterdir()] == ["c.json"]


def test_a_second_run_into_the_folder_is_refused_while_the_first_lives(tmp_path):
    with folder_lock(tmp_path / "o", CheckpointError):
        before = [path.name for path in (tmp_path / "o").iterdir()]
        with pytest.raises(CheckpointError, match=r"is writing to .*o; wait until it has ended"):
            run_training(tiny.TINY, tiny.latents(), tiny.settings(2), 0, Outputs(tmp_path / "o"))
        assert [path.name for path in (tmp_path / "o").iterdir()] == before
