"""The model in a real Triton server, that of nvidia-pytriton: over HTTP, and a stream over gRPC."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_export.triton.repository import TritonModel, write_model
from himar_runtime import Pipeline

PYTHON = os.environ.get("HIMAR_TEST_TRITON")
ROOT = Path(__file__).parents[3]
START, STREAM = (Path(__file__).with_name(name) for name in ("start_server.py", "stream_client.py"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON,
        reason="needs a Triton server: HIMAR_TEST_TRITON=PYTHON of one with nvidia-pytriton (docs/triton.md)",
    ),
]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    def __init__(self, repository: Path, folder: Path) -> None:
        self.http, self.grpc = free_port(), free_port()
        self.log = folder / "log"
        command = [PYTHON, START, repository, folder, self.http, self.grpc, ROOT / "kernels", ROOT / "runtime"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=subprocess.STDOUT)

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready").close()
            except OSError:
                time.sleep(0.2)
        raise AssertionError(self.log.read_text())

    def infer(self, name: str, **columns: tuple[str, list[Any]]) -> dict[str, Any]:
        inputs = [
            {"name": column, "datatype": dtype, "shape": [len(values), 1], "data": values}
            for column, (dtype, values) in columns.items()
        ]
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/v2/models/{name}/infer", json.dumps({"inputs": inputs}).encode()
        )
        try:
            with urllib.request.urlopen(asked) as answer:
                outputs = json.load(answer)["outputs"]
        except urllib.error.HTTPError as error:
            return json.load(error)
        return {output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in outputs}


@pytest.fixture(scope="module")
def server(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository, folder = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("server")
    write_model(bundle_path, repository, TritonModel(lanes=2, threads=1, queue_delay=20))
    write_model(bundle_path, repository, TritonModel(name="shown", threads=1, stream=True, link=True))
    server = Server(repository, folder)
    try:
        server.wait()
        yield server
        server.process.terminate()
        assert server.process.wait(60) == 0
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="module")
def pipeline(bundle_path: Path) -> Pipeline:
    return Pipeline.load(bundle_path, threads=1)


def test_the_server_answers_with_the_pipeline_s_images(server, pipeline):
    plain = ("BYTES", ["plain"] * 2)
    answer = server.infer("himar", label=("INT64", [3, 1]), seed=("UINT64", [7, 2**64 - 1]), sampling=plain)
    for place, (label, seed) in enumerate([(3, 7), (1, 2**64 - 1)]):
        alone = pipeline.generate([label], seed=seed, first_index=place, sampling="plain")
        np.testing.assert_array_equal(answer["image"][place], alone.images[0])
        recipe = json.loads(answer["recipe"][place, 0])
        assert (recipe["seed"], recipe["index"], recipe["label"]) == (seed, place, label)


def test_bad_requests_get_one_clear_error(server):
    said = server.infer("himar", label=("INT64", [9]))["error"]
    assert said.startswith("label 9 (number 0 of the list) is not a class")
    missing = "the input label is missing; give one for each image."
    assert server.infer("himar", seed=("UINT64", [9])) == {"error": missing}


def test_a_stream_shows_unfinished_images(server, pipeline):
    command = [PYTHON, str(STREAM), str(server.grpc), "shown", "3", "7", "2"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    answers = [json.loads(line) for line in said.splitlines()]
    assert [answer["partial"] for answer in answers] == [0, 1, -1]
    assert np.array(answers[0]["image"]).shape == (1, 8, 8, 3)
    np.testing.assert_array_equal(answers[-1]["image"], pipeline.generate([3], seed=7).images)
    assert json.loads(answers[-1]["recipe"])["seed"] == 7
