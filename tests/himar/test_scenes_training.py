"""Training a model of scenes from nothing: one command, a model and its text tower, the same from the same seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from himar.cli import main
from himar.data.captioned.latents import CaptionedSet
from himar.data.scenes.pictures import make_scenes
from himar.evaluation.scenes_judge import SceneJudge, score
from himar.families.hi_mar import training
from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.config import read_config, resolve
from himar.families.hi_mar.joint import TOWER_RATE, JointHiMAR, initialise_tower, join
from himar.families.hi_mar.loss_draws import FewPositions, LossSettings, draw_batch
from himar.families.hi_mar.means import MeansTraining, train_means
from himar.families.hi_mar.model import initialise
from himar.families.hi_mar.scenes import (
    MODEL_FILE,
    SCENES_MODEL,
    TEXT_FOLDER,
    VAE_FILE,
    SceneRecipe,
    scenes_vocabulary,
    train_scenes,
)
from himar.families.hi_mar.training import parameter_groups
from himar.images import sample_images, to_pixels
from himar.text import TextConfig, encode, load_text_tower
from himar.text.reading import ReadingTraining, train_to_read
from himar.training.family import Request
from himar.training.optimise import OnStep, Optimiser, Schedule
from himar.training.processes import Processes
from himar.training.settings import Execution
from himar.training.state import STATE_FILE
from himar.vae.layouts import load_vae
from himar.vae.training import SCENES_VAE
from himar_kernels import ConfigError, InputError, PhiloxDraws
from himar_kernels.text import Tokenizer
from tests.closeness import assert_near
from tests.conftest import WEIGHTS

CONFIG = resolve(read_config("himar-scenes"), {})
SMALL = replace(CONFIG, width=32, heads=2, context_width=32, dit_width=32, mlp_width=32, dit_heads=2)
SHIPPED = WEIGHTS / "scenes"


def recipe(steps: int = 2) -> SceneRecipe:
    vae = replace(SCENES_VAE, schedule=Schedule(1, 1e-3), decoder=Schedule(1, 1e-3), batch=4)
    model = replace(SCENES_MODEL, schedule=Schedule(steps, 1e-3), batch=4, snapshot_every=1)
    reading = ReadingTraining(Schedule(2, 1e-3), batch=4)
    means = MeansTraining(Schedule(2, 1e-3), batch=4)
    return SceneRecipe(vae, reading, means, model, tower_layers=1, tower_heads=2, scenes=8)


def request(out: Path, on_stage: Callable[[str], OnStep | None] = lambda stage: None, resume: bool = False) -> Request:
    return Request(out, 0, Execution(), Processes(), resume, False, False, 0, False, on_stage, None)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(["train", *arguments])
    return int(stopped.value.code or 0)


def contexts(folder: Path, texts: list[str]) -> torch.Tensor:
    return encode(load_text_tower(folder), Tokenizer.open(folder).ids(texts)[0])


def test_the_recipe_leaves_a_model_and_a_tower_that_fit(tmp_path):
    stages: list[str] = []
    written = train_scenes(SMALL, recipe(), request(tmp_path, lambda stage: stages.append(stage)))
    assert stages == ["VAE", "text tower", "transformer", "model"]
    assert {path.name for path in tmp_path.iterdir()} == {VAE_FILE, MODEL_FILE, TEXT_FOLDER, STATE_FILE}
    model, folder = load_checkpoint(written), tmp_path / TEXT_FOLDER
    assert model.config == SMALL
    assert load_vae(tmp_path / VAE_FILE).stride == 8
    rows = contexts(folder, ["", "a red three left of a blue seven"])
    assert rows.shape == (2, 16, 32)
    assert_near(model.empty_context[0], rows[0], 1e-3)  # Both are stored in float16.
    images = sample_images(model, load_vae(tmp_path / VAE_FILE), None, PhiloxDraws(0), contexts=rows)
    assert images.shape == (2, 32, 32, 3)


def test_a_stopped_training_resumes_to_the_same_weights(tmp_path):
    class StoppedError(Exception):
        pass

    def stop(progress):
        if progress.step == 3:
            raise StoppedError

    def in_model(stage):
        return stop if stage == "model" else None

    train_scenes(SMALL, recipe(4), request(tmp_path / "whole"))
    with pytest.raises(StoppedError):
        train_scenes(SMALL, recipe(4), request(tmp_path / "stopped", in_model))
    train_scenes(SMALL, recipe(4), request(tmp_path / "stopped", resume=True))
    for name in (MODEL_FILE, f"{TEXT_FOLDER}/model.safetensors", VAE_FILE):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_every_word_of_the_captions_is_one_token():
    few = make_scenes(300, 0)
    vocabulary = scenes_vocabulary(few, 16)
    tokenizer = Tokenizer(vocabulary)
    texts = [text for wordings in few.captions for text in wordings]
    rows, cut = tokenizer.rows(texts)
    assert not cut
    assert all(len(row) == len(text.split()) + 2 for row, text in zip(rows, texts, strict=True))


def test_a_tower_learns_to_read_and_says_so():
    ids = torch.randint(0, 6, (400, 5), generator=torch.Generator().manual_seed(0))
    facts = torch.stack([ids[:, 1], ids[:, 3] % 2], dim=1)
    config = TextConfig(width=24, layers=1, heads=2, hidden=48, vocabulary=6, positions=5)
    shares: list[float] = []
    training = ReadingTraining(Schedule(150, 5e-3, 10, "cosine"), batch=64)
    tower = train_to_read(config, ids, facts, training, 0, lambda progress: shares.append(progress.figures["read"]))
    assert shares[0] < 0.6 < 0.97 < shares[-1]
    again = train_to_read(config, ids, facts, training, 0)
    assert all(torch.equal(*pair) for pair in zip(tower.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("facts", [torch.zeros(3, 1).long(), torch.zeros(4).long(), torch.full((4, 1), -1)])
def test_facts_that_texts_cannot_have_are_refused(facts):
    config = TextConfig(width=4, layers=1, heads=1, hidden=4, vocabulary=6, positions=5)
    with pytest.raises(InputError, match="4 texts came with facts of shape"):
        train_to_read(config, torch.zeros(4, 5).long(), facts, ReadingTraining(Schedule(1, 1e-3)), 0)


def test_a_transformer_learns_the_means_and_leaves_the_heads():
    random = torch.Generator().manual_seed(0)
    texts = torch.arange(1, 3)[:, None].expand(2, 16).contiguous()
    latents = (
        torch.randn(2, 1, 16, 4, 4, generator=random).expand(-1, 2, -1, -1, -1)
        * torch.tensor([1, 0])[:, None, None, None]
    )
    data = CaptionedSet(latents, latents[..., :2, :2], texts, torch.tensor([0, 1, 2]), torch.zeros(16).long())
    model = initialise(JointHiMAR(join(SMALL, TextConfig(32, 1, 2, 64, 40, 16), data.empty_text)), 0)
    initialise_tower(model, 0)
    heads = {name: value.clone() for name, value in model.state_dict().items() if "diffloss" in name}
    errors: list[float] = []
    loss = FewPositions(low_mask_least=1.0, label_drop=0.0)
    training = MeansTraining(Schedule(60, 3e-3, 5), batch=8)
    train_means(model, data, loss, training, 0, lambda progress: errors.append(progress.figures["low error"]))
    # Two images that differ by their text alone: their mean leaves half of the variance, the text none.
    assert errors[0] > 0.8
    assert errors[-1] < 0.1
    assert all(torch.equal(model.state_dict()[name], value) for name, value in heads.items())


def test_the_tower_learns_at_a_rate_of_its_own():
    config = join(SMALL, TextConfig(32, 1, 2, 64, 40, 16), torch.zeros(16).long())
    groups = parameter_groups(initialise(JointHiMAR(config), 0), 0.02)
    optimiser = Optimiser(groups, Schedule(1, 1e-3))
    optimiser.step(0, sum(parameter.sum() for group in groups for parameter in group["params"]))
    assert [group["lr"] for group in optimiser.adam.param_groups] == [1e-3, 1e-3, 1e-3 * TOWER_RATE]


def test_few_positions_are_masked_as_of_classes():
    generator = torch.Generator().manual_seed(0)

    def masked(settings: LossSettings) -> list[int]:
        return [int(draw_batch(CONFIG, torch.zeros(1, 16), settings, generator).low.masked.sum()) for _ in range(200)]

    few = masked(FewPositions(low_mask_least=0.1, low_mask_deviation=0.6))
    assert min(few.count(count) for count in (1, 2, 3, 4)) > 15
    assert masked(LossSettings(low_mask_least=0.1, low_mask_deviation=0.6)).count(1) < 5


def test_what_does_not_suit_scenes_is_refused_before_training(tmp_path, capsys):
    with pytest.raises(ConfigError, match="channels is 4, but scenes need 16; use --config himar-scenes"):
        train_scenes(replace(SMALL, channels=4), recipe(), request(tmp_path))
    assert not list(tmp_path.iterdir())
    for config, data, said in (
        ("digits", "scenes", "context is class, but scenes need text"),
        ("himar-scenes", "digits", "the digits have no captions"),
        ("hmar-digits", "scenes", "HMAR makes no images from text"),
    ):
        assert run("--config", config, "--data", data, "--out", str(tmp_path / "out")) == 1
        assert said in " ".join(capsys.readouterr().err.split())


def test_the_command_trains_scenes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "SceneRecipe", lambda model: replace(recipe(), model=model))
    options = ("--steps", "1", "--batch", "4", "--threads", "1")
    assert run("--config", "himar-scenes", "--data", "scenes", "--out", str(tmp_path), *options) == 0
    assert "scenes: wrote" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / MODEL_FILE).config == CONFIG


def test_the_shipped_model_draws_what_captions_ask_for():
    asked = make_scenes(60, 77, train=False)
    model = load_checkpoint(SHIPPED / MODEL_FILE)
    rows = contexts(SHIPPED / TEXT_FOLDER, [texts[0] for texts in asked.captions])
    assert_near(model.empty_context, contexts(SHIPPED / TEXT_FOLDER, [""]), 1e-3)
    images = sample_images(model, load_vae(SHIPPED / VAE_FILE), None, PhiloxDraws(0), contexts=rows)
    found = score(asked.scenes, SceneJudge().read(images))
    assert found.objects >= 0.85
    assert found.all >= 0.8


def test_the_shipped_vae_keeps_scenes_readable():
    real = make_scenes(60, 78, train=False)
    vae = load_vae(SHIPPED / VAE_FILE)
    with torch.no_grad():
        back = to_pixels(vae.decode(vae.encode(real.images)[0]))
    assert np.abs(back.astype(int) - to_pixels(real.images)).mean() < 5
    assert score(real.scenes, SceneJudge().read(back)).all >= 0.93


def test_the_shipped_files_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 12e6
