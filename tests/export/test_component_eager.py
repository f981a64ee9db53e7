"""`himar-export bench --component-eager`: which engine is wrong, which is slow, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from himar_export.bench.measurement import ENGINES, Measurement
from himar_export.bench.mix_report import mix_table, mix_verdicts
from himar_export.bench.mixes import Difference, MixResult
from himar_export.bench.verdict import Ratio
from himar_export.cli import main
from tests.export.damage import NANS, damaged_copy

WEIGHTS = Path(__file__).parents[2] / "himar" / "himar" / "weights"
GOLDEN = Path(__file__).parents[1] / "golden"
DIGITS = ("--checkpoint", WEIGHTS / "digits.safetensors", "--vae", WEIGHTS / "digits-vae.safetensors")
FAST = ("--low-steps", 1, "--high-steps", 1, "--low-diffusion-steps", 8, "--high-diffusion-steps", 4)
QUICK = ("--warm-up", 0, "--repeats", 3, "--threads", 1)
PARTS = ["transformer_low", "mlp_head", "transformer_high", "dit_head", "vae_decoder"]


def bench(capsys, *arguments: object, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main([str(argument) for argument in ("bench", *arguments)]) == code
    printed = capsys.readouterr()
    return printed.out, " ".join(printed.err.split())


def by_side(report: dict) -> dict[str, dict]:
    (generation,) = report["generations"]
    return {each["side"]: each for each in generation["mixes"]}


def test_the_mix_without_the_faulty_engine_comes_back_to_eager(capsys, digits_bundle, tmp_path):
    wrong = damaged_copy(digits_bundle, tmp_path / "wrong", "dit_head", "blocks.0.fc1.weight")
    asked = (*DIGITS, *FAST, *QUICK, "--component-eager", "all")
    out, message = bench(capsys, wrong, *asked, "--json", code=1)
    report = json.loads(out)
    found = by_side(report)
    assert list(found) == ["eager", "engines", *(f"{name} eager" for name in PARTS), "all of these eager"]
    right = {side for side, each in found.items() if each["agrees"]}
    assert right == {"eager", "dit_head eager", "all of these eager"}
    assert found["engines"]["from_eager"]["latents"] > 0.01 and found["engines"]["from_engines"]["latents"] == 0
    healed = found["dit_head eager"]
    assert healed["from_eager"]["latents"] < 1e-3 < 0.01 < healed["from_engines"]["latents"]
    assert healed["from_eager"]["pixels"] <= 2 < found["engines"]["from_eager"]["pixels"]
    assert found["vae_decoder eager"]["from_engines"]["latents"] == 0
    assert report["differ"] == [next(each for each in report["differ"] if "engines: latents is" in each)]
    assert "dit_head" not in message


def test_an_engine_that_gives_what_is_not_finite_is_found_too(capsys, digits_bundle, tmp_path):
    """The head is told by the transformer, and is the first whose values are looked at."""
    wrong = damaged_copy(digits_bundle, tmp_path / "nan", "transformer_high", "encoder.0.proj.weight", NANS)
    out, message = bench(capsys, wrong, *DIGITS, *FAST, *QUICK, "--component-eager", "all", code=1)
    assert "engines: transformer_high returned values that are not finite" in message
    assert (
        "with transformer_high eager the latents' difference from eager falls from inf to" in out
        and "it is this engine that is wrong." in out
    )


def test_right_engines_are_timed_beside_their_mixes_in_both_precisions(capsys, digits_fp16_bundle, tmp_path):
    asked = (*DIGITS, *FAST, *QUICK, "--component-eager", "dit_head", "--component-eager", "vae_decoder")
    report = json.loads(bench(capsys, digits_fp16_bundle, *asked, "--json")[0])
    (generation,) = report["generations"]
    sides = [f"{name} {kind}" for name in ("dit_head", "vae_decoder") for kind in ("eager", "eager fp32")]
    assert list(generation["times"]) == ["eager", "eager fp32", "engines", *sides]
    assert all(
        len(generation["times"][side]["seconds"]) == 3 and generation["ratios"][side]["value"] > 0 for side in sides
    )
    found = by_side(report)
    assert [each["components"] for each in found.values()] == [
        [],
        [],
        [],
        *([name] for name in ("dit_head",) * 2 + ("vae_decoder",) * 2),
    ]
    assert all(each["agrees"] for each in found.values())
    assert found["eager fp32"]["from_eager"] == {"latents": 0, "pixels": 0, "codes": None}
    text, _ = bench(capsys, digits_fp16_bundle, *asked[:-2])
    assert "components run eagerly in the engines' loop" in text and "the engines are right" in text
    assert all(len(line) <= 120 for line in text.splitlines() if line.startswith(("┃", "│")))


@pytest.mark.slow
@pytest.mark.parametrize("component", ["masked_tail", "conditions", "vae_decoder"])
def test_hmars_faulty_engine_is_found(capsys, hmar_bundle, tmp_path, component):
    weight = {
        "masked_tail": "blocks.blocks.0.fc1.weight",
        "conditions": "groups.0.linear.weight",
        "vae_decoder": "decoder.conv_in.weight",
    }[component]
    wrong = damaged_copy(hmar_bundle, tmp_path / "wrong", component, weight)
    given = ("--checkpoint", GOLDEN / "hmar-narrow-144.pth", "--config", GOLDEN / "hmar-narrow-144.json")
    asked = (
        *given,
        "--vae",
        GOLDEN / "hmar-vae-narrow.pth",
        "--sampling",
        "masked",
        *QUICK,
        "--component-eager",
        "all",
    )
    report = json.loads(bench(capsys, wrong, *asked, "--json", code=1)[0])
    found = by_side(report)
    assert {side for side, each in found.items() if each["agrees"]} == {
        "eager", f"{component} eager", "all of these eager",
    }  # fmt: skip
    assert found[f"{component} eager"]["from_eager"]["codes"] == 0
    if component != "vae_decoder":
        assert found["engines"]["from_eager"]["codes"] > 0.1 and found["engines"]["parts"] > 0.01


def test_a_model_from_text_is_compared_from_contexts(capsys, text_bundle, text_checkpoint):
    asked = ("--checkpoint", text_checkpoint, *DIGITS[2:], *QUICK, "--batch", 2, "--component-eager")
    out, _ = bench(capsys, text_bundle, *asked, "all", "--components", "--memory", "--json")
    report = json.loads(out)
    assert (report["given"], report["to"], report["differ"]) == ("contexts", "images", [])
    found = by_side(report)
    assert list(found) == ["eager", "engines", *(f"{name} eager" for name in PARTS), "all of these eager"]
    assert all(each["agrees"] for each in found.values())
    assert len(report["components"]) == len(PARTS)
    assert set(report["generations"][0]["memory"]) == {"eager", "engines"}
    message = bench(capsys, text_bundle, *asked, "text_encoder", code=1)[1]
    assert message.endswith("text_encoder runs eagerly with its own tower; give --text, as for build.")


def test_a_faulty_text_tower_is_found_from_prompts(capsys, text_bundle, text_checkpoint, tmp_path):
    wrong = damaged_copy(text_bundle, tmp_path / "wrong", "text_encoder", "last_norm.weight")
    given = ("--checkpoint", text_checkpoint, "--text", text_checkpoint.with_name("clip"), *DIGITS[2:], *QUICK)
    asked = (*given, "--batch", 2, "--component-eager", "all", "--json")
    for bundle, code in ((text_bundle, 0), (wrong, 1)):
        report = json.loads(bench(capsys, bundle, *asked, *(() if code else ("--memory",)), code=code)[0])
        found = by_side(report)
        names = ["text_encoder", *PARTS]
        assert report["given"] == "prompts"
        assert list(found) == ["eager", "engines", *(f"{name} eager" for name in names), "all of these eager"]
        right = {"eager", "text_encoder eager", "all of these eager"} if code else set(found)
        assert {side for side, each in found.items() if each["agrees"]} == right
    assert found["engines"]["from_eager"]["latents"] > 0.001


def test_a_text_tower_that_cannot_be_compared_is_refused(capsys, digits_bundle, text_bundle, text_checkpoint, tmp_path):
    clip = text_checkpoint.with_name("clip")
    message = bench(capsys, digits_bundle, *DIGITS, "--text", clip, code=1)[1]
    assert f"{clip} is a text tower, but this model makes images of classes; leave --text out." in message
    shutil.copytree(text_bundle, lacking := tmp_path / "lacking")
    manifest = json.loads((lacking / "manifest.json").read_text())
    del manifest["components"]["text_encoder"]
    (lacking / "manifest.json").write_text(json.dumps(manifest))
    message = bench(capsys, lacking, "--checkpoint", text_checkpoint, "--text", clip, code=1)[1]
    assert f"has no text encoder to compare with {clip}; leave --text out." in message


def test_what_cannot_run_eagerly_is_refused_in_a_sentence(capsys, digits_bundle, held_bundle):
    parts = "transformer_low, transformer_high, mlp_head, dit_head, vae_decoder"
    message = bench(capsys, digits_bundle, *DIGITS, "--component-eager", "head", code=2)[1]
    assert f"{digits_bundle} has no component 'head'; it has {parts}, and all tries each." in message
    message = bench(capsys, digits_bundle, "--component-eager", "dit_head", code=2)[1]
    assert message.endswith("Missing option '--checkpoint'.")
    message = bench(capsys, digits_bundle, *DIGITS[:2], *FAST, "--component-eager", "vae_decoder", code=1)[1]
    assert message.endswith("vae_decoder runs eagerly with its own checkpoint; give --vae, as for build.")
    message = bench(capsys, held_bundle, *DIGITS, *FAST, "--component-eager", "dit_head_held", code=1)[1]
    assert "dit_head_held has no part in a generation with these settings" in message
    assert message.endswith(f"what has a part is {', '.join(PARTS)}.")
    held = (*DIGITS, *FAST, *QUICK, "--modulation-interval", 2, "--component-eager")
    message = bench(capsys, held_bundle, *held, "dit_head_held", code=1)[1]
    assert "dit_head_held is a part of a network that PyTorch runs as a whole; choose settings" in message
    out, message = bench(capsys, held_bundle, *held, "all", "--json")
    assert (
        "warning: not tried eagerly, because PyTorch runs their networks as wholes: dit_head_modulations, dit_"
        in message
    )
    tried = [f"{name} eager" for name in PARTS if name != "dit_head"]
    assert list(by_side(json.loads(out))) == ["eager", "engines", *tried, "all of these eager"]


def result(side: str, latents: float, agrees: bool = True, parts: float | None = None) -> MixResult:
    """Return what a side gave; its first word names what ran eagerly, "every" two of them."""
    first = side.split()[0]
    components = {"engines": (), "every": ("a", "b")}.get(first, (first,))
    return MixResult(side, components, Difference(latents, 3, None), Difference(0.0, None, None), parts, agrees)


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ([("engines", 0.5, False), ("a eager", 0.5, False), ("b eager", 1e-6)],
         "with b eager the latents' difference from eager falls from 5.0e-01 to 1.0e-06: it is this engine that"),
        ([("engines", 0.5, False, 0.1), ("a eager", 0.4, True, 1e-6)],
         "with a eager the largest difference of a single component falls from 1.0e-01 to 1.0e-06: it is this"),
        ([("engines", 0.5, False), ("a eager", 1e-6), ("b eager", 1e-6)],
         "with each of a, b eager by itself the outputs are right"),
        ([("engines", 0.5, False), ("a eager", 0.5, False)],
         "with a eager, one at a time, the outputs stay wrong; try the others, or all."),
        ([("engines", 0.5, False), ("a eager", 0.5, False), ("b eager", 0.4, False), ("every eager", 1e-6)],
         "and with all of them eager they are right: more than one engine is wrong."),
        ([("engines", 0.5, False), ("a eager", 0.5, False), ("b eager", 0.4, False), ("every eager", 0.5, False)],
         "with all of them eager too: what is between the networks is wrong, or the checkpoint is another."),
        ([("engines", 1e-2), ("a eager", 9e-3), ("b eager", 8e-3), ("b eager fp32", 2e-3)],
         "most of their rounding goes with b eager fp32: the latents' difference from eager falls from 1.0e-02 to"),
        ([("engines", 1e-2), ("a eager", 9e-3)],
         "the engines are right, and no component that runs eagerly brings them nearer to eager."),
    ],
)  # fmt: skip
def test_the_verdict_says_what_the_differences_say(results, said):
    measured = Measurement("generation", 2, ())
    (verdict,) = mix_verdicts(measured, [result(*each) for each in results])
    assert verdict.startswith("generation, batch 2: ") and said in verdict
    table = mix_table(measured, [result(*each) for each in results])
    assert table.rows[0][:3] == ("engines", "yes" if len(results[0]) == 2 else "NO", "–")
    assert table.rows[0][4] == f"{results[0][1]:.1e}, 3/255"


def test_an_engine_slower_than_pytorch_is_named():
    ratios = {
        "a eager": Ratio(0.8, 0.7, 0.9, ()),
        "b eager": Ratio(0.8, 0.7, 1.1, ("a doubt",)),
        "every eager": Ratio(0.5, 0.4, 0.6, ()),
    }
    measured = Measurement("generation", 1, (), ratios=ratios)
    results = [result(side, 1e-6) for side in (ENGINES, *ratios)]
    said = list(mix_verdicts(measured, results))
    assert said[1:] == [
        "generation, batch 1: with a eager it takes 0.80 of the engines' time (95 % interval 0.70 … 0.90): this engine "
        "is slower than PyTorch here."
    ]  # fmt: skip
    assert list(mix_verdicts(measured, [])) == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["all", "mlp_head", "vae_decoder"])
def test_on_a_gpu_a_mix_runs_on_the_loops_buffers(capsys, digits_bundle, name):
    asked = ("--device", "cuda", "--batch", 9, "--component-eager", name, "--json")
    found = by_side(json.loads(bench(capsys, digits_bundle, *DIGITS, *QUICK, *asked)[0]))
    assert all(each["agrees"] for each in found.values())
    assert all(each["from_engines"]["pixels"] <= 1 for each in found.values())
    assert len(found) == 2 + (len(PARTS) + 1 if name == "all" else 1)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("settings", [("--sampling", "masked"), ("--all-scales", "--schedule", "[]")], ids=str)
def test_on_a_gpu_hmars_mixes_give_the_codes_of_its_engines(capsys, hmar_bundle, settings):
    given = ("--checkpoint", GOLDEN / "hmar-narrow-144.pth", "--config", GOLDEN / "hmar-narrow-144.json")
    asked = (*given, "--vae", GOLDEN / "hmar-vae-narrow.pth", *settings, *QUICK, "--device", "cuda", "--batch", 3)
    found = by_side(json.loads(bench(capsys, hmar_bundle, *asked, "--component-eager", "all", "--json")[0]))
    assert all(each["agrees"] for each in found.values())
    assert all(each["from_engines"]["codes"] == 0 for each in found.values())
