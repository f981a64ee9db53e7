"""Training from captioned images: what is drawn, what learns, and a run that is resumed."""

import json
from dataclasses import replace

import pytest
import torch

from himar.data.captioned.latents import CaptionedSet, draw_captions
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.loss_draws import LossSettings, draw_batch, text_mask_ratio
from himar.families.hi_mar.losses import drawn_losses, model_losses
from himar.families.hi_mar.model import randomise
from himar.families.hi_mar.presets import VARIANTS
from himar.families.hi_mar.training import FAMILY
from himar.families.hi_mar.training_settings import TrainingSettings, text_settings
from himar.training.optimise import Schedule
from himar.training.run import Outputs, run_training, train_model
from himar.training.settings import Execution
from himar.training.state import STATE_FILE
from himar_kernels import ConfigError, InputError
from tests.closeness import COMPONENT, assert_near, distance
from tests.himar import tiny_training
from tests.himar.small_cache import run as command
from tests.himar.tiny_text import SIZES, K, build, captioned, contexts

SETTINGS = TrainingSettings(
    schedule=Schedule(steps=6, peak=3e-3, warmup=2), batch=8, ema=0.9, dropout=0.1, snapshot_every=3, order="epochs"
)


def batch(model, size: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    config = model.config
    high = torch.randn(size, config.high_positions, config.channels, generator=generator)
    return high, torch.randn(size, config.low_positions, config.channels, generator=generator), contexts(size)


@pytest.mark.parametrize("variant", [None, *VARIANTS])
def test_every_parameter_learns_and_the_empty_context_does_not(variant):
    model = randomise(build(variant), 0).train()
    model_losses(model, *batch(model), LossSettings(pivot_share=0.5), torch.Generator().manual_seed(0)).total.backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert model.text_proj.weight.grad.any()
    assert model.empty_context.grad is None


def test_dropped_texts_are_the_empty_context():
    model = randomise(build(), 0).eval()
    tokens, low_tokens, shown = batch(model)
    draws = draw_batch(model.config, shown, LossSettings(label_drop=1.0), torch.Generator().manual_seed(0))
    other = replace(draws, shown=contexts(6, seed=8))
    total = drawn_losses(model, tokens, low_tokens, draws).total
    assert drawn_losses(model, tokens, low_tokens, other).total.equal(total)
    kept = torch.zeros(6, dtype=torch.bool)
    spelled = replace(
        draws,
        shown=model.empty_context.expand(6, -1, -1),
        low=replace(draws.low, dropped=kept),
        high=replace(draws.high, dropped=kept),
    )
    assert_near(drawn_losses(model, tokens, low_tokens, spelled).total, total, COMPONENT)
    model.empty_context += 1
    assert distance(drawn_losses(model, tokens, low_tokens, draws).total, total) > 10 * COMPONENT


def test_texts_drop_in_each_phase_by_itself():
    model = build()
    draws = draw_batch(model.config, contexts(4000), LossSettings(), torch.Generator().manual_seed(0))
    for phase in (draws.low, draws.high):
        assert phase.dropped.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert (draws.low.dropped & draws.high.dropped).float().mean().item() == pytest.approx(0.01, abs=0.008)


def test_the_mask_ratio_is_a_beta_4_1():
    generator = torch.Generator().manual_seed(0)
    ratios = torch.tensor([text_mask_ratio(generator) for _ in range(4000)])
    assert ratios.mean().item() == pytest.approx(4 / 5, abs=0.01)
    assert ratios.var().item() == pytest.approx(4 / (25 * 6), abs=0.003)
    assert 0 < ratios.min() < 0.4 < 0.99 < ratios.max() < 1


def test_both_phases_of_a_model_from_text_mask_by_it():
    model = build()
    generator = torch.Generator().manual_seed(0)
    draws = [draw_batch(model.config, contexts(1), LossSettings(), generator) for _ in range(600)]
    low = torch.tensor([drawn.low.masked.sum() / 4 for drawn in draws])
    high = torch.tensor([drawn.high.masked.sum() / 16 for drawn in draws])
    # ⌈4r⌉/4 and ⌈16r⌉/16 of r ~ Beta(4, 1): the mean of ⌈nr⌉/n is 1 - Σ (k/n)⁴ / n over k < n.
    for shares, n in ((low, 4), (high, 16)):
        expected = 1 - sum((k / n) ** 4 for k in range(n)) / n
        assert shares.mean().item() == pytest.approx(expected, abs=0.025)
    assert abs(torch.corrcoef(torch.stack([low, high]))[0, 1].item()) < 0.15


def test_captions_are_drawn_uniformly_and_repeat_with_the_generator():
    first = torch.tensor([0, 1, 6, 8])
    rows = draw_captions(first, torch.full((5000,), 1), torch.Generator().manual_seed(0))
    counts = torch.bincount(rows, minlength=8)
    assert counts[[0, 6, 7]].sum() == 0
    assert (counts[1:6].float() / 5000 - 0.2).abs().max() < 0.03
    assert rows.equal(draw_captions(first, torch.full((5000,), 1), torch.Generator().manual_seed(0)))


def test_a_texts_latents_come_with_a_caption_of_the_same_image():
    data = captioned()
    chosen = torch.tensor([5, 0, 2])
    tokens, low_tokens, texts = data.draw(chosen, 1.0, torch.Generator().manual_seed(1))
    assert tokens.shape == (3, 16, 4) and low_tokens.shape == (3, 4, 4)
    for image, text in zip(chosen.tolist(), texts, strict=True):
        own = data.texts[data.first[image] : data.first[image + 1]]
        assert any(text.equal(each) for each in own)
    assert data.examples(26)[24].equal(data.texts[0])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"low": torch.zeros(23, 2, 4, 2, 2)}, "24 latents, 23 low-resolution latents and texts of 24 images"),
        ({"texts": contexts(3)}, "for 3 texts"),
        ({"first": torch.zeros(25, dtype=torch.int64)}, "every image have one at least"),
        ({"empty_text": torch.zeros(K, 3)}, r"the empty text \(5, 3\); encode both alike"),
    ],
)
def test_sets_that_do_not_fit_together_are_refused(changes, text):
    values = {name: getattr(captioned(), name) for name in CaptionedSet.__annotations__}
    with pytest.raises(InputError, match=text):
        CaptionedSet(**{**values, **changes})


def test_a_model_learns_from_text_and_takes_the_empty_context_of_its_data():
    totals = []
    settings = replace(SETTINGS, schedule=Schedule(steps=40, peak=3e-3), snapshot_every=40)

    def keep(progress):
        totals.append(0.4 * (progress.figures["low mse"] + progress.figures["low vb"]) + progress.figures["high mse"])

    data = captioned()
    trained = train_model(build(), data, settings, 0, keep)
    assert sum(totals[-10:]) < 0.9 * sum(totals[:10])
    assert trained.empty_context[0].equal(data.empty_text)


def run(folder, steps: int, resume: bool = False, **changes):
    settings = replace(SETTINGS, schedule=replace(SETTINGS.schedule, steps=6), **changes)
    stop = RuntimeError("stopped")

    def on_step(progress):
        if progress.step == steps and steps < 6:
            raise stop

    return run_training(build().config, captioned(), settings, 0, Outputs(folder), on_step, resume=resume)


def test_a_run_that_is_stopped_and_resumed_is_byte_for_byte_the_same(tmp_path):
    whole = run(tmp_path / "whole", 6)
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path / "parts", 5)
    resumed = run(tmp_path / "parts", 6, resume=True)
    assert resumed.read_bytes() == whole.read_bytes()
    assert (tmp_path / "parts" / STATE_FILE).read_bytes() == (tmp_path / "whole" / STATE_FILE).read_bytes()
    model = load_checkpoint(whole)
    assert model.config.from_text and model.class_names is None


def test_other_captions_are_refused_at_resume(tmp_path):
    run(tmp_path, 6)
    other = captioned(texts=contexts(48, seed=7))
    with pytest.raises(ConfigError, match=r"data.texts was '\w{16}' when this training began"):
        run_training(build().config, other, SETTINGS, 0, Outputs(tmp_path), resume=True)


def test_parts_of_a_batch_make_the_same_step():
    settings = replace(SETTINGS, dropout=0.0, schedule=Schedule(steps=2, peak=1e-3))
    whole = train_model(build(), captioned(), settings, 0)
    parts = train_model(build(), captioned(), settings, 0, execution=Execution(accumulate=4))
    assert_near(parts.text_proj.weight, whole.text_proj.weight, 1e-3)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (tiny_training.latents(), "these images have no captions, and this model makes images from text"),
        (
            captioned(texts=torch.zeros(48, K, 8), empty=torch.zeros(K, 8)),
            r"\(5, 8\), and this model takes \(5, 12\)",
        ),
    ],
)
def test_data_that_do_not_suit_a_model_from_text_are_refused(data, text):
    with pytest.raises(InputError, match=text):
        train_model(build(), data, SETTINGS, 0)


def test_a_model_of_classes_takes_no_captions():
    with pytest.raises(InputError, match="these images have captions and no classes"):
        train_model(tiny_training.model(), captioned(), SETTINGS, 0)


def options(**given):
    names = ("batch", "rate", "ema", "weight_decay", "clip", "dropout", "pivot_share", "pivot_warmup", "precision")
    more = ("snapshot_every", "steps", "epochs", "warmup_steps", "warmup_epochs")
    return {**dict.fromkeys([*names, *more]), **given}


def test_settings_from_text_are_the_papers_and_can_be_changed():
    settings = FAMILY.settings(build().config, 82_783, options())
    assert settings == text_settings()
    assert (settings.schedule.peak, settings.schedule.warmup, settings.weight_decay) == (8e-4, 8000, 0.03)
    assert (settings.batch, settings.schedule.steps, settings.ema) == (256, 1_000_000, 0.9999)
    epochs = FAMILY.settings(build().config, 2560, options(epochs=10.0, batch=128, rate=1e-4))
    assert (epochs.schedule.steps, epochs.schedule.warmup, epochs.schedule.peak) == (200, 20, 1e-4)


def test_the_digits_have_no_captions(tmp_path, capsys):
    (tmp_path / "tiny.json").write_text(json.dumps(SIZES))
    assert command("train", "--config", tmp_path / "tiny.json", "--data", "digits", "--out", tmp_path / "out") == 1
    assert "the digits have no captions" in capsys.readouterr().err
