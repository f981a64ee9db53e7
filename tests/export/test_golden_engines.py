"""The engines against the released model's numbers, through `himar-export build` and `verify --recording`."""

import json
from pathlib import Path

import numpy as np
import pytest

from himar_export.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"


def verify(capsys, *arguments) -> tuple[int, list[dict]]:
    capsys.readouterr()
    code = main(["verify", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)["comparisons"]


@pytest.mark.parametrize("name", ["narrow-128", "narrow-256"])
def test_every_component_and_every_run_of_a_golden_recording(capsys, request, name):
    bundle = request.getfixturevalue(f"{name.replace('-', '_')}_bundle")
    code, rows = verify(capsys, bundle, "--recording", GOLDEN / f"himar-{name}.npz")
    assert code == 0
    names = {row["name"].split(":")[0] for row in rows}
    cases = {"narrow-128": {"run constant", "run guided", "run unguided"}, "narrow-256": {"run guided"}}[name]
    assert names == {"transformer_low", "transformer_high", "mlp_head", "dit_head"} | cases
    for row in rows:
        assert row["relative_l2"] <= (1e-4 if row["name"].startswith("run") else 1e-5), row


def test_the_vae_decoder(capsys, narrow_128_bundle):
    code, rows = verify(capsys, narrow_128_bundle, "--recording", GOLDEN / "vae-narrow.npz")
    assert code == 0
    assert [row["name"] for row in rows] == ["vae_decoder: image"]
    assert rows[0]["relative_l2"] <= 1e-4


def test_one_case_alone(capsys, narrow_128_bundle):
    code, rows = verify(capsys, narrow_128_bundle, "--recording", GOLDEN / "himar-narrow-128.npz", "--case", "unguided")
    assert code == 0
    assert {row["name"].split(":")[0] for row in rows if row["name"].startswith("run")} == {"run unguided"}


@pytest.mark.parametrize("array", ["phase1/z", "phase2/z", "mlp/out", "dit/out", "guided/latent", "guided/low_latent"])
def test_a_wrong_number_fails(capsys, narrow_128_bundle, tmp_path, array):
    """Parity that cannot fail proves nothing: one array is scaled by a thousandth."""
    arrays = dict(np.load(GOLDEN / "himar-narrow-128.npz"))
    arrays[array] = arrays[array] * np.float32(1.001)
    np.savez(tmp_path / "wrong.npz", **arrays)
    code, rows = verify(capsys, narrow_128_bundle, "--recording", tmp_path / "wrong.npz", "--case", "guided")
    assert code == 1
    assert any(not row["passed"] for row in rows)


def test_a_recording_of_another_model_is_refused(capsys, narrow_128_bundle):
    code = main(["verify", str(narrow_128_bundle), "--recording", str(GOLDEN / "himar-narrow-256.npz")])
    assert code == 1
    assert "the recording is of another model: t/low_tokens" in capsys.readouterr().err


def test_a_recording_with_a_missing_array_names_it(capsys, narrow_128_bundle, tmp_path):
    arrays = dict(np.load(GOLDEN / "himar-narrow-128.npz"))
    del arrays["phase1/mask"]
    np.savez(tmp_path / "lacking.npz", **arrays)
    assert main(["verify", str(narrow_128_bundle), "--recording", str(tmp_path / "lacking.npz")]) == 1
    assert "the recording lacks the array phase1/mask" in capsys.readouterr().err


def test_a_recording_of_a_decoder_needs_a_bundle_with_one(capsys, narrow_256_bundle):
    assert main(["verify", str(narrow_256_bundle), "--recording", str(GOLDEN / "vae-narrow.npz")]) == 1
    assert "neither a run nor outputs of transformer_low" in capsys.readouterr().err


def test_an_unknown_case_names_those_present(capsys, narrow_128_bundle):
    recording = str(GOLDEN / "himar-narrow-128.npz")
    assert main(["verify", str(narrow_128_bundle), "--recording", recording, "--case", "other"]) == 1
    assert "no case 'other'; it has constant, guided, unguided" in capsys.readouterr().err


def test_what_record_writes_verifies(capsys, narrow_128_bundle, tmp_path):
    """One phase guided, another temperature, other steps: recorded by eager, replayed by engines."""
    model, config = GOLDEN / "himar-narrow-128.pth", GOLDEN / "himar-narrow-128.json"
    out = tmp_path / "run.npz"
    code = main(
        ["record", str(model), "--config", str(config), "--vae", str(GOLDEN / "vae-narrow.ckpt")]
        + ["--labels", "0-2", "--seed", "5", "--low-guidance", "1", "--high-guidance", "2", "--temperature", "0.7"]
        + ["--low-steps", "5", "--high-steps", "3", "--high-diffusion-steps", "6", "--out", str(out)]
    )
    assert code == 0
    code, rows = verify(capsys, narrow_128_bundle, "--recording", out)
    assert code == 0
    assert {"run run", "vae_decoder"} <= {row["name"].split(":")[0] for row in rows}
