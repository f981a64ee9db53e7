"""The service as replicas of Ray Serve: its arguments, and two replicas on a cluster of two nodes."""

import asyncio
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from himar_kernels import EngineError, InputError
from himar_runtime import Pipeline
from tests.ray_cluster import Nodes, ray_nodes
from tests.runtime.conftest import write_bundle
from tests.runtime.service.conftest import JSON

pytest.importorskip("ray", reason="needs the extra `ray`")
import yaml

from himar_runtime.service import ray_serve

EXAMPLE = Path(__file__).parents[3] / "examples" / "ray" / "serve.yaml"
LONG = {"labels": [1] * 4, "low_steps": 4, "high_steps": 16, "low_diffusion_steps": 800, "high_diffusion_steps": 800}


def test_arguments_are_those_of_himar_serve():
    asked = ray_serve.Deployment.read(
        {"bundle": "b", "lanes": "2", "queue-delay": 20, "max_images": 3, "replicas": "4"}
    )
    assert (asked.replicas, asked.cpus, asked.gpus, asked.log_json) == (4, 2, 0, False)
    settings = asked.settings
    assert (settings.bundle, settings.lanes, settings.threads, settings.max_images) == (Path("b"), 2, 1, 3)
    assert settings.queue_delay == 0.02
    many = ray_serve.Deployment.read(
        {"bundle": "b", "log_json": True, "allow_origin": ["https://a.example", "https://b.example"], "threads": 3}
    )
    assert many.log_json
    assert many.settings.allow_origin == ("https://a.example", "https://b.example")
    assert many.cpus == 3


def test_a_replica_on_a_gpu_gets_one_or_a_share():
    assert ray_serve.Deployment.read({"bundle": "b", "device": "cuda"}).gpus == 1
    assert ray_serve.Deployment.read({"bundle": "b", "device": "cuda", "gpus": "0.5", "cpus": 2}).gpus == 0.5


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "bundle is missing; give the path that it has on every machine, bundle=/PATH."),
        ({"bundle": "b", "lanes": "0"}, "Invalid value for '--lanes': 0 is not in the range 1<=x<=64."),
        ({"bundle": "b", "lanse": 1}, "there is no argument 'lanse'; there are allow_origin, backend, bundle, device"),
        ({"bundle": "b", "help": True}, "there is no argument 'help'; there are"),
        ({"bundle": "b", "port": 80}, "port is Ray Serve's; set it in http_options"),
        ({"bundle": "b", "keep-alive": 0}, "keep_alive is Ray Serve's"),
        ({"bundle": "b", "replicas": "many"}, "replicas is 'many'; it must be a whole number from 1 to 65536."),
        ({"bundle": "b", "replicas": 0}, "replicas is 0; it must be"),
        ({"bundle": "b", "cpus": -1}, "cpus is -1; it must be a number from 0 to 4096."),
        ({"bundle": "b", "gpus": 1}, "device is cpu, but gpus is 1; a replica on cuda needs a share of one."),
        ({"bundle": "b", "device": "cuda", "gpus": 0}, "device is cuda, but gpus is 0;"),
        ({"bundle": "b", "device": "cuda:1"}, "device is cuda:1, but Ray chooses the GPUs; give cuda."),
    ],
)
def test_wrong_arguments_are_refused(args, said):
    with pytest.raises(InputError) as error:
        ray_serve.Deployment.read(args)
    assert said in str(error.value)


def test_a_replica_whose_lane_has_ended_is_not_healthy(bundle_path):
    async def check() -> None:
        settings = ray_serve.Deployment.read({"bundle": str(bundle_path)}).settings
        ended, broken = (ray_serve.Replica(settings, False) for _ in range(2))
        broken.check_health()
        broken._service.close()  # nobody was told that the service ends
        with pytest.raises(EngineError, match="a lane of this service has ended unexpectedly"):
            broken.check_health()
        await ended.__del__()
        ended.check_health()  # Serve may ask once more

    asyncio.run(check())


class Cluster:
    """`serve run` of the example's configuration, with a free port and a tiny bundle."""

    def __init__(self, nodes: Nodes, folder: Path) -> None:
        self.nodes = nodes
        self.bundle = write_bundle(folder / "bundle")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        values = yaml.safe_load(EXAMPLE.read_text())
        values["http_options"] = {"host": "127.0.0.1", "port": self.port}
        values["applications"][0]["args"] |= {"bundle": str(self.bundle), "max_images": 8}
        config = folder / "serve.yaml"
        config.write_text(yaml.safe_dump(values))
        self.log = folder / "log"
        command = [sys.executable, "-m", "ray.serve.scripts", "run", "--address", nodes.address, str(config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ)

    def ask(self, method: str, path: str, values: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, None if values is None else json.dumps(values), JSON)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def wait(self, reached: Callable[[], object]) -> None:
        """Wait until something is true and no connection fails."""
        deadline = time.monotonic() + 120
        while True:
            try:
                if reached():
                    return
            except (OSError, http.client.HTTPException):
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    with ray_nodes(workers=1) as nodes:
        cluster = Cluster(nodes, tmp_path_factory.mktemp("serve"))
        try:
            cluster.wait(lambda: cluster.ask("GET", "/v2/health/ready")[0] == 200)
            yield cluster
        finally:
            cluster.process.kill()
            cluster.process.wait()


@pytest.mark.slow
def test_replicas_answer_as_one_server_does(cluster):
    whole = Pipeline.load(cluster.bundle, threads=1).generate([3, 1], seed=7)
    status, body = cluster.ask("POST", "/v1/images", {"labels": [3, 1], "seed": 7, "output": "latents"})
    assert status == 200
    assert [image["recipe"] for image in json.loads(body)["images"]] == [recipe.to_dict() for recipe in whole.recipes]
    status, body = cluster.ask("POST", "/v1/images", {"labels": [9]})
    assert status == 400
    assert "label 9 (number 0 of the list) is not a class" in json.loads(body)["error"]
    assert cluster.ask("GET", "/v1/nothing")[0] == 404
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{cluster.port}/v1", api_key="none", max_retries=0)
    events = list(client.images.generate(prompt="2", stream=True, partial_images=1, extra_body={"seed": 4}))
    kinds = ["image_generation.partial_image", "image_generation.completed"]
    assert [event.type for event in events] == kinds
    with pytest.raises(openai.BadRequestError, match="classes are the numbers 0 to 4"):
        client.images.generate(prompt="77")


@pytest.mark.slow
def test_a_client_that_disconnects_frees_its_lane(cluster):
    body = json.dumps(LONG | {"labels": [1] * 8}).encode()
    head = (
        f"POST /v1/images HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", cluster.port)) as connection:
        connection.sendall(head.encode() + body)
        cluster.wait(lambda: b"himar_lanes_busy 1.0" in cluster.ask("GET", "/metrics")[1])  # of either replica
    cluster.wait(lambda: b'himar_cancelled_total{reason="disconnect"} 1.0' in cluster.ask("GET", "/metrics")[1])
    assert cluster.ask("POST", "/v1/images", {"labels": [1]})[0] == 200


@pytest.mark.slow
def test_a_killed_replica_is_replaced_and_an_ended_application_finishes_its_requests(cluster):
    cluster.nodes.kill_worker("ServeReplica:himar")
    cluster.wait(lambda: all(cluster.ask("POST", "/v1/images", {"labels": [1]})[0] == 200 for _ in range(6)))

    answers: list[tuple[int, bytes]] = []
    client = threading.Thread(target=lambda: answers.append(cluster.ask("POST", "/v1/images", LONG)))
    client.start()
    cluster.wait(lambda: b"himar_lanes_busy 1.0" in cluster.ask("GET", "/metrics")[1])
    code = f"import ray; from ray import serve; ray.init({cluster.nodes.address!r}); serve.delete('himar')"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, env=os.environ)
    client.join(120)
    assert [status for status, _ in answers] == [200]
    assert len(json.loads(answers[0][1])["images"]) == 4
    assert cluster.ask("GET", "/v2/health/ready")[0] == 404
