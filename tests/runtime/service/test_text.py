"""A bundle from text behind either service: prompts in place of labels, images and recipes of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from himar_runtime import Pipeline
from tests.runtime.service.test_images import assert_same
from tests.runtime.tiny_text import write_text_bundle

LONG = "two two two two red"


@pytest.fixture(scope="module")
def text_server(start_server: Any, tiny_text_path: Path) -> Any:
    return start_server(tiny_text_path, "--lanes", "2", "--max-images", "4")


def test_images_and_recipes_are_the_librarys(text_server: Any, tiny_text_path: Path) -> None:
    values = {"prompts": ["two red", "größer \U0001f600", LONG], "seed": 2**64 - 1, "first_index": 5, "guidance": 1.5}
    reply = text_server.images(values)
    assert reply.status == 200
    expected = Pipeline.load(tiny_text_path, threads=1).generate(**values)
    assert_same(reply.json, expected)
    assert reply.json["truncated"] == [1, 2] == list(expected.truncated)
    assert [image["prompt"] for image in reply.json["images"]] == values["prompts"]
    assert "label" not in reply.json["images"][0]


def test_the_model_says_that_it_takes_prompts(text_server: Any) -> None:
    values = text_server.ask("GET", "/v1/model").json
    assert (values["classes"], values["context"], values["prompts"]) == (0, "text", True)


@pytest.mark.parametrize(
    ("values", "status", "sentence"),
    [
        ({"prompts": []}, 400, "prompts is empty; give at least one text."),
        ({"prompts": "red"}, 400, 'prompts is "red"; give a list of texts, one per image.'),
        ({"prompts": ["red", 7]}, 400, "prompt 1 is 7, which is not text; write it as a string."),
        ({"prompts": ["a <|endoftext|>"]}, 400, "prompt 0 holds <|endoftext|>"),
        ({"prompts": ["red"] * 5}, 413, "prompts has 5 entries; ask for at most 4 images in one request."),
        ({"labels": [1]}, 400, "labels is given, but this bundle's model makes images from text; give prompts."),
        ({"seed": 1}, 400, 'the body lacks "prompts"; give a list of texts, one per image.'),
        ({"prompts": None}, 400, "prompts is null; give a list of texts, one per image."),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(text_server: Any, values: dict[str, Any], status: int, sentence: str) -> None:
    reply = text_server.images(values)
    assert (reply.status, sentence in reply.json["error"]) == (status, True), reply.json


def test_bundles_that_take_no_prompts_refuse_them(start_server: Any, server: Any, tmp_path: Path) -> None:
    reply = server.images({"prompts": ["red"]})
    assert reply.status == 400
    assert "prompts is given, but this bundle's model makes images of classes; give labels." in reply.json["error"]
    reply = start_server(write_text_bundle(tmp_path / "bundle", encoder=False)).images({"prompts": ["red"]})
    assert reply.status == 400
    assert "this bundle has no text_encoder, so it takes no prompts" in reply.json["error"]
