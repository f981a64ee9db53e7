"""Training: it learns, repeats by seed, stops when numbers break, and never leaves half a file."""

from dataclasses import replace

import pytest
import torch

import himar.families.hi_mar.digits
import himar.loading.files
from himar.data.digits import Digits, half_size, load_digits_split
from himar.data.latents import LatentSet
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.config import ModelConfig
from himar.families.hi_mar.digits import MODEL_FILE, VAE_FILE, Recipe, train_digits
from himar.families.hi_mar.model import HiMAR
from himar.families.hi_mar.training import parameter_groups
from himar.families.hi_mar.training_settings import TrainingSettings
from himar.training.optimise import Optimiser, Schedule, TrainingError
from himar.training.run import train_model
from himar.training.state import STATE_FILE
from himar.training.trainer import update_average
from himar.vae.autoencoder import VaeConfig
from himar.vae.layouts import load_vae
from himar.vae.training import VaeTraining, latent_moments, reconstruction_psnr, train_vae
from himar_kernels import ConfigError, InputError
from himar_kernels.families.hi_mar import SamplingConfig

TINY = ModelConfig(
    width=32, enc_depth=1, dec_depth=1, heads=2, classes=10, buffer=2, cond_scale=4, img_size=32, vae_stride=4,
    channels=4, mlp_depth=1, mlp_width=32, dit_depth=1, dit_width=32, dit_heads=2, vae_scale=1.0,
    sampling={"default": SamplingConfig(low_steps=8)},
)  # fmt: skip
SETTINGS = TrainingSettings(schedule=Schedule(steps=40, peak=3e-3, warmup=2), batch=8, ema=0.9, dropout=0.1)
TINY_VAE = VaeTraining(
    config=VaeConfig(ch=32, ch_mult=(1, 1, 1), z_channels=4, num_res_blocks=1, attention_levels=()),
    schedule=Schedule(steps=2, peak=1e-3),
    batch=2,
    kl_weight=1e-3,
)


def latents(n: int = 32) -> LatentSet:
    generator = torch.Generator().manual_seed(0)
    high = torch.randn(n, 2, 4, 8, 8, generator=generator)
    low = torch.randn(n, 2, 4, 4, 4, generator=generator)
    high[:, 1], low[:, 1] = 0.1, 0.1
    return LatentSet(high, low, torch.arange(n) % 10)


def test_the_loss_falls_and_the_average_is_what_is_returned():
    figures = []
    model = HiMAR(TINY, dropout=0.1)
    averaged = train_model(model, latents(), SETTINGS, 0, lambda state: figures.append(state.figures))
    first, last = ([f["high mse"] for f in part] for part in (figures[:8], figures[-8:]))
    assert sum(last) < 0.9 * sum(first)
    assert not averaged.training
    changed = [name for name, value in averaged.state_dict().items() if not value.equal(model.state_dict()[name])]
    assert "z_proj.weight" in changed


def test_a_seed_gives_the_same_weights_whatever_was_drawn_before():
    settings = replace(SETTINGS, schedule=Schedule(steps=3, peak=1e-3))
    first = train_model(HiMAR(TINY, 0.1), latents(), settings, 5).state_dict()
    torch.rand(7)
    again = train_model(HiMAR(TINY, 0.1), latents(), settings, 5).state_dict()
    other = train_model(HiMAR(TINY, 0.1), latents(), settings, 6).state_dict()
    assert all(value.equal(again[name]) for name, value in first.items())
    assert not first["z_proj.weight"].equal(other["z_proj.weight"])


def test_a_loss_that_is_not_finite_stops_with_the_step():
    broken = latents()
    broken.high[:] = float("nan")
    with pytest.raises(TrainingError, match="step 1 is nan"):
        train_model(HiMAR(TINY), broken, SETTINGS, 0)


def test_a_gradient_that_is_not_finite_changes_no_weight():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimiser = Optimiser([weight], Schedule(steps=1, peak=1e-3))
    with pytest.raises(TrainingError, match="gradient of step 1"):
        optimiser.step(0, weight.sqrt().sum())
    assert weight.item() == 0


def test_snapshots_come_on_time_and_at_the_end():
    steps = []
    settings = replace(SETTINGS, schedule=Schedule(steps=5, peak=1e-3), snapshot_every=2)
    train_model(HiMAR(TINY), latents(), settings, 0, on_snapshot=lambda trainer: steps.append(trainer.done))
    assert steps == [2, 4, 5]


def test_weight_decay_spares_biases_vectors_and_heads():
    model = HiMAR(TINY)
    decayed, spared = (group["params"] for group in parameter_groups(model, 0.02))
    assert len(decayed) + len(spared) == len(list(model.parameters()))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(parameter.ndim > 1 and "diffloss" not in names[id(parameter)] for parameter in decayed)
    assert "encoder_blocks.0.attn.qkv.weight" in {names[id(parameter)] for parameter in decayed}


def test_average_moves_by_its_decay():
    averaged, model = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    with torch.no_grad():
        averaged.weight.fill_(1.0)
        model.weight.fill_(3.0)
    update_average(averaged, model, 0.75)
    assert averaged.weight.item() == 1.5


def test_schedules():
    cosine = Schedule(steps=110, peak=1.0, warmup=10, decay="cosine")
    assert [round(cosine.rate(step), 6) for step in (0, 4, 9, 10, 60)] == [0.1, 0.5, 1.0, 1.0, 0.5]
    assert cosine.rate(109) < 0.001
    assert Schedule(steps=100, peak=1.0, decay="linear").rate(75) == 0.25
    assert Schedule(steps=100, peak=1.0).rate(99) == 1.0
    for wrong in ({"steps": 0, "peak": 1}, {"steps": 1, "peak": 0}, {"steps": 5, "peak": 1, "warmup": 6}):
        with pytest.raises(ConfigError):
            Schedule(**wrong)


def test_latents_that_do_not_fit_are_refused():
    good = latents(4)
    with pytest.raises(InputError, match=r"\(2, 4, 8, 8\)"):
        train_model(HiMAR(TINY), replace(good, high=good.low), SETTINGS, 0)
    with pytest.raises(InputError, match="classes 0 to 9"):
        train_model(HiMAR(TINY), replace(good, labels=good.labels + 8), SETTINGS, 0)
    with pytest.raises(InputError, match="one of each per image"):
        replace(good, labels=good.labels[:2])


@pytest.fixture
def few_digits(monkeypatch):
    train, held_out = load_digits_split()
    few = Digits(train.images[:20], train.labels[:20])
    monkeypatch.setattr(himar.families.hi_mar.digits, "load_digits_split", lambda: (few, held_out))


def tiny_recipe() -> Recipe:
    settings = replace(SETTINGS, schedule=Schedule(steps=2, peak=1e-3), snapshot_every=1)
    return Recipe(vae=TINY_VAE, model=settings, seed=0)


def test_the_recipe_leaves_two_files_that_load(tmp_path, few_digits):
    stages = []
    written = train_digits(tmp_path, TINY, tiny_recipe(), lambda stage: stages.append(stage))
    assert stages == ["VAE", "model"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([VAE_FILE, MODEL_FILE, STATE_FILE])
    assert load_checkpoint(written).config == TINY
    assert load_vae(tmp_path / VAE_FILE).stride == 4
    vae_before = (tmp_path / VAE_FILE).read_bytes()
    (tmp_path / STATE_FILE).unlink()
    train_digits(tmp_path, TINY, tiny_recipe(), lambda stage: stages.append(stage))
    assert stages == ["VAE", "model", "model"]
    assert (tmp_path / VAE_FILE).read_bytes() == vae_before


def test_an_interrupted_save_leaves_the_last_snapshot(tmp_path, few_digits, monkeypatch):
    written = train_digits(tmp_path, TINY, tiny_recipe(), lambda stage: None)
    before = written.read_bytes()
    (tmp_path / STATE_FILE).unlink()

    def interrupted(tensors, file, metadata):
        raise OSError("No space left on device")

    monkeypatch.setattr(himar.loading.files, "save_file", interrupted)
    with pytest.raises(himar.loading.files.CheckpointError, match="No space left"):
        train_digits(tmp_path, TINY, tiny_recipe(), lambda stage: None)
    assert written.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([VAE_FILE, MODEL_FILE])


def test_sizes_that_do_not_suit_the_digits_are_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="img_size is 64"):
        train_digits(tmp_path, replace(TINY, img_size=64), tiny_recipe(), lambda stage: None)
    with pytest.raises(ConfigError, match="classes is 3"):
        train_digits(tmp_path, replace(TINY, classes=3), tiny_recipe(), lambda stage: None)
    assert not list(tmp_path.iterdir())


def test_a_vae_learns_to_reconstruct():
    images = half_size(load_digits_split()[0].images[:16])
    training = replace(TINY_VAE, schedule=Schedule(steps=50, peak=2e-3, warmup=5), batch=8)
    errors = []
    vae = train_vae(training, images, 0, lambda state: errors.append(state.figures["squared error"]))
    assert sum(errors[-5:]) < 0.3 * sum(errors[:5])
    assert reconstruction_psnr(vae, images) > 12
    moments = latent_moments(vae, images)
    assert moments.shape == (16, 2, 4, 4, 4)
    assert (moments[:, 1] > 0).all()
