"""A bundle that lies in a benchmark's folder is measured only if it is the one that is asked for."""

from pathlib import Path

import pytest

from benchmarks.gpu import build as report_build
from benchmarks.gpu.build import build_bundles

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"


def outcome(work: Path, precision: str = "fp32", max_batch: int = 64) -> dict:
    return build_bundles(work, "digits", precision, max_batch, ("onnxruntime",), "cpu")["backends"]["onnxruntime"]


@pytest.fixture
def work(digits_bundle, tmp_path) -> Path:
    for precision in ("fp32", "fp16"):
        (tmp_path / f"digits-{precision}-onnxruntime").symlink_to(digits_bundle)
    return tmp_path


def test_the_bundle_of_the_same_weights_and_precision_is_found_also_for_fewer_images(work):
    for images in (64, 1):
        found = outcome(work, max_batch=images)
        assert found["bundle"] == str(work / "digits-fp32-onnxruntime")
        assert found["bytes"] > 0 and found["verification"] and found["engine"]["dit_head"]["file"] == "dit_head.onnx"


def test_one_for_fewer_images_or_another_precision_is_refused(work):
    out = work / "digits-fp32-onnxruntime"
    said = f"{out} was built for up to 64 images at once, not 65; remove it, or choose another folder."
    assert outcome(work, max_batch=65) == {"error": f"InputError: {said}"}
    assert "was built with transformer_low in fp32, not for fp16; remove it" in outcome(work, "fp16")["error"]


def test_one_of_other_weights_or_decoder_is_refused(work, monkeypatch):
    other = GOLDEN / "vae-narrow.ckpt"
    monkeypatch.setattr(report_build, "checkpoint_of", lambda model, folder: other)
    assert f"was built from another checkpoint than {other}; remove it" in outcome(work)["error"]
    monkeypatch.undo()
    monkeypatch.setattr(report_build, "decoder_of", lambda model, folder: other)
    assert f"was built from another vae than {other}; remove it" in outcome(work)["error"]
    monkeypatch.setattr(report_build, "decoder_of", lambda model, folder: None)
    assert "was built with a vae, which this model does not have; remove it" in outcome(work)["error"]


def test_a_folder_that_is_no_bundle_is_named(tmp_path):
    (tmp_path / "digits-fp32-onnxruntime").mkdir()
    assert "has no manifest.json, so it is not a bundle" in outcome(tmp_path)["error"]
