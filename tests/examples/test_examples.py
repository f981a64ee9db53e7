"""Every program of examples/ runs as its first line says, and is short enough to be read at once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himar_export.cli import main
from himar_runtime import read_recipes
from tests.conftest import ROOT, WEIGHTS

EXAMPLES = ROOT / "examples"
CPP = ROOT / "build" / "cpp" / "release"
LONGEST = 40


def run(name: str, *arguments: str | Path, code: int = 0) -> str:
    """Run an example and return what it printed."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == code, f"{name} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def drawn(digits_bundle, tmp_path_factory) -> list[Path]:
    """Two PNGs of generate.py."""
    folder = tmp_path_factory.mktemp("drawn")
    said = run("generate.py", digits_bundle, folder, "3", "8")
    assert [line.partition(": ")[2] for line in said.splitlines()] == [
        "class 3, seed 7, image 0",
        "class 8, seed 7, image 1",
    ]
    return [Path(line.partition(": ")[0]) for line in said.splitlines()]


def test_examples_are_short_and_in_the_table():
    table = (EXAMPLES / "README.md").read_text()
    programs = [path for kind in ("*.py", "*.c", "*.cpp", "*.yaml") for path in EXAMPLES.glob(f"**/{kind}")]
    programs = [path for path in programs if "tensorrt_plugin" not in path.parts]
    assert len(programs) > 10
    for path in programs:
        name = str(path.relative_to(EXAMPLES))
        assert len(path.read_text().splitlines()) <= LONGEST, f"{name} is longer than {LONGEST} lines"
        assert f"({name})" in table, f"examples/README.md does not list {name}"


def test_generate_writes_an_image_of_each_class(drawn):
    assert [recipe.label for path in drawn for recipe in read_recipes(path)] == [3, 8]


def test_same_image_again_makes_it_from_its_recipe(digits_bundle, drawn):
    assert re.search(r"differs by at most [01] of 255", run("same_image_again.py", digits_bundle, drawn[1]))


def test_preview_shows_an_unfinished_image_and_cancels(digits_bundle, tmp_path):
    said = run("preview.py", digits_bundle, tmp_path / "preview.png", "9")
    assert said.splitlines()[-2:] == ["phase high, step 1: 9 of 10", "cancelled: 0 images finished"]
    assert np.asarray(Image.open(tmp_path / "preview.png")).shape == (32, 32, 3)


def test_two_threads_make_the_images_of_one_call(digits_bundle):
    assert re.search(r"differ by at most [01] of 255", run("two_threads.py", digits_bundle))


def test_edit_draws_half_of_an_image_anew(hmar_digits_bundle, tmp_path):
    run("generate.py", hmar_digits_bundle, tmp_path / "drawn", "3")
    (path,) = (tmp_path / "drawn").iterdir()
    run("edit.py", hmar_digits_bundle, path, "8", tmp_path / "edited.png")
    before, after = (np.asarray(Image.open(each)) for each in (path, tmp_path / "edited.png"))
    assert np.array_equal(before[:, :16], after[:, :16]) and not np.array_equal(before, after)


def test_prompts_draws_texts_and_warns_of_long_ones(scenes_bundle, tmp_path):
    texts = [line for line in (EXAMPLES / "scenes.txt").read_text().splitlines() if line][:2]
    said = run("prompts.py", scenes_bundle, tmp_path, *texts)
    assert [line.partition(": ")[2] for line in said.splitlines()] == texts


@pytest.mark.slow
def test_export_checkpoint_says_how_near_the_engines_are(tmp_path):
    digits = WEIGHTS / "digits.safetensors"
    said = run("export_checkpoint.py", digits, WEIGHTS / "digits-vae.safetensors", "digits", tmp_path / "bundle")
    assert "transformer_low: pivots: " in said and (tmp_path / "bundle" / "manifest.json").is_file()


def test_verify_recording_replays_a_run_and_notices_another_models(digits_bundle, tmp_path):
    recording = tmp_path / "run.npz"
    settings = ("--low-steps", "2", "--high-steps", "1")
    assert (
        main(["record", str(WEIGHTS / "digits.safetensors"), "--labels", "1", *settings, "--out", str(recording)]) == 0
    )
    assert "latent: " in run("verify_recording.py", digits_bundle, recording)
    with np.load(recording) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = next(name for name in arrays if name.endswith("/latent"))
    np.savez(recording, **{**arrays, name: arrays[name] + 0.1})
    run("verify_recording.py", digits_bundle, recording, code=1)


@pytest.mark.slow
def test_ray_job_draws_parts_that_are_one_numbered_set(digits_bundle, tmp_path):
    pytest.importorskip("ray", reason="needs the extra `ray`")
    from tests.ray_cluster import ray_nodes

    with ray_nodes(workers=1) as nodes:
        run("ray/job.py", digits_bundle, tmp_path, "2", nodes.address)
    first, second = ((tmp_path / f"part-{part}.rgb").read_bytes() for part in (0, 1))
    assert len(first) == len(second) == 10 * 32 * 32 * 3 and first != second


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    """The examples in C and C++, built as CMakeLists.txt says against what `make cpp` built."""
    if not (CPP / "libhimar.so").exists():
        pytest.skip("needs libhimar in build/cpp/release: run `make cpp` once")
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    folder = tmp_path_factory.mktemp("cpp-examples")
    for command in (
        ["cmake", "--install", CPP, "--prefix", folder / "himar"],
        ["cmake", "-S", EXAMPLES / "cpp", "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={folder / 'himar'}"],
        ["cmake", "--build", folder / "build"],
    ):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return folder / "build"


def test_the_c_example_draws_a_digit(programs, digits_bundle, tmp_path):
    subprocess.run([programs / "digits-c", digits_bundle, "3", tmp_path / "3.ppm"], check=True, timeout=300)
    pixels = np.asarray(Image.open(tmp_path / "3.ppm"))
    assert pixels.shape == (32, 32, 3) and pixels.std() > 10


def test_the_c_example_says_what_is_wrong(programs, tmp_path):
    done = subprocess.run([programs / "digits-c", tmp_path, "3", "3.ppm"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ")


def test_the_cpp_example_draws_in_two_threads(programs, digits_bundle):
    done = subprocess.run([programs / "lanes", digits_bundle], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "class 3: step 10 of 10" in done.stdout and "class 7: step 10 of 10" in done.stdout
