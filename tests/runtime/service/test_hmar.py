"""A bundle of the family hmar behind either service: its settings are keys of a request, its images the library's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from himar_runtime import Pipeline
from tests.runtime.service.test_images import assert_same
from tests.runtime.tiny_hmar import write_hmar_bundle

FULL = {
    "labels": [3, 0, 4, 4], "seed": 2**64 - 1, "first_index": 5, "guidance": 0.5, "top_k": 5, "top_p": 0.8,
    "schedule": [[1], [2, 2]], "mask_guidance": 1.0, "all_scales": False, "smooth": False,
}  # fmt: skip
VAR = {"labels": [1], "seed": 3, "sampling": "plain", "all_scales": True, "schedule": []}


@pytest.fixture(scope="module")
def hmar_server(start_server: Any, tiny_hmar_path: Path) -> Any:
    return start_server(tiny_hmar_path, "--lanes", "2")


@pytest.mark.parametrize("values", [{"labels": [1], "seed": 0}, FULL, VAR], ids=["defaults", "everything", "var"])
def test_images_and_recipes_are_the_librarys(hmar_server: Any, tiny_hmar_path: Path, values: dict[str, Any]) -> None:
    reply = hmar_server.images(values)
    assert reply.status == 200
    assert_same(reply.json, Pipeline.load(tiny_hmar_path, threads=1).generate(**values))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"schedule": [[1], [1, 2]]}, "schedule of scale 1 is [1, 2], which sums to 3, but the scale has 4 cells"),
        ({"schedule": [[1], 4]}, "schedule"),
        ({"schedule": "[[1]]"}, "schedule"),
        ({"top_k": 12}, "top_k is 12, but the model has 11 codes; ask for 0 (all) to 11."),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number."),
        ({"top_p": 0}, "top_p is 0; it must be above 0 and at most 1, where 1 keeps every code."),
        ({"smooth": True}, "smooth is set, but masked steps are not defined with it"),
        ({"all_scales": 1}, "all_scales is 1; it must be true or false."),
        ({"low_steps": 3}, "low_steps"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(hmar_server: Any, values: dict[str, Any], sentence: str) -> None:
    reply = hmar_server.images({"labels": [1], **values})
    assert reply.status == 400
    assert sentence in reply.json["error"]


def test_a_bundle_without_all_scales_refuses_a_request_for_them(start_server: Any, tmp_path: Path) -> None:
    server = start_server(write_hmar_bundle(tmp_path / "bundle", var=False))
    reply = server.images(VAR)
    assert reply.status == 400
    assert "all_scales is set, but this bundle has no component var_trunk" in reply.json["error"]
