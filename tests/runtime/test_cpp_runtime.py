"""The C++ runtime must make Python's images: same bundle, same seed, same orders, same recipes."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from himar_kernels import BundleError, Chain, InputError, PhiloxDraws, SamplingConfig, chain_table, plan
from himar_kernels.philox import philox_words
from himar_runtime import Pipeline, read_recipes

ROOT = Path(__file__).parents[2]
SOURCES, DEPENDENCIES = ROOT / "runtime" / "cpp", ROOT / "build" / "cpp-deps"
BUILD = ROOT / "build" / "cpp" / "release"


def run(*command: str | Path, code: int = 0, **options: Any) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == code, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


@pytest.fixture(scope="module")
def built() -> Path:
    """The build folder of `make cpp`, brought up to date."""
    for tool in ("cmake", "c++", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    if not (DEPENDENCIES / "include" / "onnxruntime").exists():
        pytest.skip("needs ONNX Runtime's C++ headers in build/cpp-deps: run `make cpp` once, which fetches them")
    BUILD.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{BUILD}.lock"):
        run("cmake", "--preset", "release", f"-DHIMAR_PYTHON={sys.executable}", cwd=SOURCES)
        run("cmake", "--build", "--preset", "release", cwd=SOURCES)
    return BUILD


@pytest.fixture(scope="module")
def library(built: Path) -> Any:
    path = Path(__file__).with_name("cpp_library.py")
    spec = importlib.util.spec_from_file_location("cpp_library", path)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.Library(built / "libhimar.so")


@pytest.fixture(scope="module")
def arithmetic(built: Path) -> Any:
    """What the C++ loop's arithmetic gives for a command line."""
    return lambda *arguments: json.loads(run(built / "tests" / "himar_arithmetic", *map(str, arguments)))


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
@pytest.mark.parametrize(("phase", "positions"), [("low", 16), ("high", 64), ("high", 256)])
def test_orders_are_pythons_to_the_bit(arithmetic: Any, seed: int, phase: str, positions: int) -> None:
    images = [0, 1, 63, 2**32 - 1]
    ranks = np.array(arithmetic("ranks", seed, int(phase == "high"), positions, *images)).reshape(4, positions)
    order = PhiloxDraws(seed).order(phase, positions, np.array(images))
    assert np.array_equal(np.argsort(ranks, axis=1), order)


def test_philox_words_and_normals_are_pythons(arithmetic: Any) -> None:
    random = np.random.default_rng(1)
    for _ in range(8):
        seed = int(random.integers(2**64, dtype=np.uint64))
        counter = [int(word) for word in random.integers(2**32, size=4)]
        wanted = [int(word[0]) for word in philox_words(*(np.array([c], np.uint64) for c in counter), seed)]
        assert arithmetic("philox", seed, *counter) == wanted
        step, k, image, position = (int(value) for value in random.integers(200, size=4))
        drawn = PhiloxDraws(seed).noise("high", step, [k], np.array([image]), np.array([[position]]), 8)[0, 0, 0, 4:]
        np.testing.assert_allclose(arithmetic("normals", seed, 1, step, k, image, position, 1), drawn, atol=1e-6)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize(
    ("S", "N", "low", "high"), [(16, 64, 8, 2), (64, 256, 32, 4), (64, 256, 64, 7), (4, 16, 1, 16)]
)
def test_plans_are_pythons_to_the_bit(arithmetic: Any, S: int, N: int, low: int, high: int, schedule: str) -> None:
    sampling = SamplingConfig(
        low_steps=low, high_steps=high, low_guidance=2.3, high_guidance=4.7, guidance_schedule=schedule
    )
    wanted = [
        [int(s.phase == "high"), s.index, s.masked, s.masked_after, s.revealed, s.guidance]
        for s in plan(sampling, S, N)
    ]
    assert arithmetic("plan", S, N, low, high, 2.3, 4.7, schedule) == wanted


@pytest.mark.parametrize("steps", [2, 25, 100, 250, 1000])
def test_chains_are_pythons_to_a_rounding(arithmetic: Any, steps: int) -> None:
    found, chain = arithmetic("chain", steps), Chain.build(steps)
    assert found["timesteps"] == chain.timesteps.tolist()
    table = np.array(found["table"], np.float32).reshape(steps, 8)
    np.testing.assert_allclose(table, chain_table(chain), rtol=1e-6)


def assert_same_images(library: Any, bundle: Path, labels: list[int], seed: int, **options: Any) -> None:
    wanted = Pipeline.load(bundle, threads=1).generate(labels, seed=seed, **options)
    found = library.generate(bundle, labels, seed=seed, **options)
    for ours, theirs in ((found.latents, wanted.latents), (found.low_latents, wanted.low_latents)):
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)
    assert wanted.images is not None
    assert found.images.shape == wanted.images.shape
    assert np.abs(found.images.astype(int) - wanted.images.astype(int)).max() <= 1
    assert [json.loads(recipe) for recipe in found.recipes] == [recipe.to_dict() for recipe in wanted.recipes]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance": 1.0},
        {"low_guidance": 3.0, "high_guidance": 1.0, "temperature": 0.7, "low_steps": 4, "high_diffusion_steps": 9},
        {"first_index": 2**32 - 7},
    ],
    ids=lambda options: ",".join(options) or "defaults",
)
def test_tiny_bundle_gives_pythons_images(library: Any, bundle_path: Path, options: dict[str, Any]) -> None:
    assert_same_images(library, bundle_path, [3, 0, 4, 1, 1, 2, 0], 11, **options)


def test_digits_give_pythons_images(library: Any, digits_bundle: Path) -> None:
    assert_same_images(library, digits_bundle, [3, 7], 2**63 + 5)


def test_the_released_layout_gives_pythons_images(library: Any, narrow_128_bundle: Path) -> None:
    short = {"low_steps": 3, "high_steps": 2, "low_diffusion_steps": 12, "high_diffusion_steps": 12}
    assert_same_images(library, narrow_128_bundle, [5, 0], 3, guidance=2.0, **short)


def test_refusals_are_pythons_sentences(library: Any, make_bundle: Any, edit_manifest: Any) -> None:
    changes = {
        "schema": lambda m: m.update(schema_version="2.0"),
        "path": lambda m: m.update(selftest="../selftest.npz"),
        "lacks": lambda m: m["model"].pop("width"),
        "setting": lambda m: m["sampling"]["plain"].update(low_steps=0),
        "hash": lambda m: m["files"]["dit_head.onnx"].update(sha256="0" * 64),
        "size": lambda m: m["files"]["dit_head.onnx"].update(bytes=3),
        "component": lambda m: m["components"].pop("dit_head"),
    }
    for name, change in changes.items():
        path = make_bundle(name)
        edit_manifest(path, change)
        with pytest.raises(BundleError) as theirs:
            Pipeline.load(path)
        with pytest.raises(RuntimeError) as ours:
            library.generate(path, [1])
        assert str(ours.value) == str(theirs.value)


def test_refused_requests_are_pythons_sentences(library: Any, bundle_path: Path) -> None:
    pipeline = Pipeline.load(bundle_path)
    for labels, options in (([], {}), ([5], {}), ([1], {"low_steps": 9}), ([1], {"temperature": -1.0})):
        with pytest.raises(InputError) as theirs:
            pipeline.generate(labels, **options)
        with pytest.raises(RuntimeError) as ours:
            library.generate(bundle_path, labels, **options)
        assert str(ours.value) == str(theirs.value)


def test_himar_generate_writes_pngs_with_recipes(built: Path, bundle_path: Path, tmp_path: Path) -> None:
    program = built / "examples" / "himar-generate"
    options = ["--labels", "1,3-4", "--count", "2", "--seed", "9", "--threads", "1", "--guidance", "1.5"]
    report = json.loads(run(program, bundle_path, *options, "--repeat", "3", "--json", "--out", tmp_path / "out"))
    assert (report["images"], report["runs"]) == (6, 3)
    assert 0 < report["p50_s"] <= report["p95_s"] <= report["p99_s"]
    wanted = Pipeline.load(bundle_path, threads=1).generate([1, 1, 3, 3, 4, 4], seed=9, guidance=1.5)
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == [f"9-{i:05d}-{label}.png" for i, label in enumerate([1, 1, 3, 3, 4, 4])]
    assert wanted.images is not None
    for path, recipe, pixels in zip(paths, wanted.recipes, wanted.images, strict=True):
        assert read_recipes(path) == (recipe,)
        assert np.abs(np.asarray(Image.open(path)).astype(int) - pixels).max() <= 1


def test_himar_generate_says_what_is_wrong(built: Path, bundle_path: Path, tmp_path: Path) -> None:
    program = built / "examples" / "himar-generate"
    assert "it must be a whole number" in run(program, bundle_path, "--labels", "one", code=2)
    assert "--labels is missing" in run(program, bundle_path, code=2)
    assert "is no option" in run(program, bundle_path, "--label-s", "1", code=2)
    assert "is not a class of this model" in run(program, bundle_path, "--labels", "99", code=1)
    assert "is not a folder" in run(program, tmp_path / "none", "--labels", "1", code=1)
    (tmp_path / "file").touch()
    run(program, bundle_path, "--labels", "1", "--out", tmp_path / "file", code=1)


def test_himar_generate_stops_at_ctrl_c(built: Path, bundle_path: Path) -> None:
    command = [built / "examples" / "himar-generate", bundle_path, "--labels", "1", "--repeat", "1000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        time.sleep(1)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=20)
    assert (program.returncode, said) == (130, "stopped after 0 finished images.\n")


def test_the_c_example_draws_the_same_image(built: Path, bundle_path: Path, tmp_path: Path) -> None:
    run(built / "examples" / "himar-c-example", bundle_path, "3", "8", tmp_path / "image.ppm")
    wanted = Pipeline.load(bundle_path, threads=1).generate([3], seed=8)
    assert wanted.images is not None
    assert np.abs(np.asarray(Image.open(tmp_path / "image.ppm")).astype(int) - wanted.images[0]).max() <= 1


CONSUMER_CMAKE = """cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES C CXX)
find_package(himar 0.1 REQUIRED)
add_executable(consumer main.cpp)
target_link_libraries(consumer PRIVATE himar::himar)
"""
CONSUMER_MAIN = """#include <himar/himar.hpp>
#include <cstdio>
int main(int, char** arguments) {
    himar::GenerateOptions options;
    options.labels = {1, 2};
    const himar::Result result = himar::Pipeline::load(arguments[1]).generate(options);
    std::printf("%lld %s", static_cast<long long>(result.images().shape()[0]), himar_version());
}
"""


def test_a_project_of_its_own_finds_the_installed_library(built: Path, bundle_path: Path, tmp_path: Path) -> None:
    run("cmake", "--install", built, "--prefix", tmp_path / "installed")
    consumer = tmp_path / "consumer"
    consumer.mkdir()
    (consumer / "CMakeLists.txt").write_text(CONSUMER_CMAKE)
    (consumer / "main.cpp").write_text(CONSUMER_MAIN)
    run("cmake", "-S", consumer, "-B", consumer / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}")
    run("cmake", "--build", consumer / "build")
    assert run(consumer / "build" / "consumer", bundle_path) == "2 0.1.0"
    version = run(tmp_path / "installed" / "bin" / "himar-generate", "--version")
    assert version.startswith("himar 0.1.0; engines: onnxruntime 1.")


def test_the_unit_tests_pass(built: Path) -> None:
    run("ctest", "--preset", "release", cwd=SOURCES)
