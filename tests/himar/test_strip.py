"""`himar strip`: the weights of any checkpoint alone, without its code, or with it where a user says so."""

import logging
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from himar.cli.strip import strip
from himar_kernels import CheckpointError
from tests.himar.small_evaluation import one_error, run

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.bfloat16)}
CODE = """
import pathlib
class Settings:
    def __init__(self): self.rate = 1e-4
class Loud:
    def __init__(self, path): self.path = path
    def __reduce__(self): return touched, (self.path,)
def touched(path):
    pathlib.Path(path).touch()
    return Settings()
class Options(dict):
    pass
class Holder:
    def __init__(self, weights): self.weights = weights
"""


@pytest.fixture
def training(tmp_path, monkeypatch):
    """Someone's training code, which is not there any more when the checkpoint is read."""
    import importlib

    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "someones_training.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("someones_training")
    sys.modules.pop("someones_training", None)


def equal(path: Path, state=WEIGHTS) -> bool:
    found = load_file(path)
    same = found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    return same and all(found[name].dtype == state[name].dtype for name in state)


@pytest.mark.parametrize("kind", ["object", "call", "mapping", "all"])
def test_weights_are_kept_and_classes_read_as_records(tmp_path, training, capsys, kind):
    target, source, out = tmp_path / "touched", tmp_path / "m.pth", tmp_path / "out.safetensors"
    extra = {
        "object": training.Settings(),
        "call": training.Loud(str(target)),
        "mapping": training.Options(a=training.Settings()),
    }
    wrapped = {f"module.{name}": value for name, value in WEIGHTS.items()}
    torch.save({"model": wrapped, "x": extra if kind == "all" else extra[kind]}, source)
    assert run("strip", source, out) == 0
    assert "2 tensors, 0.0 M values from the entry model" in capsys.readouterr().out
    assert equal(out)
    assert not target.exists()


def test_a_whole_network_that_was_pickled_gives_its_state_dict(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sequential(torch.nn.BatchNorm1d(3)))
    network.register_buffer("left_out", torch.zeros(1), persistent=False)
    torch.save({"net": network, "epoch": 3}, tmp_path / "m.pth")
    strip(tmp_path / "m.pth", tmp_path / "out.safetensors")
    assert equal(tmp_path / "out.safetensors", network.state_dict())


def test_weights_inside_an_object_are_found(tmp_path, training):
    torch.save(training.Holder(WEIGHTS), tmp_path / "m.pth")
    assert strip(tmp_path / "m.pth", tmp_path / "out.safetensors").entry == "weights"
    assert equal(tmp_path / "out.safetensors")


def test_the_set_is_chosen_as_everywhere(tmp_path, caplog):
    caplog.set_level(logging.INFO, "himar.notices")
    source, out = tmp_path / "m.pth", tmp_path / "out.safetensors"
    torch.save({"model": {"a.b": torch.zeros(1, 1)}, "ema": WEIGHTS}, source)
    assert strip(source, out).entry == "ema"
    assert "took the weights ema, not model" in caplog.text
    assert equal(out)
    assert strip(source, out, "model").tensors == 1
    torch.save({"model": WEIGHTS, "figures": {"loss.mean": torch.tensor(0.3)}}, source)
    assert strip(source, out).entry == "model"
    with pytest.raises(CheckpointError, match="no entry 'net'"):
        strip(source, out, "net")


def test_wrong_usage(tmp_path, capsys):
    torch.save(WEIGHTS, tmp_path / "m.pth")
    assert run("strip", tmp_path / "m.pth", tmp_path / "out.pth") == 2
    assert "does not end in .safetensors" in capsys.readouterr().err
    assert run("strip", tmp_path / "m.pth", tmp_path / "out.safetensors", "--python", "python3") == 2
    assert "--python needs --allow-code" in capsys.readouterr().err
    assert run("strip", tmp_path / "m.pth", tmp_path / "out.safetensors") == 0
    before = (tmp_path / "out.safetensors").read_bytes()
    assert run("strip", tmp_path / "out.safetensors", tmp_path / "out.safetensors") == 1
    assert "is the checkpoint itself" in one_error(capsys)
    assert (tmp_path / "out.safetensors").read_bytes() == before
    assert run("strip", tmp_path / "none.pth", tmp_path / "new.safetensors") == 1
    assert "does not exist" in one_error(capsys)


def test_help_says_exactly_what_allowing_code_means(capsys):
    assert run("strip", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "This RUNS whatever code the file holds: it can read, change and send your files." in text


@pytest.mark.slow
def test_code_runs_only_when_allowed_and_in_another_process(tmp_path, capsys, monkeypatch):
    import pickle

    monkeypatch.setenv("SECRET_TOKEN", "x")
    seen, source, out = tmp_path / "seen", tmp_path / "m.pth", tmp_path / "out.safetensors"
    code = f"import os; open({str(seen)!r}, 'w').write(repr((os.getpid(), os.getcwd(), sorted(os.environ))))"
    # Protocol 4, which only real unpickling reads.
    torch.save({"model": WEIGHTS, "x": _Code(code)}, source, pickle_protocol=4, pickle_module=pickle)
    assert run("strip", source, out) == 1
    assert "pickle of protocol 4" in one_error(capsys)
    assert not seen.exists()
    assert not out.exists()
    assert run("strip", source, out, "--allow-code") == 0
    captured = capsys.readouterr()
    assert "running what" in captured.err
    assert "it has your rights" in captured.err
    assert equal(out)
    process, folder, environment = eval(seen.read_text())
    import os

    assert process != os.getpid()
    assert "himar-strip-" in folder
    assert not Path(folder).exists()
    assert "SECRET_TOKEN" not in environment
    assert "HOME" not in environment
    out.unlink()
    torch.save({"model": WEIGHTS, "x": _Code("raise ValueError('no')")}, source)
    assert run("strip", source, out, "--allow-code") == 1
    assert "could not be unpickled" in one_error(capsys)
    assert not out.exists()
    assert run("strip", source, out, "--allow-code", "--python", tmp_path / "no-python") == 1
    assert "give a Python with --python" in one_error(capsys)


class _Code:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)
