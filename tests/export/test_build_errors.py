"""Bad input to the commands: one sentence with the value and what to do, a failing exit code, nothing half-made."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from himar_export.cli import main

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = [str(GOLDEN / "himar-narrow-128.pth"), "--config", str(GOLDEN / "himar-narrow-128.json")]


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command that must fail: return its message, and check that it left nothing behind."""

    def run(*arguments: str, code: int = 1) -> str:
        before = sorted(tmp_path.iterdir())
        assert main([*arguments]) == code
        assert sorted(tmp_path.iterdir()) == before
        message = capsys.readouterr().err.strip()
        message = message[max(message.find("error: "), 0) :]  # after a notice of which weights were taken
        assert "Traceback" not in message
        assert code == 2 or (message.startswith("error: ") and len(message.splitlines()) <= 2)
        return message

    return run


def test_a_missing_checkpoint(refused, tmp_path):
    message = refused("build", str(tmp_path / "none.pth"), "--config", "himar-b", "--out", str(tmp_path / "b"))
    assert "none.pth does not exist" in message


def test_a_truncated_checkpoint(refused, tmp_path):
    cut = tmp_path / "cut.pth"
    cut.write_bytes((GOLDEN / "himar-narrow-128.pth").read_bytes()[:200_000])
    assert "damaged" in refused("build", str(cut), *MODEL[1:], "--out", str(tmp_path / "b"))


def test_a_checkpoint_of_another_model(refused, tmp_path):
    torch.save({"model_ema": {"fc.weight": torch.zeros(2, 2)}}, tmp_path / "other.pth")
    message = refused("build", str(tmp_path / "other.pth"), *MODEL[1:], "--out", str(tmp_path / "b"))
    assert "not a Hi-MAR checkpoint" in message


def test_a_config_that_contradicts_the_shapes(refused, tmp_path):
    message = refused("build", MODEL[0], "--config", "himar-b", "--out", str(tmp_path / "b"))
    assert "width = 768, but the checkpoint's shapes say 48" in message


def test_a_hi_mar_checkpoint_given_as_the_vae(refused, tmp_path):
    message = refused("build", *MODEL, "--vae", MODEL[0], "--out", str(tmp_path / "b"))
    assert "not a KL VAE" in message


def test_a_vae_of_other_sizes(refused, tmp_path):
    vae = GOLDEN.parents[1] / "himar" / "himar" / "weights" / "digits-vae.safetensors"
    message = refused("build", *MODEL, "--vae", str(vae), "--out", str(tmp_path / "b"))
    assert "latents of 4 channels, but the model's tokens have 16" in message


def test_an_output_that_exists(refused, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious").write_text("mine")
    assert "exists already" in refused("build", *MODEL, "--out", str(tmp_path / "b"))
    assert (tmp_path / "b" / "precious").read_text() == "mine"


def test_an_output_in_a_folder_that_does_not_exist(refused, tmp_path):
    assert "create the folder that it goes into first" in refused("build", *MODEL, "--out", str(tmp_path / "no" / "b"))


def test_two_precisions_of_one_component(refused, tmp_path):
    asked = ("--precision", "dit_head=fp16", "--precision", "dit_head=bf16")
    message = refused("build", *MODEL, *asked, "--out", str(tmp_path / "b"), code=2)
    assert "dit_head is given fp16 and bf16; give one of them." in message


def test_a_precision_for_an_unknown_component(refused, tmp_path):
    message = refused("build", *MODEL, "--precision", "dit=fp16", "--out", str(tmp_path / "b"))
    assert "precision is given for 'dit'" in message


@pytest.mark.parametrize(
    ("verb", "option", "value", "text"),
    [
        ("build", "--precision", "dit_head=fp4", "precision 'fp4' of dit_head is unknown"),
        ("build", "--max-batch", "0", "0 is not in the range 1<=x<=1024"),
        ("build", "--config", "himar-xl", "'himar-xl' is neither a preset"),
        ("build", "--opt-level", "9", "9 is not in the range 0<=x<=5"),
        ("build", "--vae", "", "the path is empty"),
        ("record", "--case", "a/b", "'a/b' cannot name a run"),
        ("record", "--out", "run.txt", "run.txt does not end in .npz"),
        ("record", "--seed", "-1", "-1 is not in the range"),
        ("record", "--guidance", "nan", "guidance is nan; it must be a number from 0 to 1000000"),
        ("record", "--low-steps", "0", "low_steps is 0; it must be at least 1"),
    ],
)
def test_a_value_that_no_build_and_no_recording_can_have_is_wrong_usage(refused, tmp_path, verb, option, value, text):
    arguments = [*MODEL, "--labels", "1"] if verb == "record" else MODEL
    out = str(tmp_path / ("run.npz" if verb == "record" else "b"))
    assert text in " ".join(refused(verb, *arguments, "--out", out, option, value, code=2).split())


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--threads", "99999999999", "is not in the range 1<=x<=1024"),
        ("--device", "cuda:999999999999", "is not cpu, cuda or cuda:N"),
        ("--seed", "9" * 30, "is not in the range"),
        ("--count", "9" * 30, "is not in the range"),
        ("--temperature", "-1", "temperature is -1.0"),
        ("--high-diffusion-steps", "1001", "high_diffusion_steps is 1001; it must be 2 to 1000"),
        ("--labels", "9" * 5000, "neither a number nor a range"),
        ("--labels", "0-999999,0-999999", "more than 1000000 labels"),
    ],
)
def test_a_value_that_no_generation_can_have_is_wrong_usage(refused, tmp_path, option, value, text):
    message = refused("generate", "no-bundle", "--labels", "1", "--out", str(tmp_path / "x.png"), option, value, code=2)
    assert text in " ".join(message.split())


def test_a_gpu_with_an_impossible_number_is_wrong_usage(refused):
    assert "is not cpu" in refused("verify", "no-bundle", "--device", "cuda:999999999999", code=2)


def test_weights_that_are_not_finite_are_never_exported(refused, tmp_path):
    state = torch.load(MODEL[0], weights_only=False)["model_ema"]
    state["z_proj.weight"][0, 0] = float("nan")
    torch.save({"model_ema": state}, tmp_path / "nan.pth")
    message = refused("build", str(tmp_path / "nan.pth"), *MODEL[1:], "--out", str(tmp_path / "b"))
    assert "z_proj.weight holds values that are not finite" in message


def test_wrong_usage_is_exit_code_2(refused, tmp_path):
    assert "No such option" in refused("build", *MODEL, "--fp4", "--out", str(tmp_path / "b"), code=2)
    assert "NAME=PRECISION" in refused("build", *MODEL, "--precision", "dit_head", "--out", str(tmp_path / "b"), code=2)
    assert "--case needs --recording" in refused("verify", str(tmp_path), "--case", "guided", code=2)
    assert "runs backwards" in refused(
        "generate", str(tmp_path), "--labels", "9-3", "--out", str(tmp_path / "x.png"), code=2
    )


def build_process(out: Path, preamble: str = "") -> subprocess.Popen:
    code = f"{preamble}\nimport sys\nfrom himar_export.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "build", *MODEL, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk(tmp_path):
    """A limit on the size of files makes writing fail in the middle, as a full disk does."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))"
    process = build_process(tmp_path / "b", limit)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "cannot be written: File too large; choose a disk that takes larger files" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(tmp_path, which):
    # Started in the background, a process inherits that Ctrl-C is ignored; a person's terminal does not.
    process = build_process(tmp_path / "b", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)")
    while not list(tmp_path.glob(".b.*/weights.bin")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, which)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_does_not_match_is_not_kept(refused, tmp_path, monkeypatch):
    """Export a graph with one wrong weight: the self-test must catch it and the bundle must go."""
    from himar_export.families.hi_mar import heads as head_graphs

    table = head_graphs.timestep_table

    def wrong(embedding):
        parameter = table(embedding)
        parameter[500:] += 0.5
        return parameter

    monkeypatch.setattr(head_graphs, "timestep_table", wrong)
    message = refused("build", *MODEL, "--out", str(tmp_path / "b"))
    assert "differs from the eager model" in message
    assert "head" in message or "run" in message


def test_a_weight_beyond_float16_is_refused(refused, tmp_path):
    state = torch.load(MODEL[0], weights_only=False)["model_ema"]
    state["cond_diffloss.net.blocks.0.mlp.fc1.weight"][0, 0] = 1e6
    torch.save({"model_ema": state}, tmp_path / "large.pth")
    message = refused("build", str(tmp_path / "large.pth"), *MODEL[1:], "--fp16", "--out", str(tmp_path / "b"))
    assert "overflows float16" in message


@pytest.mark.parametrize("case", ["", "a/b", "t", "phase1", "mlp", "dit_low", "mlp_high", "schedule"])
def test_a_recorded_run_is_not_named_like_a_key_of_the_layout(refused, tmp_path, case):
    arguments = ("--labels", "0", "--case", case, "--out", str(tmp_path / "x.npz"))
    assert f"{case!r} cannot name a run" in refused("record", str(tmp_path / "m.pth"), *arguments, code=2)
