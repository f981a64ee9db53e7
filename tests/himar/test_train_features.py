"""What a training can do beside training: half precision, less memory, curriculum, order, released layout, boards."""

from dataclasses import replace

import pytest
import torch
import torch._dynamo

import himar.training.board
from himar.data.latents import check_fit, fingerprint
from himar.data.order import ChosenImages
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.loss_draws import LossSettings, draw_batch
from himar.families.hi_mar.losses import drawn_losses
from himar.families.hi_mar.model import randomise
from himar.families.hi_mar.training_settings import TrainingSettings, changed_settings, paper_settings
from himar.loading.files import read_state
from himar.training.optimise import Optimiser, Schedule, TrainingError
from himar.training.processes import Processes
from himar.training.run import RELEASED_FILE, Outputs, run_training, train_model
from himar.training.settings import Execution
from himar.training.trainer import Trainer
from himar_kernels import ConfigError
from tests.closeness import COMPONENT, assert_near
from tests.himar import joint_training
from tests.himar import tiny_training as tiny


def trained(execution: Execution | None = None, **changes) -> dict[str, torch.Tensor]:
    return train_model(
        tiny.model(0.1), tiny.latents(), tiny.settings(4, **changes), 0, execution=execution
    ).state_dict()


def test_recomputed_activations_give_the_same_weights_dropout_included():
    kept, recomputed = trained(), trained(Execution(recompute=True))
    assert all(value.equal(recomputed[name]) for name, value in kept.items())


def test_recomputing_keeps_fewer_activations():
    sizes = {}
    for recompute in (False, True):
        model = randomise(tiny.model(0.0), 0).train()
        model.recompute = recompute
        saved = [0]

        def pack(tensor, saved=saved):
            saved[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            known = torch.zeros(2, 4, dtype=torch.bool)
            model.transformer_low(torch.tensor([0, 1]), torch.zeros(2, 4, 4), known).sum()
        sizes[recompute] = saved[0]
    assert sizes[True] < 0.5 * sizes[False]


@pytest.mark.parametrize(("precision", "limit"), [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision_is_near_float32_and_not_the_same(precision, limit):
    model = randomise(tiny.model(0.0), 0)
    tokens, low_tokens, labels = tiny.latents().draw(torch.arange(8), 1.0, torch.Generator().manual_seed(0))
    draws = draw_batch(tiny.TINY, labels, LossSettings(), torch.Generator().manual_seed(1))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    with torch.no_grad():
        full = drawn_losses(model, tokens, low_tokens, draws)
        half = drawn_losses(model, tokens, low_tokens, draws, torch.autocast("cpu", dtype=dtype))
    for name in ("low_mse", "low_vb", "high_mse"):
        ours, theirs = getattr(half, name), getattr(full, name)
        assert ours.dtype == torch.float32
        assert ours.item() != theirs.item()
        assert ours.item() == pytest.approx(theirs.item(), rel=limit)
    weights = trained(precision=precision)
    assert all(value.dtype == torch.float32 and torch.isfinite(value).all() for value in weights.values())


def test_a_step_whose_float16_gradients_overflow_is_left_out_and_the_scale_halved():
    weight = torch.nn.Parameter(torch.ones(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimiser = Optimiser([weight], Schedule(steps=40, peak=0.1), scaler=scaler)
    optimiser.step(0, weight.sum() * 1e38 * 1.5)
    assert (weight.item(), scaler.get_scale()) == (1.0, 2.0)
    optimiser.step(1, weight.sum())
    assert weight.item() == pytest.approx(0.9, abs=1e-3)
    with pytest.raises(TrainingError, match=r"not finite even with a loss scale"):
        for step in range(2, 40):
            optimiser.step(step, (weight * 0).sqrt().sum())


def test_compiled_blocks_learn_the_same(monkeypatch):
    # PyTorch's tracing and its joint graphs, without the C++ compiler behind them, which takes a minute.
    compiled = []
    original = torch.nn.Module.compile

    def quickly(module, **options):
        compiled.append(type(module).__name__)
        original(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    ours = joint_training.gradients(Execution(compile=True), Processes())
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert sorted(set(compiled)) == ["Block", "DiTBlock", "ResidualBlock"]
    plain = joint_training.gradients(Execution(), Processes())
    for name, value in plain.items():
        assert_near(ours[name], value, COMPONENT, name)


def test_pivots_come_in_over_the_first_epochs():
    settings = tiny.settings(pivot_warmup=100)
    assert [settings.pivot_share(epoch) for epoch in (0, 50, 100, 700)] == [0, 0.125, 0.25, 0.25]
    assert tiny.settings().pivot_share(0) == 0.25
    # 8 of 24 images per step: the first epoch ends after three steps, and only then pivots are trained.
    model = tiny.model(0.0)
    settings = tiny.settings(pivot_warmup=1, dropout=0.0, loss=LossSettings(pivot_share=1.0))
    trainer = Trainer(model, tiny.latents(), settings, 0, Execution(), Processes())
    before = trainer.model.cond_z_proj.bias.clone()
    for _ in range(3):
        trainer.step()
    assert trainer.model.cond_z_proj.bias.equal(before)
    trainer.step()
    assert not trainer.model.cond_z_proj.bias.equal(before)


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own():
    settings = tiny.settings(order="epochs", batch=8)
    images, generator = ChosenImages(24, settings, 0), torch.Generator()
    epochs = [torch.cat([images.at(3 * epoch + step, generator) for step in range(3)]) for epoch in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(24)) for epoch in epochs)
    assert not epochs[0].equal(epochs[1])
    assert ChosenImages(24, settings, 0).at(4, generator).equal(epochs[1][8:16])
    assert not ChosenImages(24, settings, 1).at(4, generator).equal(epochs[1][8:16])
    # An epoch that no whole number of batches fills goes over into the next.
    images = ChosenImages(5, settings, 0)
    both = torch.cat([images.at(step, generator) for step in range(5)])
    assert torch.bincount(both).tolist() == [8] * 5


def test_the_papers_settings():
    settings = paper_settings(1_281_167)
    assert settings.schedule.steps == round(800 * 1_281_167 / 2048)
    assert settings.schedule.warmup == round(100 * 1_281_167 / 2048)
    assert settings.schedule.peak == pytest.approx(8e-4)
    assert (settings.batch, settings.ema, settings.clip, settings.weight_decay) == (2048, 0.9999, 3.0, 0.02)
    assert paper_settings(1000, 256).schedule.peak == pytest.approx(1e-4)
    with pytest.raises(ConfigError, match="no training"):
        paper_settings(1000, 10, epochs=5)


def test_changed_settings_keep_what_is_not_given():
    base = paper_settings(1000, 10)
    changed = changed_settings(base, steps=100, rate=0.5, pivot_share=1.0, ema=0.5, batch=None)
    assert (changed.schedule.steps, changed.schedule.warmup, changed.schedule.peak) == (100, 10, 0.5)
    assert (changed.loss.pivot_share, changed.ema, changed.batch) == (1.0, 0.5, 10)
    assert changed_settings(base) == base


@pytest.mark.parametrize(
    "wrong",
    [
        {"precision": "fp8"},
        {"order": "sorted"},
        {"clip": 0.0},
        {"pivot_warmup": -1},
        {"weight_decay": -0.1},
        {"ema": 1},
    ],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainingSettings(schedule=Schedule(steps=1, peak=1e-3), batch=1, **wrong)


def test_the_released_layout_is_read_by_our_loader_and_holds_the_whole_training(tmp_path):
    outputs = Outputs(tmp_path, released=True)
    written = run_training(tiny.TINY, tiny.latents(), tiny.settings(), 0, outputs)
    ours = load_checkpoint(written)
    released = load_checkpoint(tmp_path / RELEASED_FILE, {"heads": 2, "dit_heads": 2, "vae_stride": 4})
    assert all(value.equal(released.state_dict()[name]) for name, value in ours.state_dict().items())
    trained, _ = read_state(tmp_path / RELEASED_FILE, key="model")
    assert not trained["z_proj.weight"].equal(ours.z_proj.weight)
    from argparse import Namespace

    with torch.serialization.safe_globals([Namespace]):
        content = torch.load(tmp_path / RELEASED_FILE, weights_only=True)
    assert set(content) == {"model", "model_ema", "optimizer", "epoch", "scaler", "args"}
    assert content["epoch"] == 12 * 8 // 24
    assert content["args"].batch == 8
    assert len(content["optimizer"]["state"]) == len(list(ours.parameters()))


def test_kept_snapshots_are_the_weights_at_their_steps(tmp_path):
    outputs = Outputs(tmp_path, keep=True)
    written = run_training(tiny.TINY, tiny.latents(), tiny.settings(), 0, outputs)
    assert sorted(path.name for path in tmp_path.glob("model-*")) == [outputs.kept(step).name for step in (5, 10, 12)]
    kept = {step: load_checkpoint(outputs.kept(step)).z_proj.weight for step in (5, 12)}
    assert kept[12].equal(load_checkpoint(written).z_proj.weight)
    assert not kept[5].equal(kept[12])


def test_a_board_has_the_scalars_of_every_step_and_a_grid(tmp_path):
    from himar.vae.autoencoder import AutoencoderKL, VaeConfig

    torch.manual_seed(0)
    sizes = VaeConfig(ch=32, ch_mult=(1, 1, 1), z_channels=4, num_res_blocks=1, attention_levels=())
    vae = AutoencoderKL(sizes).eval().requires_grad_(False)
    outputs = Outputs(tmp_path, board=True, grid=3)
    run_training(tiny.TINY, tiny.latents(), tiny.settings(4, snapshot_every=2), 0, outputs, vae=vae)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("low/mse")] == [1, 2, 3, 4]
    assert {"rate", "low/vb", "high/mse"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Images("samples")] == [2, 4]


def test_a_board_without_tensorboard_says_what_to_install_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(himar.training.board, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'himar\[train\]'"):
        run_training(tiny.TINY, tiny.latents(), tiny.settings(), 0, Outputs(tmp_path, board=True))
    assert not (tmp_path / "training-state.safetensors").exists()


def test_a_single_scale_trains_without_low_latents_that_fit(tmp_path):
    config = replace(tiny.TINY, pivots="none", cond_scale=0, scale_vector="none", high_head="mlp", low_head="mlp")
    latents = tiny.latents()
    check_fit(config, latents)
    figures = []
    run_training(
        config, latents, tiny.settings(2), 0, Outputs(tmp_path), lambda progress: figures.append(progress.figures)
    )
    assert set(figures[0]) == {"high mse", "high vb", "rate"}
    assert fingerprint(latents)["images"] == 24
