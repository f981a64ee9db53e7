"""`himar-export bench` as a user calls it: what it prints and writes, what it refuses, and what it says on a GPU."""

import json
import shutil
from pathlib import Path

import pytest

from himar import load_checkpoint, save_checkpoint
from himar_export.bench.workload import Sources, load
from himar_export.cli import main

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
GOLDEN = Path(__file__).parents[1] / "golden"
DIGITS = ("--checkpoint", WEIGHTS / "digits.safetensors")
VAE = ("--vae", WEIGHTS / "digits-vae.safetensors")
FAST = ("--low-steps", 1, "--high-steps", 1, "--low-diffusion-steps", 8, "--high-diffusion-steps", 4, "--warm-up", 0)
PARTS = ["transformer_low", "transformer_high", "mlp_head", "dit_head", "vae_decoder"]


def run(capsys, *arguments, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main([str(argument) for argument in ("bench", *arguments)]) == code
    printed = capsys.readouterr()
    return printed.out, " ".join(printed.err.split())


def test_a_run_says_everything_in_json_markdown_and_plots(capsys, digits_bundle, tmp_path):
    markdown, plots = tmp_path / "bench.md", tmp_path / "plots"
    files = ("--markdown", markdown, "--plots", plots)
    asked = ("--batch", 2, "--repeats", 6, "--components", "--threads", 1, "--json")
    report = json.loads(run(capsys, digits_bundle, *DIGITS, *VAE, *FAST, *asked, *files)[0])

    assert (report["to"], report["device"], report["threads"], report["differ"]) == ("images", "cpu", 1, [])
    assert {"processor", "cores", "versions", "date", "command"} <= report["environment"].keys()
    assert report["sampling"]["low_diffusion_steps"] == 8
    assert [each["batch"] for each in report["generations"]] == [2]
    for generation in report["generations"]:
        assert {c["name"] for c in generation["comparisons"]} == {
            f"{side}: {name}" for side in ("eager", "engines") for name in ("latents", "images")
        }
        assert all(c["passed"] for c in generation["comparisons"])
        engines = generation["times"]["engines"]
        assert len(engines["seconds"]) == len(generation["times"]["eager"]["seconds"]) == 6
        count = engines["summary"]["count"]
        assert count == sum(len(each) for each in engines["rounds"]) >= 6
        assert (engines["summary"]["p90"] is None) == (count < 10) and len(engines["warm_up"]["seconds"]) == 1
        assert generation["images_per_second"]["engines"] == generation["batch"] / engines["summary"]["median"]
        assert generation["ratios"]["eager"]["low"] <= generation["ratios"]["eager"]["high"]
        for split in generation["splits"].values():
            assert sorted(part["component"] for part in split["parts"]) == sorted(PARTS)
            assert {part["component"]: part["calls"] for part in split["parts"]}["mlp_head"] == 8
            assert sum(split["phases"].values()) + split["host"] == pytest.approx(split["seconds"])
        assert all(each["flops"] > 0 and each["share"] > 0 for each in generation["reached"].values())
        assert all(len(split["others"]) == 2 for split in generation["splits"].values())
        assert generation["split_whole"]["seconds"] == generation["splits"]["engines"]["seconds"]
    assert report["built_from_it"] and len(report["checkpoint_sha256"]) == len(report["bundle_id"]) == 64
    assert [each["name"] for each in report["components"]] == PARTS
    assert all(each["ratios"]["eager"]["value"] > 0 for each in report["components"])

    text = markdown.read_text()
    assert f"An image takes {report['workload']}." in text and " × 8, guidance 2; " in report["workload"]
    assert "| batch | side | least | median | mean | p90 | p95 | p99 | CV | s/image | images/s |" in text
    assert "where the seconds go" in text and "Single components" in text and "* processor: " in text
    assert sorted(path.name for path in plots.iterdir()) == ["latency.png", "roofline.png", "speedup.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.iterdir())


def test_in_half_precision_eager_in_float32_is_timed_too_and_the_default_output_is_short(capsys, digits_fp16_bundle):
    """On a CPU, where PyTorch's half-precision matmuls are slow, the ratio to look at is the one against float32."""
    text, _ = run(capsys, digits_fp16_bundle, *DIGITS, *FAST, "--repeats", 3, "--memory")
    lines = text.splitlines()
    assert len(lines) < 40
    assert "against the eager model, fp16 (eager by autocast), labels to latents, on cpu" in lines[0]
    assert [line.split("│")[2].strip() for line in lines if line.startswith("│ 1 ")] == [
        *("eager", "eager fp32", "engines"), *("eager", "engines"),
    ]  # fmt: skip
    assert "engines against eager fp32" in text
    assert "inconclusive: 3 rounds are too few" in text
    assert "vae_decoder" not in text
    assert "peak resident" in text


def test_a_model_with_other_numbers_has_no_latency_and_the_exit_code_says_so(capsys, digits_bundle, tmp_path):
    """Another model of the same sizes: its classes stand in another order."""
    model = load_checkpoint(WEIGHTS / "digits.safetensors")
    model.class_emb.weight.copy_(model.class_emb.weight.flip(0))
    save_checkpoint(model, tmp_path / "moved.safetensors")
    other = ("--checkpoint", tmp_path / "moved.safetensors", *FAST, "--repeats", 3)
    text, message = run(capsys, digits_bundle, *other, "--plots", tmp_path / "plots", code=1)
    assert "error: outputs differ and were not timed: generation at batch 1: engines: latents is" in message
    assert "images/s" not in text and "where the seconds go" not in text
    assert not (tmp_path / "plots").exists()


def test_a_bundle_of_an_older_schema_is_the_same_model(capsys, digits_bundle, tmp_path):
    """Its manifest does not say what all models were then: pivots, heads, scale vector."""
    older = tmp_path / "older"
    shutil.copytree(digits_bundle, older)
    manifest = json.loads((older / "manifest.json").read_text())
    manifest["schema_version"] = "1.0"
    for name in ("pivots", "low_head", "high_head", "scale_vector"):
        del manifest["model"][name]
    (older / "manifest.json").write_text(json.dumps(manifest))
    sources = Sources(older, DIGITS[1], None, None, None, "cpu", None, None, {})
    assert load(sources, 1).model.config.to_dict()["pivots"] == "condition"


def test_what_cannot_be_compared_is_refused_before_anything_runs(capsys, digits_bundle):
    other = ("--checkpoint", GOLDEN / "himar-narrow-128.pth", "--config", GOLDEN / "himar-narrow-128.json")
    assert "is not the model of" in run(capsys, digits_bundle, *other, code=1)[1]
    assert (
        "batch 65 is beyond the bundle's max_batch 64" in run(capsys, digits_bundle, *DIGITS, "--batch", 65, code=1)[1]
    )
    assert "phase low has only 16 positions" in run(capsys, digits_bundle, *DIGITS, "--low-steps", 17, code=1)[1]
    assert "--repeats" in run(capsys, digits_bundle, *DIGITS, "--repeats", 2, code=2)[1]


@pytest.mark.parametrize("option", ["--markdown", "--plots"])
def test_what_cannot_be_written_is_refused_before_anything_runs(capsys, digits_bundle, tmp_path, monkeypatch, option):
    monkeypatch.setattr("himar_export.bench.run.run_bench", lambda *_: pytest.fail("it ran"))
    (tmp_path / "file").touch()
    message = run(capsys, digits_bundle, *DIGITS, option, tmp_path / "file" / "x", code=1)[1]
    assert "file/x cannot be written: Not a directory; " in message


def test_plots_without_matplotlib_name_the_extra_before_anything_runs(capsys, digits_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("himar_kernels.shared.console.find_spec", lambda name: None if name == "matplotlib" else name)
    message = run(capsys, digits_bundle, *DIGITS, "--plots", tmp_path / "plots", code=1)[1]
    assert "needs matplotlib, which is not installed: pip install 'himar[plot]'" in message
    assert not (tmp_path / "plots").exists()


def test_memory_is_measured_in_processes_and_one_that_fails_costs_nothing_else(capsys, digits_bundle, monkeypatch):
    short = (*DIGITS, *FAST, "--repeats", 3, "--threads", 1, "--memory")
    (generation,) = json.loads(run(capsys, digits_bundle, *short, "--json")[0])["generations"]
    eager, engines = (generation["memory"][side] for side in ("eager", "engines"))
    assert eager["peak"] > eager["imported"] > engines["peak"] > engines["imported"] > 1e7  # torch is eager's alone
    monkeypatch.setattr("himar_export.bench.run.sys.executable", shutil.which("false"))
    said = run(capsys, digits_bundle, *short)[0]
    assert "no memory: the process that measures the memory of eager failed: exit code 1" in " ".join(said.split())
    assert "engines against eager" in said


def test_a_bundle_of_another_file_says_so(capsys, digits_bundle, tmp_path):
    again = tmp_path / "again.safetensors"
    save_checkpoint(load_checkpoint(WEIGHTS / "digits.safetensors"), again)
    assert again.read_bytes() != (WEIGHTS / "digits.safetensors").read_bytes()
    said = run(capsys, digits_bundle, "--checkpoint", again, *FAST, "--repeats", 3, "--threads", 1)[0]
    assert "The bundle was built from another file than this checkpoint" in said


def test_a_gpu_that_is_not_there_is_refused(capsys, digits_bundle):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    message = run(capsys, digits_bundle, *DIGITS, "--device", "cuda", code=1)[1]
    assert "PyTorch has no GPU here for device 'cuda'; use --device cpu" in message


@pytest.mark.gpu
def test_on_a_gpu_both_sides_are_timed_split_and_their_memory_measured(capsys, digits_bundle):
    asked = ("--device", "cuda", "--batch", 4, "--repeats", 6, "--components", "--memory", "--compile", "--json")
    report = json.loads(run(capsys, digits_bundle, *DIGITS, *VAE, *FAST, *asked)[0])
    (generation,) = report["generations"]
    assert report["environment"]["gpu"]
    assert set(generation["times"]) == {"eager", "compiled", "engines"}
    assert all(each["share"] > 0 for each in generation["reached"].values())
    assert generation["memory"]["eager"]["allocated"] > 0
    assert generation["memory"]["engines"]["device"] > 0
    assert len(report["components"]) == len(PARTS)


@pytest.mark.gpu
@pytest.mark.slow
def test_half_precision_on_a_gpu(capsys, digits_fp16_bundle):
    asked = ("--device", "cuda", "--batch", 4, "--repeats", 6, "--json")
    report = json.loads(run(capsys, digits_fp16_bundle, *DIGITS, *VAE, *asked)[0])
    assert report["precision"]["dit_head"] == "fp16"
    assert {"eager", "engines"} <= set(report["generations"][0]["times"])
