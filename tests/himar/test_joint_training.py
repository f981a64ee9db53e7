"""A text tower trains together with a model from text, and both are saved so that they can be used apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from himar.families.hi_mar.checkpoints import load_checkpoint
from himar.families.hi_mar.family import FAMILY
from himar.families.hi_mar.joint import JointHiMAR, join
from himar.families.hi_mar.loss_draws import LossSettings, draw_batch
from himar.families.hi_mar.sampler import generate
from himar.families.hi_mar.training import LossNetwork
from himar.families.hi_mar.training_settings import TrainingSettings
from himar.text import encode, load_text_tower
from himar.training.optimise import Schedule
from himar.training.processes import Processes
from himar.training.run import Outputs, run_training, train_model
from himar.training.settings import Execution
from himar.training.state import STATE_FILE
from himar_kernels import ConfigError, InputError, PhiloxDraws
from tests.closeness import COMPONENT, RUN, assert_near, distance
from tests.himar import text_processes
from tests.himar.tiny_text import EMPTY, TOWER, build, captioned, ids, joint, joint_data
from tests.himar.two_processes import run_two

SETTINGS = TrainingSettings(
    schedule=Schedule(steps=4, peak=3e-3, warmup=2), batch=8, ema=0.9, dropout=0.0, snapshot_every=2, order="epochs"
)


def run(folder, resume: bool = False, stop: int = 0, settings=SETTINGS):
    def on_step(progress):
        if progress.step == stop:
            raise RuntimeError("stopped")

    outputs = Outputs(folder, "scenes.safetensors", released=True)
    return run_training(joint(), joint_data(), settings, 0, outputs, on_step, resume=resume)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joint")
    run(folder)
    return folder


def test_gradients_reach_both_and_the_empty_text_too():
    model = JointHiMAR(joint())
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens, low_tokens, shown = joint_data().draw(torch.arange(8), 1.0, torch.Generator().manual_seed(0))
    draws = draw_batch(model.config, shown, LossSettings(label_drop=1.0), torch.Generator().manual_seed(0))
    LossNetwork(model, "fp32")(tokens, low_tokens, draws).sum().backward()
    used = model.tower.embeddings.token_embedding.weight.grad.abs().sum(dim=1) > 0
    assert used.nonzero().flatten().tolist() == [18, 19]  # every text was dropped: the empty one alone is learned from
    model.zero_grad()
    draws = draw_batch(model.config, shown, LossSettings(label_drop=0.0), torch.Generator().manual_seed(0))
    LossNetwork(model, "fp32")(tokens, low_tokens, draws).sum().backward()
    assert all(parameter.grad is not None for parameter in model.tower.parameters())
    assert model.text_proj.weight.grad.any() and model.tower.encoder.layers[0].mlp.fc1.weight.grad.any()


def test_two_files_are_written_and_the_empty_context_is_the_saved_towers(trained):
    model, tower = load_checkpoint(trained / "scenes.safetensors"), load_text_tower(trained / "scenes-text")
    assert tower.config == TOWER
    assert_near(model.empty_context, encode(tower, EMPTY[None]), COMPONENT)
    assert model.config == build().config
    latents = generate(model, contexts=encode(tower, ids(2)), draws=PhiloxDraws(0))
    assert latents.shape == (2, 4, 4, 4)


def test_both_are_averages_of_what_learned(trained):
    plain = load_checkpoint(trained / "checkpoint-last.pth", build().config, weights="model")
    averaged = load_checkpoint(trained / "checkpoint-last.pth", build().config)
    ours = load_checkpoint(trained / "scenes.safetensors")
    assert all(value.equal(averaged.state_dict()[name]) for name, value in ours.state_dict().items())
    assert distance(plain.text_proj.weight, ours.text_proj.weight) > 0
    assert distance(plain.empty_context, ours.empty_context) > 0


def test_the_tower_learns():
    # The heads' last layers begin at zero and pass on no gradient before they have moved.
    settings = replace(SETTINGS, schedule=Schedule(steps=3, peak=1e-2))
    first = train_model(JointHiMAR(joint()), joint_data(), replace(settings, schedule=Schedule(steps=1, peak=1e-9)), 0)
    moved = train_model(JointHiMAR(joint()), joint_data(), settings, 0)
    assert distance(moved.tower.encoder.layers[1].mlp.fc2.weight, first.tower.encoder.layers[1].mlp.fc2.weight) > 1e-4


def test_a_run_that_is_resumed_is_byte_for_byte_the_same(trained, tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path, stop=3)
    run(tmp_path, resume=True)
    for name in ("scenes.safetensors", "scenes-text/model.safetensors", "scenes-text/config.json", STATE_FILE):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_parts_of_a_batch_make_the_same_step():
    settings = replace(SETTINGS, schedule=Schedule(steps=2, peak=1e-3))
    whole = train_model(JointHiMAR(joint()), joint_data(), settings, 0)
    parts = train_model(JointHiMAR(joint()), joint_data(), settings, 0, execution=Execution(accumulate=4))
    assert_near(parts.tower.final_layer_norm.weight, whole.tower.final_layer_norm.weight, 1e-3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"tower": replace(TOWER, width=16)}, "the tower gives 5 rows of 16, and the model takes 5 of 12"),
        ({"tower": replace(TOWER, positions=6)}, "the tower gives 6 rows of 12"),
        ({"empty_ids": EMPTY[:3]}, "empty_ids are 3 tokens; give 5 of 0 to 19"),
        ({"empty_ids": EMPTY + 1}, "give 5 of 0 to 19"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        join(**{"config": build().config, "tower": TOWER, "empty_ids": EMPTY, **changes})


@pytest.mark.parametrize(
    ("model", "texts", "text"),
    [
        (build, joint_data, "the captions are token ids, and no text tower is trained"),
        (lambda: JointHiMAR(joint()), captioned, "the captions are contexts, and the text tower is trained too"),
        (
            lambda: JointHiMAR(joint()),
            lambda: captioned(texts=ids(), empty=EMPTY - 1),
            "empty text has other token ids",
        ),
    ],
)
def test_captions_of_the_wrong_kind_are_refused(model, texts, text):
    with pytest.raises(InputError, match=text):
        train_model(model(), texts(), SETTINGS, 0)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path):
    together = torch.load(run_two(text_processes.__name__, tmp_path) / "result.pt")
    alone = text_processes.trained(Execution(), Processes())
    for kind in ("ddp", "fsdp"):
        assert together[kind].keys() == alone.keys()
        assert_near(
            *(torch.cat([each[name].flatten() for name in sorted(alone)]) for each in (together[kind], alone)), RUN
        )
        assert_near(together[kind]["empty_context"], alone["empty_context"], RUN)


def test_a_boards_grid_shows_the_first_captions(tmp_path, monkeypatch):
    seen = []

    def images(model, vae, labels, **given):
        seen.append((model.empty_context.clone(), given["contexts"]))
        return np.zeros((3, 16, 16, 3), np.uint8)

    monkeypatch.setattr(FAMILY, "images", images)
    outputs = Outputs(tmp_path, board=True, grid=3)
    settings = replace(SETTINGS, schedule=Schedule(steps=1, peak=1e-3))
    run_training(joint(), joint_data(), settings, 0, outputs, vae=nn.Identity())
    tower = load_text_tower(tmp_path / "model-text")
    ((empty, contexts),) = seen
    assert_near(contexts, encode(tower, joint_data().examples(3)), COMPONENT)
    assert_near(empty, encode(tower, EMPTY[None]), COMPONENT)
