"""himar-generate, the C example and the installed library, as their users run them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.gpu.cpp_bench import cpp_bench
from benchmarks.gpu.process import Figures
from benchmarks.gpu.record import Record
from benchmarks.gpu.suites import cpp_tests
from himar_export.bench.statistics import summarise
from himar_runtime import Pipeline, read_recipes
from tests.closeness import assert_same_pixels
from tests.runtime.hub_cache import in_hub_cache, write_weights_apart

SOURCES = Path(__file__).parents[3] / "runtime" / "cpp"


def test_himar_generate_writes_pngs_with_recipes(run: Any, built: Path, make_bundle: Any, tmp_path: Path) -> None:
    program, bundle_path = built / "examples" / "himar-generate", make_bundle(held=True)
    options = ["--labels", "1,3-4", "--count", "2", "--seed", "9", "--threads", "1", "--guidance", "1.5"]
    options += ["--low-solver", "dpm++", "--low-diffusion-steps", "16", "--low-forecast", "3", "--forecast-order", "0"]
    options += ["--high-steps", "2", "--high-diffusion-counts", "12,5", "--high-guidances", "1,2.5"]
    options += ["--forecast-first", "4", "--forecast-last", "2", "--guidance-interval", "2", "--least-guidance", "1.1"]
    options += ["--modulation-interval", "2"]
    report = json.loads(run(program, bundle_path, *options, "--repeat", "3", "--json", "--out", tmp_path / "out"))
    assert (report["images"], report["runs"]) == (6, 3)
    assert 0 < report["p50_s"] <= report["p95_s"] <= report["p99_s"]
    wanted = Pipeline.load(bundle_path, threads=1).generate(
        [1, 1, 3, 3, 4, 4],
        **{"seed": 9, "guidance": 1.5, "low_solver": "dpm++", "low_diffusion_steps": 16, "low_forecast": 3},
        **{"high_steps": 2, "high_diffusion_counts": [12, 5], "high_guidances": [1, 2.5], "least_guidance": 1.1},
        **{"forecast_order": 0, "forecast_first": 4, "forecast_last": 2, "guidance_interval": 2},
        modulation_interval=2,
    )
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == [f"9-{i:05d}-{label}.png" for i, label in enumerate([1, 1, 3, 3, 4, 4])]
    assert wanted.images is not None
    for path, recipe, pixels in zip(paths, wanted.recipes, wanted.images, strict=True):
        assert read_recipes(path) == (recipe,)
        assert_same_pixels(np.asarray(Image.open(path)), pixels)


def test_himar_bench_times_a_request(run: Any, built: Path, bundle_path: Path) -> None:
    program = built / "examples" / "himar-bench"
    options = ["--labels", "1,3-4", "--threads", "1", "--low-diffusion-steps", "3", "--high-diffusion-steps", "3"]
    report = json.loads(run(program, bundle_path, *options, "--repeat", "12", "--json"))
    seconds, summary = report["seconds"], summarise(report["seconds"])
    assert (report["images"], report["runs"], len(seconds)) == (3, 12, 12)
    assert report["warm_up_runs"] >= 1 and report["first_s"] > 0 and report["start_up_s"] > 0
    for name, value in (("least", summary.minimum), ("median", summary.median), ("mean", summary.mean)):
        assert report[f"{name}_s"] == pytest.approx(value)
    assert report["p90_s"] == pytest.approx(summary.p90) and report["variation"] == pytest.approx(summary.variation)
    assert report["p95_s"] is None and report["p99_s"] is None  # of 20 and 100 runs
    assert report["seconds_per_image"] == pytest.approx(summary.median / 3)
    said = run(program, bundle_path, *options, "--repeat", "2")
    assert re.search(r"^3 images a run, 2 runs: \d\.\d{4} s per image, \d+\.\d\d images/s; start-up ", said)
    assert "\na run: least " in said and "p90" not in said and ", CV " in said


def test_himar_bench_says_what_is_wrong(run: Any, built: Path) -> None:
    program = built / "examples" / "himar-bench"
    many = "--repeat is missing or 1; give how many runs to time, at least 2, for example --repeat 20."
    for options, sentence in (
        (["--labels", "1"], many),
        (["--labels", "1", "--repeat", "1"], many),
        (["--labels", "1", "--repeat", "2", "--out", "x"], "--out is himar-generate's alone: this program writes no"),
        (["--edit", "a.png", "--mask", "b.png", "--repeat", "2"], "--tokens and --edit are himar-generate's alone"),
        (["--repeat", "2"], "--labels is missing"),
    ):
        said = run(program, "/no/bundle", *options, code=2)
        assert said.startswith(f"himar-bench: {sentence}") and said.endswith(" Try --help.\n")
    assert "himar-bench: /no/bundle" in run(program, "/no/bundle", "--labels", "1", "--repeat", "2", code=1)
    assert run(program, "--help").startswith("himar-bench BUNDLE --labels 0,3,5-9 --repeat N [options]:")


def test_an_hour_on_a_gpu_times_and_tests_the_programs(built: Path, bundle_path: Path, tmp_path: Path) -> None:
    record = Record(tmp_path / "record.json", {})
    record.begin("C++")
    figures = Figures(record, "C++", time.time() + 600)
    log, options = str(tmp_path / "log"), ["--low-diffusion-steps", "2", "--high-diffusion-steps", "2"]
    cpp_bench(figures, log, str(built), str(bundle_path), "cpu", 3, 2, options)
    found = record.figures("C++")["bench"]
    assert (found["images"], found["runs"], len(found["seconds"])) == (3, 2, 2)
    assert found["command"][-4:] == options
    cpp_tests(figures, log, str(built))
    tests = record.figures("C++")["tests"]
    assert tests["passed"] or (tests["skipped"] and tests["said"][0].startswith("skipped: cuda:0 is not a GPU"))
    record.forget(["C++"])
    record.begin("C++")
    with pytest.raises(RuntimeError, match=r"himar-bench ended with \{'exit_code': 1\}: himar-bench: /no/bundle "):
        cpp_bench(figures, log, str(built), "/no/bundle", "cpu", 1, 2, [])


def test_himar_generate_says_what_is_wrong(run: Any, built: Path, bundle_path: Path, tmp_path: Path) -> None:
    program = built / "examples" / "himar-generate"
    assert "it must be a whole number" in run(program, bundle_path, "--labels", "1-", code=2)
    assert "it must be a whole number" in run(program, "/no/bundle", "--labels", "1,,tench", code=2)
    assert "'one', but the bundle names no classes; write numbers" in run(
        program, bundle_path, "--labels", "one", code=2
    )
    assert "--labels is missing" in run(program, bundle_path, code=2)
    said = run(program, bundle_path, "--labels", "1", "--high-solver", "euler", code=2)
    assert said == "himar-generate: --high-solver is 'euler'; it must be ddpm, ddim or dpm++. Try --help.\n"
    assert "--low-guidances is 'inf'; it must be a finite number." in run(
        program, bundle_path, "--labels", "1", "--low-guidances", "1,inf", code=2
    )
    assert "--high-diffusion-counts is '1'; it must be a whole number from 2 to 1000." in run(
        program, bundle_path, "--labels", "1", "--high-diffusion-counts", "9,1", code=2
    )
    assert "--forecast-order is '3'; it must be a whole number from 0 to 2." in run(
        program, bundle_path, "--labels", "1", "--forecast-order", "3", code=2
    )
    assert "is not an option" in run(program, bundle_path, "--label-s", "1", code=2)
    assert "is not a class of this model" in run(program, bundle_path, "--labels", "99", code=1)
    assert "is not a folder" in run(program, tmp_path / "none", "--labels", "1", code=1)
    assert run(program, bundle_path, "--labels", "1", "--backend", "abacus", code=1).endswith(
        "has an engine for 'onnxruntime', not for 'abacus'; ask for 'onnxruntime'.\n"
    )


def test_himar_generate_takes_names_of_classes(
    run: Any, built: Path, make_bundle: Any, edit_manifest: Any, tmp_path: Path
) -> None:
    program, bundle = built / "examples" / "himar-generate", make_bundle()
    names = ["tench", "3", "tench, Tinca tinca", "T-shirt", "\u00e9t\u00e9"]
    edit_manifest(bundle, lambda manifest: manifest["model"].update(class_names=names))

    def labels(text: str) -> list[str]:
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        run(program, bundle, "--labels", text, "--threads", "1", "--low-steps", "1", "--high-steps", "1", "--out", out)
        return [path.stem.rpartition("-")[2] for path in sorted(out.iterdir())]

    assert labels("tench") == ["0"]
    assert labels("3") == ["3"]
    assert labels("tench, Tinca tinca,tench,T-shirt , 1-2") == ["2", "0", "3", "1", "2"]
    assert labels("\u00e9t\u00e9") == ["4"]
    said = run(program, bundle, "--labels", "1,Tench", code=2)
    assert "--labels has 'Tench', which is not a class of the bundle; its 5 names are such as '3', 'T-shirt', " in said
    edit_manifest(bundle, lambda manifest: manifest["model"].update(class_names=names[:2]))
    said = run(program, bundle, "--labels", "1", code=1)
    assert "model.class_names has 2 entries; it must have one for each of the 5 classes." in said


def test_himar_generate_writes_one_image_as_a_png(run: Any, built: Path, bundle_path: Path, tmp_path: Path) -> None:
    program, out = built / "examples" / "himar-generate", tmp_path / "seven.PNG"
    run(program, bundle_path, "--labels", "1", "--seed", "9", "--threads", "1", "--out", out)
    wanted = Pipeline.load(bundle_path, threads=1).generate([1], seed=9)
    assert read_recipes(out) == wanted.recipes
    said = run(program, bundle_path, "--labels", "1-2", "--out", tmp_path / "two.png", code=1)
    assert said == (
        f"himar-generate: --out is '{tmp_path / 'two.png'}', which holds one image, but 2 are asked for; "
        f"give a folder.\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["seven.PNG"]


@pytest.mark.parametrize("name", ["photo.jpg", "photo.JPEG", "photo.webp", "photo.tif", "a.npz", "a.zip"])
def test_himar_generate_writes_no_other_kind_of_file(run: Any, built: Path, tmp_path: Path, name: str) -> None:
    said = run(built / "examples" / "himar-generate", "/no/bundle", "--labels", "1", "--out", tmp_path / name, code=1)
    assert said == (
        f"himar-generate: --out is '{tmp_path / name}', which cannot be written; give a folder, or a .png for "
        "one image.\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_in_the_hubs_cache_runs(
    run: Any, built: Path, make_bundle: Any, edit_manifest: Any, tmp_path: Path
) -> None:
    bundle = make_bundle()
    wanted = Pipeline.load(bundle, threads=1).generate([1], seed=9)
    write_weights_apart(bundle, edit_manifest, "engines")
    snapshot = in_hub_cache(bundle, tmp_path / "models--me--digits")
    out = tmp_path / "one.png"
    run(built / "examples" / "himar-generate", snapshot, "--labels", "1", "--seed", "9", "--threads", "1", "--out", out)
    assert wanted.images is not None
    assert np.abs(np.asarray(Image.open(out)).astype(int) - wanted.images[0]).max() <= 1


def test_himar_generate_refuses_an_output_before_it_loads_anything(run: Any, built: Path, tmp_path: Path) -> None:
    program = built / "examples" / "himar-generate"
    (tmp_path / "file").touch()
    out = tmp_path / "file"
    said = run(program, "/no/bundle", "--labels", "1", "--out", out, code=1)
    assert said == (
        f"himar-generate: --out is '{out}', which is a file, not a folder; give a folder that can be written.\n"
    )
    said = run(program, "/no/bundle", "--labels", "1", "--out", out / "below", code=1)
    assert said == (
        f"himar-generate: --out is '{out}/below', which cannot be made (Not a directory); give a folder that can be "
        f"written.\n"
    )
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if not os.access(closed, os.W_OK):  # root writes everywhere
        said = run(program, "/no/bundle", "--labels", "1", "--out", closed, code=1)
        assert "which cannot be written (Permission denied); give a folder" in said


@pytest.mark.parametrize(
    ("labels", "count", "images"),
    [("0-1999999999", 1, 2000000000), ("0,1", 600000, 1200000), ("0-999998,1-2", 1, 1000001)],
)
def test_himar_generate_refuses_more_images_than_a_run_makes(
    run: Any, built: Path, labels: str, count: int, images: int
) -> None:
    said = run(built / "examples" / "himar-generate", "/no/bundle", "--labels", labels, "--count", count, code=2)
    assert said.startswith(
        f"himar-generate: --labels and --count ask for {images} images; at most 1000000 can be made in one run"
    )


def test_himar_generate_says_that_memory_is_gone(run: Any, built: Path, make_bundle: Any, edit_manifest: Any) -> None:
    bundle = make_bundle()
    edit_manifest(bundle, lambda manifest: manifest.update(max_batch=1 << 20))
    limited = ["prlimit", f"--as={1 << 31}", built / "examples" / "himar-generate", bundle, "--threads", "1"]
    said = run(*limited, "--labels", "0", "--count", "1000000", code=1)
    assert said == (
        "himar-generate: no memory is left; ask for fewer images at once, or build the bundle with a smaller "
        "--max-batch.\n"
    )


def test_himar_generate_stops_at_ctrl_c(built: Path, bundle_path: Path) -> None:
    command = [built / "examples" / "himar-generate", bundle_path, "--labels", "1", "--repeat", "1000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        time.sleep(1)
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=20)
    assert (program.returncode, said) == (130, "stopped after 0 finished images.\n")


@pytest.mark.parametrize("signals", [1, 2])
def test_himar_generate_leaves_no_folder_at_ctrl_c_and_a_second_one_ends_it_at_once(
    built: Path, make_bundle: Any, edit_manifest: Any, tmp_path: Path, signals: int
) -> None:
    def slow(manifest: Any) -> None:
        manifest["max_batch"] = 4096  # a step takes long
        manifest["sampling"]["default"]["high_diffusion_steps"] = 200

    bundle, out = make_bundle(), tmp_path / "images"
    edit_manifest(bundle, slow)
    command = [
        built / "examples" / "himar-generate",
        bundle,
        "--labels",
        "1",
        "--count",
        "4096",
        "--out",
        out / "below",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as program:
        time.sleep(1)
        for _ in range(signals):
            program.send_signal(signal.SIGINT)
            time.sleep(0.2)
        assert signals == 1 or program.wait(timeout=2) == 130
        _, said = program.communicate(timeout=60)
    assert (program.returncode, said) == (130, "stopped after 0 finished images.\n" if signals == 1 else "")
    assert not out.exists()


def test_the_c_example_draws_the_same_image(run: Any, built: Path, bundle_path: Path, tmp_path: Path) -> None:
    run(built / "examples" / "himar-c-example", bundle_path, "3", "8", tmp_path / "image.ppm")
    wanted = Pipeline.load(bundle_path, threads=1).generate([3], seed=8)
    assert wanted.images is not None
    assert_same_pixels(np.asarray(Image.open(tmp_path / "image.ppm")), wanted.images[0])


CONSUMER_CMAKE = """cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES C CXX)
find_package(himar 0.2 REQUIRED)
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


def test_a_project_of_its_own_finds_the_installed_library(
    run: Any, built: Path, bundle_path: Path, tmp_path: Path
) -> None:
    version = tomllib.loads((SOURCES.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    run("cmake", "--install", built, "--prefix", tmp_path / "installed")
    consumer = tmp_path / "consumer"
    consumer.mkdir()
    (consumer / "CMakeLists.txt").write_text(CONSUMER_CMAKE)
    (consumer / "main.cpp").write_text(CONSUMER_MAIN)
    run("cmake", "-S", consumer, "-B", consumer / "build", f"-DCMAKE_PREFIX_PATH={tmp_path / 'installed'}")
    run("cmake", "--build", consumer / "build")
    assert run(consumer / "build" / "consumer", bundle_path) == f"2 {version}"
    said = run(tmp_path / "installed" / "bin" / "himar-generate", "--version")
    assert said.startswith(f"himar {version}; engines: onnxruntime 1.")


def test_the_unit_tests_pass(run: Any, built: Path) -> None:
    run("ctest", "--preset", "release", cwd=SOURCES)
