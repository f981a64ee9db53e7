"""A file that is not a checkpoint, or is damaged, ends in one sentence everywhere; nothing in a file ever runs."""

import warnings
from pathlib import Path

import pytest
import torch

from himar.cli.strip import strip
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.model import HiMAR, randomise
from himar.vae.layouts import load_vae
from himar_kernels import HimarError
from tests.himar import foreign_checkpoints, small_evaluation

TARGET = Path("canary-was-here")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, tuple[Path, str]]:
    """Every file by its name, with what its refusal must say."""
    folder = tmp_path_factory.mktemp("foreign")
    state = randomise(HiMAR(resolve(read_config(small_evaluation.TINY), {}, "tiny")), 0).state_dict()
    made = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, data, said in foreign_checkpoints.foreign_files(dict(state), folder / TARGET):
            assert name not in made
            (folder / name).write_bytes(data)
            made[name] = folder / name, said
    return made


def sentence(caught: pytest.ExceptionInfo[HimarError], path: Path) -> str:
    text = str(caught.value)
    assert path.name in text, text
    assert "\n" not in text, text
    assert len(text) < 900, text
    assert text.endswith("."), text
    return text


def test_there_are_more_than_two_hundred(files):
    assert len(files) >= 200


def test_as_a_model_each_is_refused_in_a_sentence(files):
    for name, (path, said) in files.items():
        with pytest.raises(HimarError) as caught:
            load_checkpoint(path, small_evaluation.TINY)
        assert said in sentence(caught, path), name
        assert not (path.parent / TARGET).exists(), name


def test_as_a_vae_each_is_refused_in_a_sentence(files):
    for name, (path, _) in files.items():
        with pytest.raises(HimarError) as caught:
            load_vae(path)
        sentence(caught, path)
        assert not (path.parent / TARGET).exists(), name


def test_stripping_runs_nothing_and_leaves_nothing_half_written(files, tmp_path):
    out = tmp_path / "out.safetensors"
    for name, (path, _) in files.items():
        try:
            strip(path, out)
        except HimarError as error:
            assert "\n" not in str(error), name
            assert not out.exists(), name
        else:
            load_checkpoint_or_none(out)
            out.unlink()
        assert list(tmp_path.iterdir()) == [], name
        assert not (path.parent / TARGET).exists(), name


def load_checkpoint_or_none(path: Path) -> HiMAR | None:
    """What strip wrote is at least a file of tensors; of which network is not its question."""
    from safetensors.torch import load_file

    assert all(isinstance(value, torch.Tensor) for value in load_file(path).values())
    return None
