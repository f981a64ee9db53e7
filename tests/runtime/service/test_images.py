"""The images that a service answers are the library's, for every way to ask for them."""

from __future__ import annotations

import base64
import io
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from himar_runtime import Pipeline, Result, read_recipes
from tests.closeness import RUN, assert_near, assert_same_pixels

QUICK = {"low_steps": 2, "high_steps": 1, "low_diffusion_steps": 4, "high_diffusion_steps": 3}
FULL = {
    "labels": [3, 0, 4], "seed": 2**64 - 1, "first_index": 5, "sampling": "plain", "guidance": 2, "low_guidance": 1.5,
    "high_guidance": 3.0, "temperature": 0.9, "guidance_schedule": "constant", "high_solver": "dpm++",
    **QUICK, "low_diffusion_counts": [4, 14], "low_forecast": 3, "forecast_first": 2, "forecast_order": 0,
    "guidance_interval": 2, "high_guidances": [2.5], "least_guidance": 1.1,
}  # fmt: skip


def pixels(png: bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"])).astype(np.int64)


def assert_same(answer: Any, wanted: Result) -> None:
    assert wanted.images is not None
    assert len(answer["images"]) == len(wanted.labels)
    for found, image, recipe in zip(answer["images"], wanted.images, wanted.recipes, strict=True):
        png = base64.b64decode(found["png"], validate=True)
        assert_same_pixels(pixels(png), image)
        assert (found.get("label"), found["index"]) == (recipe.label, recipe.index)
        assert found["recipe"] == recipe.to_dict()


@pytest.mark.parametrize("values", [{"labels": [1], "seed": 0}, FULL], ids=["defaults", "everything"])
def test_images_and_recipes_are_the_librarys(server: Any, pipeline: Pipeline, values: dict[str, Any]) -> None:
    reply = server.images(values)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    answer = reply.json
    assert answer["seed"] == values["seed"]
    assert_same(answer, pipeline.generate(**values))
    assert set(answer["seconds"]) == {"queued", "generate"}
    assert answer["seconds"]["queued"] >= 0 and 0 < answer["seconds"]["generate"] < 20


def test_a_seed_that_was_drawn_is_given_back(server: Any, pipeline: Pipeline) -> None:
    first, second = (server.images({"labels": [2, 4], **QUICK}).json for _ in range(2))
    assert first["seed"] != second["seed"]
    assert 0 <= first["seed"] < 2**53
    assert_same(first, pipeline.generate([2, 4], seed=first["seed"], **QUICK))


def test_latents_are_the_librarys(server: Any, pipeline: Pipeline) -> None:
    answer = server.images({"labels": [3, 1], "seed": 8, "output": "latents", **QUICK}).json
    wanted = pipeline.generate([3, 1], seed=8, **QUICK)
    for found, latents in zip(answer["images"], wanted.latents, strict=True):
        assert "png" not in found
        values = np.frombuffer(base64.b64decode(found["latents"], validate=True), "<f4").reshape(found["shape"])
        assert values.shape == latents.shape
        assert_near(values, latents, RUN)


def test_a_bundle_without_a_decoder_gives_latents(start_server: Any, make_bundle: Any) -> None:
    server = start_server(make_bundle(decoder=False))
    assert server.ask("GET", "/v1/model").json["has_decoder"] is False
    assert len(server.images({"labels": [1], "output": "latents", **QUICK}).json["images"]) == 1
    refused = server.images({"labels": [1], **QUICK})
    assert refused.status == 400 and "no VAE decoder" in refused.json["error"]
    assert server.end() == 0


def test_a_bare_png_carries_its_recipe(server: Any, pipeline: Pipeline, tmp_path: Any) -> None:
    reply = server.images({"labels": [4], "seed": 12, **QUICK}, Accept="image/png")
    assert (reply.status, reply.headers["Content-Type"], reply.headers["X-Himar-Seed"]) == (200, "image/png", "12")
    wanted = pipeline.generate([4], seed=12, **QUICK)
    assert wanted.images is not None
    assert_same_pixels(pixels(reply.body), wanted.images[0])
    (tmp_path / "image.png").write_bytes(reply.body)
    assert read_recipes(tmp_path / "image.png") == wanted.recipes


def test_requests_at_once_do_not_touch_each_other(server: Any, pipeline: Pipeline) -> None:
    asked = [{"labels": [seed % 5, 1], "seed": seed, **QUICK} for seed in range(16)]
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(server.images, asked))
    assert [reply.status for reply in replies] == [200] * 16
    for reply, values in zip(replies, asked, strict=True):
        assert_same(reply.json, pipeline.generate(**values))


def test_every_answer_has_an_id_and_a_line_in_the_log(server: Any) -> None:
    answered = server.images({"labels": [1, 2], **QUICK})
    refused = server.images(b"{")
    ids = [reply.headers["X-Request-Id"] for reply in (answered, refused)]
    assert ids[0] != ids[1]
    log = server.log.read_text()
    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z %s %d images=%d queued=\d+\.\d{3} seconds=\d+\.\d{3}\n"
    assert re.search(line % (re.escape(ids[0]), 200, 2), log)
    assert re.search(line % (re.escape(ids[1]), 400, 0), log)


def test_the_model_is_described(server: Any, pipeline: Pipeline) -> None:
    reply = server.ask("GET", "/v1/model")
    version = reply.json["version"]
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.json == {
        "name": "bundle", "bundle": pipeline.bundle.id, "classes": 5, "image_size": 16, "max_batch": 64,
        "has_decoder": True, "sampling": ["default", "plain"], "lanes": 2, "version": version,
    }  # fmt: skip
    assert version == pipeline.generate([1], **QUICK).recipes[0].himar_version


@pytest.mark.gpu
def test_lanes_on_a_gpu_give_the_librarys_images(
    command: list[str], start_server: Any, bundle_path: Any, pipeline: Pipeline
) -> None:
    if len(command) == 1:
        pytest.skip("the C++ runtime's own tests say whether its build has a GPU")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime is not installed for CUDA here")
    server = start_server(bundle_path, "--device", "cuda", "--lanes", "3")
    asked = [{"labels": [seed % 5, 1], "seed": seed, **QUICK} for seed in range(9)]
    with ThreadPoolExecutor(9) as clients:
        replies = list(clients.map(server.images, asked))
    for reply, values in zip(replies, asked, strict=True):
        assert reply.status == 200, reply.body
        assert_same(reply.json, pipeline.generate(**values))
    assert server.end() == 0
