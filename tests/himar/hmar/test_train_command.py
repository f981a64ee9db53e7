"""`himar train` for HMAR: both phases one after the other, its files, and options that belong to another family."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.tokenizer.files import save_tokenizer
from himar.families.hmar.training_settings import TrainingSettings, changed_settings, released_settings
from himar.training.family import trained_families
from himar.training.optimise import LossScale
from himar_kernels import ConfigError
from tests.himar.small_cache import NARROW, run, write_images

from . import tiny_training as tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Images, a tokenizer and a configuration."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "images").mkdir()
    write_images(folder / "images")
    (folder / "images" / "dog" / "05.png").unlink()
    save_tokenizer(tiny.tokenizer(), folder / "tokenizer.safetensors")
    (folder / "tiny.json").write_text(json.dumps(tiny.SIZES))
    return folder


def train(files: Path, out: Path, *more) -> int:
    common = ("train", "--config", files / "tiny.json", "--data", files / "images", "--batch", "4", "--steps", "4")
    vae = () if "--vae" in more else ("--vae", files / "tokenizer.safetensors")
    return run(*common, *vae, "--snapshot-every", "2", "--lr", "1e-2", "--out", out, *more)


def test_both_phases_from_images_and_the_second_leaves_the_firsts_weights(files, tmp_path, capsys):
    assert train(files, tmp_path / "ns", "--tensorboard", "--grid", "3", "--released-layout", "--keep-snapshots") == 0
    assert f"{files / 'images'}: wrote {tmp_path / 'ns' / 'model.safetensors'}" in capsys.readouterr().out
    first = load_checkpoint(tmp_path / "ns" / "model.safetensors")
    assert (first.config.masked, first.class_names) == (False, ("cat", "dog", "", ""))
    assert {"model-000002.safetensors", "checkpoint-last.pth"} <= {path.name for path in (tmp_path / "ns").iterdir()}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "ns" / "tensorboard")).Reload()
    assert {"loss", "accuracy", "rate", "weight/decay"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples")] == [2, 4]
    begun = ("--phase", "masked", "--start-from", tmp_path / "ns" / "model.safetensors", "--precision", "fp16")
    assert train(files, tmp_path / "masked", *begun) == 0
    both = load_checkpoint(tmp_path / "masked" / "model.safetensors")
    assert both.config.masked
    assert both.config.default_sampling.schedule == ((1,), (1, 3))
    found = both.state_dict()
    assert all(value.equal(found[name]) for name, value in first.state_dict().items())
    again = ("--phase", "masked", "--start-from", tmp_path / "ns" / "checkpoint-last.pth")
    assert train(files, tmp_path / "released", *again) == 0


def refused(capsys, code: int, files: Path, out: Path, *more) -> str:
    assert train(files, out, *more) == code
    assert not out.exists()
    return " ".join(capsys.readouterr().err.split())


def test_options_of_another_family_or_phase_are_wrong_usage(files, tmp_path, capsys):
    out = tmp_path / "o"
    values = {"variant": "visual", "ema": "0.9", "dropout": "0.1", "pivot_share": "0.5", "pivot_warmup": "3"}
    families = trained_families()
    assert values.keys() == families["hi_mar"].options
    for option, value in values.items():
        spelled = "--" + option.replace("_", "-")
        text = refused(capsys, 2, files, out, spelled, value)
        assert f"{spelled} is an option of Hi-MAR, but {files / 'tiny.json'} is a model of HMAR; leave it out." in text
    values = {
        "phase": "masked", "weighting": "plain", "label_drop": "0.2", "depth_drop": "0.1", "lr_end": "0.2",
        "weight_decay_end": "0.1", "gate_init": "0.1",
    }  # fmt: skip
    assert values.keys() == families["hmar"].options
    for option, value in values.items():
        spelled = "--" + option.replace("_", "-")
        text = refused(capsys, 2, files, out, "--config", "digits", spelled, value)
        assert f"{spelled} is an option of HMAR, but digits is a model of Hi-MAR; leave it out." in text
    text = refused(capsys, 2, files, out, "--phase", "masked", "--weighting", "plain")
    assert "--weighting is of the next-scale phase: the masked loss weighs every masked cell alike" in text
    text = refused(capsys, 2, files, out, "--phase", "masked", "--gate-init", "1")
    assert "--gate-init is of the next-scale phase: the masked network begins as a copy" in text
    text = refused(capsys, 2, files, out, "--warmup-steps", "4")
    assert "warmup is 4 of 4 iterations; it must be shorter than the run" in text


def test_what_does_not_go_together_is_refused_before_anything_is_written(files, tmp_path, capsys):
    out = tmp_path / "o"
    text = refused(capsys, 1, files, out, "--phase", "masked")
    assert "trains over a finished next-scale network; name its weights with --start-from" in text
    text = refused(capsys, 1, files, out, "--vae", NARROW)
    assert "vae-narrow.ckpt" in text and "quantize.embedding.weight" in text
    wider = tmp_path / "wider.json"
    wider.write_text(json.dumps({**tiny.SIZES, "vocab": 64}))
    text = refused(capsys, 1, files, out, "--config", wider)
    assert "tokenizer.safetensors is not the model's tokenizer: its codes are 32, but the model asks for 64" in text
    torch.save(tiny.start().model.state_dict(), tmp_path / "start.pth")
    wider.write_text(json.dumps({**tiny.SIZES, "width": 32}))
    text = refused(capsys, 1, files, out, "--config", wider, "--start-from", tmp_path / "start.pth")
    assert "says width = 32, but the checkpoint says 16" in text


NOTHING = dict.fromkeys(
    ("steps", "epochs", "warmup_steps", "warmup_epochs", "batch", "rate", "weight_decay", "weight_decay_end", "lr_end",
     "label_drop", "depth_drop", "weighting", "gate_init", "clip", "snapshot_every", "precision")
)  # fmt: skip


@pytest.mark.parametrize(
    ("depth", "phase", "epochs", "batch", "peak", "end", "decay_end", "gate"),
    [
        (16, "next-scale", 200, 768, 3e-4, 0.1, 0.05, 1e-3),
        (20, "next-scale", 250, 768, 3e-4, 0.1, 0.05, 1e-3),
        (24, "next-scale", 350, 768, 2.4e-4, 0.01, 0.05, 1e-4),
        (30, "next-scale", 350, 1024, 3.2e-4, 0.01, 0.08, 1e-5),
        (30, "masked", 100, 1024, 3.2e-4, 0.01, 0.08, 1e-5),
        (8, "next-scale", 200, 768, 3e-4, 0.1, 0.05, 1e-3),
    ],
)
def test_the_released_recipes(depth, phase, epochs, batch, peak, end, decay_end, gate):
    settings = released_settings(depth, phase, 1_281_167)
    schedule = settings.schedule
    assert (schedule.steps, settings.batch) == (round(epochs * 1_281_167 / batch), batch)
    assert schedule.warmup == schedule.steps // 50
    assert schedule.peak == pytest.approx(peak)
    assert (schedule.end, schedule.decay, schedule.decay_end, settings.gate) == (end, 0.05, decay_end, gate)
    assert (settings.clip, settings.weighting, settings.loss.label_drop) == (2.0, "lognorm", 0.1)
    assert changed_settings(settings, 1_281_167, NOTHING) == settings


def test_options_change_the_recipe():
    base = released_settings(30, "next-scale", 1000, 10)
    changed = changed_settings(
        base, 1000, {**NOTHING, "epochs": 5, "weight_decay": 0.1, "depth_drop": 0.2, "clip": 1.0}
    )
    schedule = changed.schedule
    assert (schedule.steps, schedule.warmup, schedule.decay, schedule.decay_end) == (500, 10, 0.1, 0.1)
    assert (changed.loss.depth_drop, changed.loss.label_drop, changed.clip) == (0.2, 0.1, 1.0)
    changed = changed_settings(base, 1000, {**NOTHING, "steps": 20, "warmup_steps": 7, "rate": 0.5, "lr_end": 0.3})
    assert (changed.schedule.steps, changed.schedule.warmup) == (20, 7)
    assert (changed.schedule.peak, changed.schedule.end, changed.schedule.decay_end) == (0.5, 0.3, 0.08)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"phase": "both"}, "phase is 'both'; it must be one of next-scale, masked"),
        ({"weighting": "log"}, "weighting is 'log'; it must be one of"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"clip": 0.0}, "clip is 0.0; it must be a finite number above 0"),
    ],
)
def test_impossible_settings_are_refused(wrong, text):
    with pytest.raises(ConfigError, match=text):
        TrainingSettings(**{"schedule": tiny.SETTINGS.schedule, "batch": 1, **wrong})


def test_the_loss_scale_begins_low_and_stays_below_its_limit():
    scaler = LossScale("cpu", 2.0**14, 2.0**15)
    scaler.set_growth_interval(1)
    weight = torch.nn.Parameter(torch.ones(1))
    adam = torch.optim.AdamW([weight])
    scales = []
    for _ in range(3):
        scaler.scale(weight.sum()).backward()
        scales.append(scaler.get_scale())
        scaler.step(adam)
        scaler.update()
        weight.grad = None
    assert scales == [2.0**14, 2.0**15, 2.0**15]
