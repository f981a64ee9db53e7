"""`himar-export inspect --cost` as a person uses it: a bundle, a configuration, and what does not go together."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from himar_export.cli import main
from himar_export.cost.decoder import DecoderSizes, vae_decoder

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
VAE = WEIGHTS / "digits-vae.safetensors"


def run(capsys, *arguments, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["inspect", *(str(argument) for argument in arguments)]) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err.strip()


def cost(capsys, *arguments) -> dict:
    return json.loads(run(capsys, "--cost", *arguments, "--json"))


def test_a_configuration_is_costed_without_a_bundle(capsys):
    text = run(
        capsys, "--cost", "--config", "himar-b", "--fp16", "--batch", "128",
        "--peak-tflops", "790", "--peak-gbps", "4800",
    )  # fmt: skip
    assert "128 images at once; 32 low steps × 100, guidance 2.7; 4 high steps × 250, guidance 2.5" in text
    for cell in ("transformer_low", "dit_head", "vae_decoder", "31.16 T", "31.56 T", "39.06 T", "48.6", "81.2%"):
        assert cell in text
    assert "engines do 1.9% less" in text
    assert "At most 20.6 " in text
    assert "…" not in text, "a column does not fit a terminal of 80 characters"


def test_the_title_says_what_is_left_out(capsys):
    text = run(
        capsys, "--cost", "--config", "himar-b", "--high-steps", "2", "--high-diffusion-counts", "250,50",
        "--high-guidances", "1,2.5", "--high-forecast", "3", "--guidance-interval", "2",
    )  # fmt: skip
    assert (
        "4 high steps" not in text
        and "2 high steps × 250/50, guidance 1/2.5, one index in 3 evaluated; both halves in one of 2 evaluations"
        in text
    )


def test_json_holds_what_was_asked_and_every_component(capsys):
    found = cost(capsys, "--config", "himar-b", "--bf16", "--precision", "vae_decoder=fp32", "--peak-tflops", "100")
    assert found["precision"] == {
        **dict.fromkeys(("transformer_low", "mlp_head", "transformer_high", "dit_head"), "bf16"),
        "vae_decoder": "fp32",
    }
    assert [row["calls"] for row in found["components"]] == [32, 3200, 4, 1000, 1]
    for key in ("flops", "weight_bytes", "activation_bytes", "compute_seconds"):
        assert found["total"][key] == pytest.approx(sum(row[key] for row in found["components"]))
    assert found["total"]["bound_seconds"] == pytest.approx(found["total"]["flops"] / 100e12)
    assert found["total"]["memory_seconds"] is None
    assert found["flops_per_image"] == found["total"]["flops"]


def test_a_configuration_is_costed_without_pytorch():
    code = (
        "import sys; from himar_export.cli import main; "
        "code = main(['inspect', '--cost', '--config', 'mar-b', '--json']); "
        "sys.exit(code or ('torch' in sys.modules and 'torch was imported'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"]["calls"] == 256 * 101 + 1


def test_steps_and_guidance_change_the_cost(capsys):
    usual = cost(capsys, "--config", "himar-b")["components"]
    fast = cost(capsys, "--config", "himar-b", "--high-diffusion-steps", "25", "--low-steps", "8")["components"]
    assert fast[3]["flops"] * 10 == usual[3]["flops"]
    assert fast[0]["calls"] == 8
    single = cost(capsys, "--config", "himar-b", "--guidance", "1")["components"]
    assert [2 * row["flops"] for row in single[:4]] == [row["flops"] for row in usual[:4]]
    in_half = cost(capsys, "--config", "himar-b", "--fp16")["components"]
    assert [row["flops"] for row in in_half] == [row["flops"] for row in usual]
    assert all(half["weight_bytes"] < row["weight_bytes"] for half, row in zip(in_half, usual, strict=True))


def test_a_single_scale_has_one_phase(capsys):
    found = cost(capsys, "--config", "mar-b")
    assert [row["component"] for row in found["components"]] == ["transformer_high", "mlp_head_high", "vae_decoder"]
    assert [row["calls"] for row in found["components"]] == [256, 25600, 1]


def test_a_bundle_is_costed_in_its_own_precisions_with_its_own_decoder(capsys, digits_bundle, digits_fp16_bundle):
    found = cost(capsys, digits_bundle, "--batch", "16")
    assert found["batch"] == 16
    assert set(found["precision"].values()) == {"fp32"}
    named = {row["component"]: row for row in found["components"]}
    graph = onnx.load(digits_bundle / "vae_decoder.onnx", load_external_data=False).graph
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    assert named["vae_decoder"]["flops"] == vae_decoder(DecoderSizes.from_shapes(shapes, "x"), 16, 8).flops
    in_half = {row["component"]: row for row in cost(capsys, digits_fp16_bundle, "--batch", "16")["components"]}
    assert in_half["dit_head"]["activation_bytes"] < named["dit_head"]["activation_bytes"]
    assert in_half["dit_head"]["flops"] == named["dit_head"]["flops"]
    # The same model, from its configuration and its VAE's checkpoint.
    again = cost(capsys, "--config", "digits", "--vae", VAE, "--batch", "16")
    assert again["components"] == found["components"]


def test_tokens_of_another_vae_are_costed_up_to_latents(capsys):
    text = run(capsys, "--cost", "--config", "digits")
    assert "vae_decoder" not in text
    assert "No VAE decoder is counted" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cost"], "--cost needs a bundle, or --config"),
        ([], "Missing argument 'PATH'; only --cost --config needs none"),
        (["x", "--batch", "2"], "--batch needs --cost or --memory"),
        (["x", "--fp16"], "--fp16 needs --cost"),
        (["x", "--sampling", "paper"], "--sampling needs --cost"),
        (["x", "--peak-gbps", "3"], "--peak-gbps needs --cost"),
        (
            ["x", "--cost", "--config", "digits"],
            "--config describes a model without a bundle",
        ),
        (["x", "--cost", "--bf16"], "--bf16 describes a model without a bundle, but the bundle x has its own"),
        (["--cost", "--config", "himar-x"], "configuration 'himar-x' is neither a preset"),
        (["--cost", "--config", "digits", "--peak-tflops", "0"], "0.0 is not in the range x>0"),
        (["--cost", "--config", "digits", "--peak-gbps", "nan"], "'nan' is not a finite number"),
        (["--cost", "--config", "digits", "--batch", "0"], "0 is not in the range"),
        (["--cost", "--config", "digits", "--batch", str(10**30)], "is not in the range 1<=x<=1048576"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(capsys, arguments, text):
    assert text in run(capsys, *arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--config", "himar-b", "--low-steps", "65"], "phase low has only 64 positions"),
        (["--config", "mar-b", "--low-steps", "3"], "but the model of mar-b has a single scale"),
        (["--config", "himar-b", "--sampling", "slow"], "sampling 'slow' is not in this configuration; it has"),
        (["--config", "digits", "--precision", "vae_decoder=fp16"], "this model has no component 'vae_decoder'"),
        (["--config", "himar-b", "--vae", str(VAE)], "digits-vae.safetensors"),
    ],
)
def test_costs_that_cannot_be_given_say_why(capsys, arguments, text):
    message = run(capsys, "--cost", *arguments, code=1)
    assert message.startswith("error: ")
    assert text in message


def test_more_images_than_a_bundles_engines_run_at_once_are_refused(capsys, digits_bundle):
    message = run(capsys, "--cost", digits_bundle, "--batch", "65", code=1)
    assert "batch is 65, but the engines of" in message
    assert "ask for 1 to 64" in message
