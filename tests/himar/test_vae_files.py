"""Checkpoint files: what cannot be read is refused in one sentence, and nothing in them ever runs."""

import argparse
import pickle
from pathlib import Path

import pytest
import torch

import himar.loading.files
from himar.loading.files import read_state, write_safetensors
from himar.vae.layouts import load_vae
from himar_kernels import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden"


def refusal(path: Path, key: str | None = "model") -> str:
    with pytest.raises(CheckpointError) as caught:
        read_state(path, key=key)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def test_a_training_checkpoint_with_its_arguments_is_read(tmp_path):
    path = tmp_path / "checkpoint.pth"
    weights = {"w": torch.arange(3.0)}
    torch.save({"model": weights, "args": argparse.Namespace(lr=1e-4), "epoch": 3}, path)
    state, metadata = read_state(path, key="model")
    assert state["w"].tolist() == [0, 1, 2]
    assert metadata == {}


class Runs:
    """Unpickling this would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", ["torch", "pickle"])
def test_code_in_a_checkpoint_is_never_run(tmp_path, save):
    path, target = tmp_path / "evil.ckpt", tmp_path / "ran"
    content = {"model": {"w": torch.zeros(1)}, "extra": Runs(target)}
    if save == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    refusal(path)
    assert not target.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_cut_torch_file_is_refused(tmp_path, share):
    whole = (GOLDEN / "vae-narrow.ckpt").read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_cut_safetensors_file_is_refused(tmp_path, kept):
    path = tmp_path / "cut.safetensors"
    write_safetensors(path, {"w": torch.zeros(100)}, {})
    path.write_bytes(path.read_bytes()[:kept])
    assert "damaged" in refusal(path)


def test_other_files_and_contents_are_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "absent.pth")
    assert "not a file" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    assert ".safetensors" in refusal(tmp_path / "notes.txt")
    text = tmp_path / "text.pth"
    text.write_text("hello")
    assert "damaged" in refusal(text)
    path = tmp_path / "other.pth"
    torch.save({"weights": {"w": torch.zeros(1)}, "step": 2}, path)
    assert "it holds step, weights" in refusal(path)
    assert "not a tensor" in refusal(path, key=None)
    torch.save([torch.zeros(1)], path)
    assert "no entry 'model'" in refusal(path)
    torch.save({"model": {}}, path)
    assert "no state dict" in refusal(path)


def test_a_vae_that_is_given_as_a_folder_or_missing_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist or is not a file"):
        load_vae(tmp_path / "kl16.ckpt")


def test_metadata_and_shared_tensors_survive_writing(tmp_path):
    path = tmp_path / "w.safetensors"
    whole = torch.arange(6.0)
    write_safetensors(path, {"first": whole[:3], "turned": whole.reshape(2, 3).T}, {"note": "hello"})
    state, metadata = read_state(path, key=None)
    assert state["first"].tolist() == [0, 1, 2]
    assert state["turned"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert metadata == {"note": "hello"}


def test_an_interrupted_write_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    write_safetensors(path, {"w": torch.zeros(2)}, {})
    before = path.read_bytes()

    def interrupted(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(himar.loading.files, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(path, {"w": torch.ones(2)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_safetensors(tmp_path / "file" / "w.safetensors", {"w": torch.zeros(2)}, {})
