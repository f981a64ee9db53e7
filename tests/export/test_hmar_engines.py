"""HMAR through its engines: the recordings of the released code, images by seed, settings, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from himar.families.hmar.checkpoints import load_checkpoint
from himar.families.hmar.sampler import sample_codes
from himar.families.hmar.tokenizer.files import load_tokenizer
from himar_export.cli import main
from himar_kernels import InputError
from himar_kernels.families.hmar import PhiloxDraws, recorded_cases
from himar_kernels.families.hmar.recording import load_recording
from himar_runtime import Pipeline, Recipe, read_recipes
from tests.closeness import RUN, SAME_ENGINES, assert_near, assert_same_pixels

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = ["masked", "nsp", "smooth", "unfiltered", "unguided", "var"]
QUICK = {"schedule": [[1], [1, 3]], "top_k": 20}


@pytest.fixture(scope="module")
def pipeline(hmar_bundle):
    return Pipeline.load(hmar_bundle)


@pytest.fixture(scope="module")
def eager():
    model = load_checkpoint(GOLDEN / "hmar-narrow-144.pth", GOLDEN / "hmar-narrow-144.json")
    return model, load_tokenizer(GOLDEN / "hmar-vae-narrow.pth", model.config)


def test_every_recorded_case_is_in_the_list():
    assert recorded_cases(load_recording(GOLDEN / "hmar-narrow-144.npz")) == CASES


@pytest.mark.parametrize("case", CASES)
def test_a_recorded_case_gives_its_codes_exactly(hmar_bundle, capsys, case):
    recording = GOLDEN / "hmar-narrow-144.npz"
    assert main(["verify", str(hmar_bundle), "--recording", str(recording), "--case", case, "--json"]) == 0
    outputs = {each["name"]: each for each in json.loads(capsys.readouterr().out)["comparisons"]}
    assert all(each["passed"] for each in outputs.values())
    assert outputs["next_scale_tail: logits of all scales"]["relative_l2"] < 1e-5
    assert outputs["masked_tail: logits of all scales"]["relative_l2"] < 1e-5
    if case != "smooth":
        assert outputs[f"run {case}: codes"]["max_abs"] == 0


def test_a_seed_gives_the_codes_of_the_eager_sampler(pipeline, eager):
    sampling = pipeline.bundle.manifest.sampling["masked"].with_changes(**QUICK)
    result = pipeline.generate([2, 5, 0], seed=11, sampling=sampling)
    expected = sample_codes(*eager, [2, 5, 0], draws=PhiloxDraws(11), sampling=sampling)
    np.testing.assert_array_equal(result.arrays["codes"], expected.codes.numpy())
    assert_near(result.latents, expected.f_hat.numpy(), RUN)


def test_an_image_depends_on_its_seed_index_and_label_alone(pipeline):
    together = pipeline.generate([1, 2, 3, 4], seed=5, **QUICK)  # two chunks: max_batch is 3
    alone = pipeline.generate([4], seed=5, first_index=3, **QUICK)
    np.testing.assert_array_equal(together.arrays["codes"][3:], alone.arrays["codes"])
    assert_near(together.latents[3:], alone.latents, SAME_ENGINES)


def test_a_recipe_makes_its_image_again(hmar_bundle, pipeline, tmp_path):
    out = tmp_path / "grid.png"
    assert main(["generate", str(hmar_bundle), "--labels", "6", "--count", "2", "--seed", "3", "--out", str(out)]) == 0
    recipe = read_recipes(out)[1]
    assert (recipe.family, recipe.index, recipe.label) == ("hmar", 1, 6)
    assert Recipe.from_dict(recipe.to_dict(), "x") == recipe
    again = pipeline.generate(**recipe.request())
    assert_same_pixels(again.images[0], pipeline.generate([6, 6], seed=3).images[1])


def test_previews_grow_scale_by_scale_and_a_callback_cancels(pipeline):
    seen = []

    def on_step(step):
        seen.append((step.phase, step.done, step.total, step.preview().shape))
        return len(seen) < 3

    result = pipeline.generate([0, 1], on_step=on_step, **QUICK)
    assert result.status == "cancelled"
    assert seen == [(f"scale {i}", i, 5, (2, 144, 144, 3)) for i in (1, 2, 3)]
    assert (result.images.shape, result.arrays["codes"].shape) == ((0, 144, 144, 3), (0, 131))


def test_inspect_says_what_it_is(hmar_bundle, capsys):
    assert main(["inspect", str(hmar_bundle)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "7 classes, 5 scales of sides 1 2 3 6 9, 144 codes, images 144×144" in printed
    assert "trunk of 3 blocks → next_scale_tail or masked_tail of 8" in printed


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schedule": [[1], [1, 2]]}, "schedule of scale 1 is [1, 2], which sums to 3, but the scale has 4 cells"),
        ({"schedule": [[1]] * 6}, "schedule has lists for 6 scales, but the model has 5"),
        ({"top_p": 0}, "top_p is 0; it must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5; it must be above 0 and at most 1"),
        ({"top_k": 145}, "top_k is 145, but the model has 144 codes; ask for 0 (all) to 144."),
        ({"sampling": "fast"}, "sampling 'fast' is not in this bundle; it has "),
    ],
)
def test_settings_that_do_not_fit_are_refused(pipeline, changes, sentence):
    with pytest.raises(InputError) as caught:
        pipeline.generate([0], **changes)
    assert sentence in str(caught.value)


def test_a_build_without_its_tokenizer_is_refused(capsys, tmp_path):
    checkpoint, out = GOLDEN / "hmar-narrow-144.pth", tmp_path / "bundle"
    assert main(["build", str(checkpoint), "--config", str(checkpoint.with_suffix(".json")), "--out", str(out)]) == 1
    assert "HMAR needs the tokenizer whose codes the model predicts; give it with --vae." in (
        " ".join(capsys.readouterr().err.split())
    )
    assert not out.exists()


def test_a_setting_of_another_family_is_refused(hmar_bundle, capsys, tmp_path):
    arguments = ["--labels", "0", "--low-steps", "3", "--out", str(tmp_path / "x.png")]
    assert main(["generate", str(hmar_bundle), *arguments]) == 1
    assert "low_steps is given, but an HMAR model has no such setting; it has guidance, top_k" in (
        " ".join(capsys.readouterr().err.split())
    )
