"""The eager model against the released model's numbers: a user's checkpoint must give the images it gave before."""

from pathlib import Path

import pytest
import torch
from closeness import COMPONENT, RUN, assert_near, distance

from himar.checkpoints import load_checkpoint
from himar.sampler import to_grid, two_phase
from himar_kernels import RecordedDraws, load_recording, recorded_request

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = ("himar-narrow-128", "himar-narrow-256")
CASES = [
    ("himar-narrow-128", "guided"),
    ("himar-narrow-128", "constant"),
    ("himar-narrow-128", "unguided"),
    ("himar-narrow-256", "guided"),
]


@pytest.fixture(scope="module", params=MODELS)
def golden(request):
    model = load_checkpoint(GOLDEN / f"{request.param}.pth", GOLDEN / f"{request.param}.json")
    return model, load_recording(GOLDEN / f"{request.param}.npz")


def tensors(arrays, *names):
    return [torch.from_numpy(arrays[name]) for name in names]


def class_rows(model, arrays):
    rows = torch.from_numpy(arrays["t/labels"]).clone()
    rows[-1] = model.config.classes
    return rows


def test_transformer_low(golden):
    model, arrays = golden
    S = model.config.low_positions
    known = torch.from_numpy(arrays["phase1/mask"][:, :S] == 0)
    low_tokens = torch.from_numpy(arrays["t/low_tokens"])
    rows = class_rows(model, arrays)
    assert_near(model.transformer_low(rows, low_tokens, known), arrays["phase1/z"], COMPONENT)
    nothing = torch.zeros_like(known)
    assert_near(model.transformer_low(rows, low_tokens, nothing), arrays["phase1/z_all_masked"], COMPONENT)


def test_transformer_high(golden):
    model, arrays = golden
    known = torch.from_numpy(arrays["phase2/mask"][:, model.config.low_positions :] == 0)
    pivots, tokens = tensors(arrays, "t/pivots", "t/tokens")
    z = model.transformer_high(class_rows(model, arrays), pivots, tokens, known)
    assert_near(z, arrays["phase2/z"], COMPONENT)


def test_mlp_head(golden):
    model, arrays = golden
    assert_near(model.mlp_head(*tensors(arrays, "mlp/x", "mlp/t", "mlp/c")), arrays["mlp/out"], COMPONENT)


def test_dit_head(golden):
    model, arrays = golden
    assert_near(model.dit_head(*tensors(arrays, "dit/x", "dit/t", "dit/z")), arrays["dit/out"], COMPONENT)


@pytest.mark.parametrize(("name", "case"), CASES)
def test_a_whole_run(name, case):
    model = load_checkpoint(GOLDEN / f"{name}.pth", GOLDEN / f"{name}.json")
    arrays = load_recording(GOLDEN / f"{name}.npz")
    request = recorded_request(arrays, case)
    result = two_phase(model, request.labels.tolist(), draws=RecordedDraws(arrays, case), sampling=request.sampling)
    assert_near(to_grid(result.low_tokens), request.low_latent, RUN)
    assert_near(to_grid(result.tokens), request.latent, RUN)


def test_the_other_weights_of_a_checkpoint_give_other_numbers():
    """`model_ema` is the default; taking `model` by mistake must not go unseen."""
    arrays = load_recording(GOLDEN / "himar-narrow-128.npz")
    model = load_checkpoint(GOLDEN / "himar-narrow-128.pth", GOLDEN / "himar-narrow-128.json", weights="model")
    assert distance(model.mlp_head(*tensors(arrays, "mlp/x", "mlp/t", "mlp/c")), arrays["mlp/out"]) > 1e-3
