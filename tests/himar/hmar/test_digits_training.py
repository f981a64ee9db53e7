"""Training HMAR on the digits: one command, three stages, stopped anywhere and resumed to the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from himar.cli import main
from himar.data.digits import Digits, load_digits_split
from himar.families.hmar import digits
from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.config import read_config, resolve
from himar.families.hmar.digits import MODEL_FILE, NEXT_SCALE_FOLDER, VAE_FILE, Recipe, digit_codes, train_digits
from himar.families.hmar.tokenizer.files import load_tokenizer
from himar.training.family import Request
from himar.training.optimise import OnStep, Progress
from himar.training.processes import Processes
from himar.training.settings import Execution
from himar_kernels import CheckpointError, ConfigError
from tests.closeness import assert_near

CONFIG = resolve(read_config("hmar-digits"), {})


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    """Sixteen digits, and a tokenizer that is trained for two steps."""
    train, held_out = load_digits_split()
    few = Digits(train.images[:16], train.labels[:16])
    monkeypatch.setattr(digits, "load_digits_split", lambda: (few, held_out))
    short = replace(digits.DIGITS_TOKENIZER, schedule=replace(digits.DIGITS_TOKENIZER.schedule, steps=2, warmup=0))
    monkeypatch.setattr(digits, "DIGITS_TOKENIZER", replace(short, batch=4))


def recipe() -> Recipe:
    short = {
        phase: replace(settings, schedule=replace(settings.schedule, steps=3, warmup=1), batch=4, snapshot_every=1)
        for phase, settings in digits.DIGITS_PHASES.items()
    }
    return Recipe(short["next-scale"], short["masked"])


def request(out: Path, on_stage: Callable[[str], OnStep | None] = lambda stage: None, resume: bool = False) -> Request:
    return Request(out, 0, Execution(), Processes(), resume, False, False, 0, False, on_stage, None)


@pytest.fixture
def whole(tmp_path) -> Path:
    """The folder of a run that nothing stopped."""
    train_digits(CONFIG, recipe(), request(tmp_path / "whole"))
    return tmp_path / "whole"


def test_the_command_leaves_a_tokenizer_and_a_model_that_fit(tmp_path, capsys):
    out = tmp_path / "out"
    few = ("--steps", "1", "--batch", "4")
    command = ["train", "--config", "hmar-digits", "--data", "digits", *few, "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0, capsys.readouterr().err
    assert f"digits: wrote {out / MODEL_FILE}" in " ".join(capsys.readouterr().out.split())
    model = load_checkpoint(out / MODEL_FILE)
    assert model.config == CONFIG
    assert model.config.sampling["refined"].masks
    assert load_tokenizer(out / VAE_FILE, model.config).stride == 4
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    assert "holds a training; resume it, or train into another folder" in " ".join(capsys.readouterr().err.split())


def test_each_phase_has_its_board_and_released_layout_and_may_start_from_weights(tmp_path, whole, capsys):
    out, start = tmp_path / "out", str(whole / MODEL_FILE)
    outputs = ("--tensorboard", "--grid", "2", "--released-layout", "--start-from", start)
    few = ("--steps", "1", "--batch", "4", "--lr", "1e-9")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", "hmar-digits", "--data", "digits", *few, *outputs, "--out", str(out)])
    assert ended.value.code == 0, capsys.readouterr().err
    for folder in (out, out / NEXT_SCALE_FOLDER):
        assert (folder / "checkpoint-last.pth").stat().st_size > 0
        assert list((folder / "tensorboard").glob("events*"))
    # At a rate of nothing the next-scale network stays what it started from.
    begun, ended_as = load_checkpoint(start), load_checkpoint(out / MODEL_FILE)
    assert_near(ended_as.ns_head.weight, begun.ns_head.weight, 1e-3)


def test_the_masked_network_learns_over_the_next_scale_network_which_stays(whole):
    model, before = (
        load_checkpoint(whole / MODEL_FILE),
        load_checkpoint(whole / NEXT_SCALE_FOLDER / "model.safetensors"),
    )
    assert not before.config.masked
    for name, tensor in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.half().float()), name
    assert not torch.equal(model.mask_head.weight, model.ns_head.weight)
    assert model.mask_embed.weight.abs().sum() > 0


@pytest.mark.parametrize("stage", ["next-scale", "masked"])
def test_a_run_stopped_in_either_phase_is_resumed_to_the_same_weights(tmp_path, whole, stage):
    def stop(state: Progress) -> None:
        if state.step == 2:
            raise KeyboardInterrupt

    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train_digits(CONFIG, recipe(), request(out, lambda name: stop if name == stage else None))
    steps: dict[str, int] = {}

    def count(name: str) -> OnStep:
        steps[name] = 0
        return lambda state: steps.update({name: steps[name] + 1})

    train_digits(CONFIG, recipe(), request(out, count, resume=True))
    # A tokenizer that is there is not trained again; each phase goes on from its last snapshot.
    assert steps == {"next-scale": 2 if stage == "next-scale" else 0, "masked": 3 if stage == "next-scale" else 2}
    for name in (VAE_FILE, MODEL_FILE):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def test_codes_of_shifted_copies_are_drawn_at_random(whole):
    tokenizer = load_tokenizer(whole / VAE_FILE, CONFIG)
    few, _ = digits.load_digits_split()
    codes = digit_codes(tokenizer, CONFIG.scales, few)
    assert codes.codes.shape == (16, 9, CONFIG.scales.tokens)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.zeros(200, dtype=torch.int64)
    drawn, labels = codes.draw(chosen, [slice(0, 200)], generator)
    assert labels.tolist() == [few.labels[0]] * 200
    copies = {tuple(copy) for copy in codes.codes[0].tolist()}
    assert {tuple(each) for each in drawn.tolist()} == copies
    middle = tokenizer.encode(few.images[:1], CONFIG.scales)[0]
    assert codes.codes[0, 4].tolist() == middle.tolist()


def test_what_cannot_be_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, "train_tokenizer", lambda *arguments: pytest.fail("the refusal came too late"))
    with pytest.raises(
        ConfigError, match=r"patch_nums is \[1, 2, 8\], but the digits' tokenizer has \[1, 2, 3, 5, 8\]"
    ):
        train_digits(replace(CONFIG, patch_nums=(1, 2, 8)), recipe(), request(tmp_path))
    with pytest.raises(ConfigError, match="its codes are 256, but the model asks for 512"):
        train_digits(replace(CONFIG, vocab=512), recipe(), request(tmp_path))
    with pytest.raises(ConfigError, match="classes is 9, but there are 10 digits; set it to 10"):
        train_digits(replace(CONFIG, classes=9), recipe(), request(tmp_path))
    (tmp_path / NEXT_SCALE_FOLDER).mkdir()
    (tmp_path / NEXT_SCALE_FOLDER / "training-state.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"next-scale.training-state\.safetensors holds a training; resume it"):
        train_digits(CONFIG, recipe(), request(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", "hmar-digits", "--data", "digits", "--phase", "masked", "--out", str(tmp_path)])
    assert ended.value.code == 2
    assert "--data digits trains both phases; leave --phase out" in " ".join(capsys.readouterr().err.split())
