"""HMAR's two phases as `himar.training` runs them: exact resume, what each phase learns, precision, parts, files."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo

from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.loss_draws import LossSettings
from himar.families.hmar.optimisation import trained_parameters
from himar.training.processes import Processes
from himar.training.run import RELEASED_FILE, Outputs, run_training
from himar.training.settings import Execution
from himar.training.state import STATE_FILE
from himar.training.trainer import Trainer
from himar_kernels import ConfigError
from tests.closeness import COMPONENT, assert_near

from . import tiny_training as tiny

PHASES = ("next-scale", "masked")


class StopHereError(Exception):
    pass


def train(folder, phase="next-scale", *, stop_at=None, resume=False, execution=None, outputs=None, **changes):
    """Return the figures by step and the weights written; `stop_at` ends the training in that step."""
    figures = {}

    def on_step(progress):
        figures[progress.step] = dict(progress.figures)
        if progress.step == stop_at:
            raise StopHereError

    masked = phase == "masked"
    start = changes.pop("start", tiny.start() if masked else None)
    data = changes.pop("codes", tiny.codes())
    settings = tiny.settings(phase=phase, **changes)
    outputs = outputs or Outputs(folder)
    try:
        file = run_training(
            tiny.config(masked), data, settings, 3, outputs, on_step, execution=execution, resume=resume, start=start
        )
    except StopHereError:
        return figures, None
    return figures, load_checkpoint(file).state_dict()


@pytest.mark.parametrize(
    ("phase", "changes"),
    [("next-scale", {}), ("next-scale", {"precision": "bf16"}), ("masked", {"precision": "fp16", "order": "draws"})],
)
def test_a_resumed_run_is_bit_for_bit_the_one_that_never_stopped(tmp_path, phase, changes):
    changes = {**changes, "loss": LossSettings(depth_drop=0.3)}
    whole_figures, whole = train(tmp_path / "whole", phase, **changes)
    train(tmp_path / "cut", phase, stop_at=8, **changes)  # The last snapshot is of step 5.
    torch.rand(3)
    figures, resumed = train(tmp_path / "cut", phase, resume=True, **changes)
    assert sorted(figures) == list(range(6, 13))
    assert figures == {step: whole_figures[step] for step in figures}
    assert all(value.equal(resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_changes_all_that_it_trains_and_nothing_else(tmp_path, phase):
    begun = tiny.start(masked=phase == "masked")
    _, trained = train(tmp_path, phase, start=begun)
    before = begun.model.state_dict()
    assert trained.keys() == before.keys()
    learns = {name for name, _ in trained_parameters(begun.model, phase)}
    assert {name for name, value in trained.items() if not value.equal(before[name])} == learns


def test_the_masked_phase_begins_with_the_next_scale_networks_tail(tmp_path):
    begun = tiny.start()
    trainer = Trainer(tiny.model(True), tiny.codes(), tiny.settings(phase="masked"), 3, Execution(), Processes(), begun)
    ours, given = trainer.model.state_dict(), begun.model.state_dict()
    assert all(value.equal(ours[name]) for name, value in given.items())
    for name, value in given.items():
        if name.startswith("ns_"):
            assert ours[f"mask_{name.removeprefix('ns_')}"].equal(value)
    assert ours["mask_embed.weight"].std() > 0


def test_a_training_learns(tmp_path):
    data = tiny.codes(4)
    for phase in PHASES:
        figures, _ = train(
            tmp_path / phase, phase, steps=30, codes=data, snapshot_every=30, loss=LossSettings(0.0, 0.0)
        )
        assert figures[30]["loss"] < 0.9 * figures[1]["loss"], phase


def test_masks_and_dropped_labels_follow_the_seed_and_the_decay_its_schedule(tmp_path):
    trainer = Trainer(tiny.model(), tiny.codes(), tiny.settings(), 3, Execution(), Processes())
    schedule = trainer.settings.schedule
    for step in range(3):
        progress = trainer.step()
        decayed, plain = trainer._optimiser.adam.param_groups
        assert progress.figures["rate"] == schedule.rate(step) == decayed["lr"] == plain["lr"]
        assert (decayed["weight_decay"], plain["weight_decay"]) == (schedule.weight_decay(step), 0.0)


@pytest.mark.parametrize("phase", PHASES)
def test_parts_of_a_batch_and_recomputing_change_nothing(tmp_path, phase):
    changes = {"steps": 3, "loss": LossSettings(depth_drop=0.3)}
    figures, whole = train(tmp_path / "whole", phase, **changes)
    for number, execution in enumerate((Execution(recompute=True), Execution(accumulate=4))):
        again, weights = train(tmp_path / str(number), phase, execution=execution, **changes)
        for step, expected in figures.items():
            assert again[step]["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        for name, value in whole.items():
            assert_near(weights[name], value, 100 * COMPONENT, name)
    recomputed = load_checkpoint(tmp_path / "0" / "model.safetensors").state_dict()
    assert all(value.equal(recomputed[name]) for name, value in whole.items())


@pytest.mark.parametrize("phase", PHASES)
def test_the_released_layout_is_read_by_our_loader(tmp_path, phase):
    outputs = Outputs(tmp_path, released=True)
    _, ours = train(tmp_path, phase, outputs=outputs)
    content = torch.load(tmp_path / RELEASED_FILE, weights_only=False)
    assert (content.keys(), content["epoch"], content["iter"]) == ({"epoch", "iter", "trainer", "args"}, 4, 12)
    assert (content["args"].batch, content["args"].phase, content["args"].peak) == (8, phase, 3e-3)
    names = set(content["trainer"]["transformer_wo_ddp"])
    assert {"blocks.2.attn.zero_k_bias", "head_nm.ada_lin.1.weight", "lvl_1L", "attn_bias_for_masking"} <= names
    sizes = {name: value for name, value in tiny.SIZES.items() if name not in ("patch_nums", "sampling")}
    if phase == "next-scale":
        read = load_checkpoint(tmp_path / RELEASED_FILE, sizes)
        assert "word_embed.bias" in names
    else:
        assert {"mask_embed.weight", "word_embed_bias"} <= names
        next_scale = tmp_path / "ns"
        tail, before = {}, tiny.start().model
        from himar.families.hmar.checkpoints import training_form

        tail = training_form(before, "next-scale")
        torch.save(tail, next_scale)
        read = load_checkpoint(next_scale, sizes, masked=tmp_path / RELEASED_FILE)
    assert all(value.equal(ours[name]) for name, value in read.state_dict().items())


def test_a_masked_phase_without_weights_to_start_from_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="trains over a finished next-scale network; name its weights with --start"):
        train(tmp_path / "o", "masked", start=None)
    assert not list(tmp_path.glob("o/*"))


def test_a_state_of_the_other_phase_is_refused(tmp_path):
    begun = tiny.start(masked=True)
    train(tmp_path, start=begun, stop_at=6)
    assert (tmp_path / STATE_FILE).exists()
    with pytest.raises(ConfigError, match=r"config\.masked was False when this training began and is True now"):
        train(tmp_path, "masked", start=begun, resume=True)


def test_compiled_blocks_learn_the_same(tmp_path, monkeypatch):
    # PyTorch's tracing and its joint graphs, without the C++ compiler behind them, which takes a minute.
    compiled = []
    original = torch.nn.Module.compile

    def quickly(module, **options):
        compiled.append(type(module).__name__)
        original(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    monkeypatch.setitem(tiny.SIZES, "depth", 1)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    changes = {"steps": 3, "loss": LossSettings(depth_drop=0.3)}
    figures, weights = train(tmp_path / "compiled", execution=Execution(compile=True), **changes)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert compiled == ["Block"]
    expected, plain = train(tmp_path / "plain", **changes)
    assert figures[3]["loss"] == pytest.approx(expected[3]["loss"], rel=1e-5)
    for name, value in plain.items():
        assert_near(weights[name], value, 100 * COMPONENT, name)
