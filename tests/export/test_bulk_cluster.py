"""`himar-export generate --ray` on a cluster of three nodes: a node and a worker killed, the command interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from himar_runtime import Pipeline, read_recipes
from tests.closeness import assert_same_pixels
from tests.ray_cluster import Nodes, ray_nodes
from tests.runtime.conftest import write_bundle

pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = pytest.mark.slow

COMMAND = [
    sys.executable, "-c",
    # Started in the background, a process inherits that Ctrl-C is ignored; a person's terminal does not.
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from himar_export.cli import main; sys.exit(main())",
    "generate",
]  # fmt: skip
COUNT, CHUNK, CLASSES = 400, 20, 5
STEPS = {"low_steps": 1, "high_steps": 1}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes(workers=2) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bulk") / "bundle")


def start(bundle: Path, nodes: Nodes, out: Path) -> subprocess.Popen[str]:
    steps = [part for name, value in STEPS.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    options = ["--labels", f"0-{CLASSES - 1}", "--count", str(COUNT), "--seed", "7", "--chunk", str(CHUNK), *steps]
    command = [*COMMAND, str(bundle), *options, "--ray", nodes.address, "--out", str(out), "--json"]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)


def wait_for_parts(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    wait(lambda: len(parts(folder)) >= count, process)


def wait(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parts(folder: Path) -> dict[str, int]:
    """The finished parts, and when each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}


def test_a_run_survives_a_killed_node_an_interruption_and_a_killed_worker(nodes, bundle, tmp_path):
    out = tmp_path / "images"
    kept = tmp_path / "images.parts"

    first = start(bundle, nodes, out)
    wait_for_parts(kept, 5, first)
    nodes.kill_node()
    wait_for_parts(kept, 25, first)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == 130, said
    before = parts(kept)
    assert f"{len(before) * CHUNK} of 2000 images are kept in {kept}" in said
    assert not out.exists()
    assert 25 <= len(before) < 100

    second = start(bundle, nodes, out)
    wait_for_parts(kept, len(before) + 5, second)
    nodes.kill_worker("PartMaker")
    printed, said = second.communicate(timeout=120)
    assert second.returncode == 0, said
    outcome = json.loads(printed)
    assert (outcome["images"], outcome["resumed"]) == (2000, len(before) * CHUNK)
    assert not kept.exists()
    after = parts(out)
    assert len(after) == 100
    assert {name: after[name] for name in before} == before  # made once

    files = list(out.rglob("*.png"))
    whole = Pipeline.load(bundle, threads=1).generate(
        [label for label in range(CLASSES) for _ in range(COUNT)], seed=7, **STEPS
    )
    rows = {}
    for file in files:
        (recipe,) = read_recipes(file)
        rows[recipe.index] = recipe
        np.testing.assert_array_equal(np.asarray(Image.open(file)), whole.images[recipe.index])
    assert len(files) == len(rows) == 2000
    assert [rows[index] for index in range(2000)] == list(whole.recipes)


def test_sigterm_ends_a_run_as_ctrl_c_does(nodes, bundle, tmp_path):
    process = start(bundle, nodes, tmp_path / "images")
    wait_for_parts(tmp_path / "images.parts", 3, process)
    process.terminate()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert f"of 2000 images are kept in {tmp_path / 'images.parts'}" in said


def test_arrays_of_a_cluster_are_those_of_one_process(nodes, bundle, tmp_path):
    process = start_arrays(bundle, nodes, tmp_path / "pixels.npz", "--pixels")
    printed, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert json.loads(printed)["images"] == 6
    whole = Pipeline.load(bundle, threads=1).generate([3, 3, 3, 1, 1, 1], seed=2)
    with np.load(tmp_path / "pixels.npz") as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], whole.images)
        assert arrays["arr_1"].tolist() == [3, 3, 3, 1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["pixels.npz"]


@pytest.mark.gpu
def test_a_cluster_s_gpu_makes_the_images_of_the_cpu(bundle, tmp_path):
    """Of this machine's, which Ray finds by itself."""
    command = [*COMMAND, str(bundle), "--labels", "3,1", "--ray", "local", "--out", str(tmp_path / "x.npz"), "--pixels"]
    subprocess.run([*command, "--device", "cuda"], check=True, timeout=300)
    whole = Pipeline.load(bundle, threads=1).generate([3, 1])
    with np.load(tmp_path / "x.npz") as arrays:
        assert_same_pixels(arrays["arr_0"], whole.images)


def start_arrays(bundle: Path, nodes: Nodes, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [*COMMAND, str(bundle), "--labels", "3,1", "--count", "3", "--seed", "2", "--chunk", "4", *options]
    command += ["--ray", nodes.address, "--actors", "1", "--out", str(out), "--json"]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ)
