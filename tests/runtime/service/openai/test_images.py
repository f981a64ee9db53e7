"""OpenAI's client gets the library's images by a prompt, and what it reads of an answer is there and true."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from himar_runtime import Pipeline
from tests.closeness import assert_same_pixels
from tests.runtime.service.openai.conftest import client_of, require_format
from tests.runtime.service.test_images import pixels


@pytest.fixture(scope="session")
def named_pipeline(named_path: Path) -> Pipeline:
    return Pipeline.load(named_path, threads=1)


def image_of(data: Any) -> bytes:
    return base64.b64decode(data.b64_json, validate=True)


def assert_images(answer: Any, wanted: Any) -> None:
    assert len(answer.data) == len(wanted.images)
    for found, image, recipe in zip(answer.data, wanted.images, wanted.recipes, strict=True):
        assert_same_pixels(pixels(image_of(found)), image)
        assert found.recipe == recipe.to_dict()


def test_a_class_by_its_name_gives_the_librarys_images(client: openai.OpenAI, named_pipeline: Pipeline) -> None:
    before = int(time.time())
    answer = client.images.generate(prompt="tench", n=2, extra_body={"seed": 7, "guidance_scale": 2})
    assert_images(answer, named_pipeline.generate([2, 2], seed=7, guidance=2))
    assert before <= answer.created <= time.time()
    assert (answer.background, answer.output_format, answer.quality, answer.size) == ("opaque", "png", "auto", "16x16")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (0, 32, 32)
    assert answer.seed == 7


@pytest.mark.parametrize(
    ("prompt", "label"), [("3", 3), ("GREAT", 3), ("goldfinch", 1), (" cock ", 4), ("tench, Tinca tinca", 2)]
)
def test_a_class_has_a_number_a_name_and_beginnings(client: openai.OpenAI, prompt: str, label: int) -> None:
    answer = client.images.generate(prompt=prompt, quality="fast")
    assert answer.data[0].recipe["label"] == label
    assert answer.data[0].recipe["seed"] == answer.seed < 2**53


@pytest.mark.parametrize(
    ("quality", "setting"),
    [("auto", "default"), ("low", "fast"), ("plain", "plain"), ("fast", "fast"), ("default", "default")],
)
def test_quality_is_a_setting(client: openai.OpenAI, named_pipeline: Pipeline, quality: Any, setting: str) -> None:
    answer = client.images.generate(prompt="1", quality=quality, extra_body={"seed": 3})
    assert_images(answer, named_pipeline.generate([1], seed=3, sampling=setting))
    assert answer.quality == quality


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_other_formats_show_the_same_image(
    command: list[str], client: openai.OpenAI, named_server: Any, kind: Any
) -> None:
    require_format(named_server, kind, command)
    images = {}
    for output_format, compression in (("png", 100), (kind, 100), (kind, 1)):
        answer = client.images.generate(
            prompt="1", quality="low", output_format=output_format, output_compression=compression,
            extra_body={"seed": 3},
        )  # fmt: skip
        assert answer.output_format == output_format
        content = image_of(answer.data[0])
        images[output_format, compression] = content, Image.open(io.BytesIO(content))
        assert images[output_format, compression][1].format == output_format.upper()
    exact, good, bad = (np.asarray(images[each][1].convert("L")).astype(int) for each in images)
    assert np.abs(good - exact).mean() < 3 < np.abs(bad - exact).mean()


def test_what_says_nothing_of_the_image_is_taken(client: openai.OpenAI, named_server: Any) -> None:
    plain = client.images.generate(prompt="1", quality="low", extra_body={"seed": 3})
    answer = client.images.generate(
        prompt="1", quality="low", n=1, size="16x16", background="opaque", response_format="b64_json", stream=False,
        moderation="low", style="vivid", user="me", output_format="png", model="fishes",
        extra_body={"seed": 3, "safety_identifier": "you"},
    )  # fmt: skip
    assert image_of(answer.data[0]) == image_of(plain.data[0])
    nulls = client.images.generate(prompt="1", n=None, size=None, model=None, quality=None, stream=None)
    assert nulls.quality == "auto" and len(nulls.data) == 1


def test_a_text_gives_the_librarys_images(start_server: Any, tiny_text_path: Path) -> None:
    server = start_server(tiny_text_path)
    client = client_of(server)
    answer = client.images.generate(prompt="two red", n=2, extra_body={"seed": 9})
    wanted = Pipeline.load(tiny_text_path, threads=1).generate(prompts=["two red"] * 2, seed=9)
    assert_images(answer, wanted)
    assert (answer.truncated, answer.usage.input_tokens_details.text_tokens) == ([], 2 * 6)
    with pytest.raises(openai.BadRequestError, match=r"holds <\|endoftext\|>") as refused:
        client.images.generate(prompt="a <|endoftext|>")
    assert refused.value.param == "prompt"
    assert server.end() == 0


def test_models_are_listed(client: openai.OpenAI, named_server: Any, named_path: Path) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("fishes", "model", "himar")
    assert model.created == int((named_path / "manifest.json").stat().st_mtime)
    assert client.models.retrieve("fishes") == model
    bundle = named_server.ask("GET", "/v1/model").json["bundle"]
    assert client.models.retrieve(bundle) == model
    assert client.images.generate(prompt="1", model=bundle, quality="low").data
    with pytest.raises(openai.NotFoundError, match="there is no model 'dall-e-3'; this server has 'fishes' alone"):
        client.models.retrieve("dall-e-3")


def test_a_bundle_in_the_hubs_cache_is_called_as_there(start_server: Any, named_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models--some--fishes" / "snapshots" / "0123abcd"
    folder.mkdir(parents=True)
    for file in named_path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    server = start_server(folder)
    client = client_of(server)
    assert client.models.list().data[0].id == "some/fishes"
    assert client.models.retrieve("some/fishes").id == "some/fishes"
    assert server.end() == 0


def test_requests_are_counted_and_logged_with_the_others(client: openai.OpenAI, named_server: Any) -> None:
    before = named_server.metrics()
    answer = client.images.with_raw_response.generate(prompt="1", n=3, quality="low")
    after = named_server.metrics()
    for name, more in (("himar_requests_total{code=200}", 1), ("himar_images_total", 3)):
        assert after[name] - before.get(name, 0) == more
    assert f"{answer.headers['x-request-id']} 200 images=3 queued=" in named_server.log.read_text()
    assert json.loads(answer.content)["seconds"].keys() == {"queued", "generate"}
