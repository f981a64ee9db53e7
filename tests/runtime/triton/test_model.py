"""The model that Triton's Python backend runs: `1/model.py` as `himar-export triton` writes it, without a server."""

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_export.triton.repository import TritonModel, write_model
from himar_runtime import Pipeline
from himar_runtime.recipe import Recipe
from tests.runtime.conftest import write_bundle
from tests.runtime.triton import backend
from tests.runtime.triton.backend import TritonError, request


@pytest.fixture(scope="module", autouse=True)
def triton() -> Iterator[None]:
    """Inside the server there is this module."""
    sys.modules["triton_python_backend_utils"] = backend
    yield
    del sys.modules["triton_python_backend_utils"]
    del sys.modules["himar_runtime.triton.model"]


def load(bundle: Path, repository: Path, **options: Any) -> Any:
    """Write a model, and start an instance of it as Triton does."""
    folder = write_model(bundle, repository, TritonModel(threads=1, **options))
    spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    start(model, folder)
    return model


def start(model: Any, folder: Path) -> None:
    text = (folder / "config.pbtxt").read_text()
    parameters = re.findall(r'key: "(\w+)" value \{ string_value: ("[^"]*")', text)
    config = {
        "input": [{"name": name} for name in re.findall(r'input \{ name: "(\w+)"', text)],
        "parameters": {key: {"string_value": json.loads(value)} for key, value in parameters},
        "model_transaction_policy": {"decoupled": "decoupled: true" in text},
    }
    model.initialize(
        {
            "model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1",
            "model_instance_kind": "CPU", "model_instance_device_id": "0",
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(bundle_path: Path) -> Pipeline:
    return Pipeline.load(bundle_path, threads=1)


@pytest.fixture(scope="module")
def model(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(bundle_path, tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="module")
def stream(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(bundle_path, tmp_path_factory.mktemp("triton"), stream=True, link=True)


@pytest.fixture
def calls(model: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Returns how many images each call of the engines made."""
    made: list[int] = []
    generate = model._pipeline.generate

    def counted(*args: Any, **keys: Any) -> Any:
        result = generate(*args, **keys)
        made.append(len(result.labels))
        return result

    monkeypatch.setattr(model._pipeline, "generate", counted)
    return lambda: made


def test_a_row_is_the_image_that_the_pipeline_makes(model, pipeline):
    (answer,) = model.execute([request(label=[3, 1], seed=[7, 2**64 - 1], index=[0, 5])])
    for place, (label, seed, index) in enumerate([(3, 7, 0), (1, 2**64 - 1, 5)]):
        alone = pipeline.generate([label], seed=seed, first_index=index)
        np.testing.assert_array_equal(answer["image"][place], alone.images[0])
        assert Recipe.from_dict(json.loads(answer["recipe"][place, 0]), "it") == alone.recipes[0]


def test_what_is_left_out_has_the_service_s_defaults(model, pipeline):
    (answer,) = model.execute([request(label=[3, 1])])
    recipes = [json.loads(text) for text in answer["recipe"][:, 0]]
    assert [recipe["index"] for recipe in recipes] == [0, 1]
    assert recipes[0]["seed"] == recipes[1]["seed"] < 2**53
    again = pipeline.generate([3, 1], seed=recipes[0]["seed"])
    np.testing.assert_array_equal(answer["image"], again.images)


def test_requests_of_the_same_settings_run_in_one_call_and_are_what_they_are_alone(model, pipeline, calls):
    answers = model.execute(
        [
            request(label=[3], seed=[1]),
            request(label=[4, 2], seed=[2, 2], sampling=[b"plain", b"default"]),
            request(label=[0], seed=[3], guidance=[3.0]),
            request(label=[1], seed=[4], sampling=[b"plain"]),
        ]
    )
    assert sorted(calls()) == [1, 2, 2]
    expected = [
        pipeline.generate([3], seed=1).images,
        np.stack([pipeline.generate([4], seed=2, sampling="plain").images[0],
                  pipeline.generate([2], seed=2, first_index=1).images[0]]),
        pipeline.generate([0], seed=3, guidance=3.0).images,
        pipeline.generate([1], seed=4, sampling="plain").images,
    ]  # fmt: skip
    for answer, images in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer["image"], images)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label": [9]}, "label 9 (number 0 of the list) is not a class of this model"),
        ({"seed": [9]}, "the input label is missing; give one for each image."),
        ({"label": [1], "sampling": [b"slow"]}, "sampling 'slow' is not in this bundle; it has default, plain."),
        ({"label": [1], "sampling": [b"\xff"]}, "sampling is not UTF-8 (byte 0); send text encoded as UTF-8."),
        ({"label": [1], "guidance": [float("nan")]}, "low_guidance is nan; it must be a number from 0 to 1000000"),
        ({"label": [1], "index": [-1]}, "first_index is -1; it must be 0 to"),
        ({"label": [1, 2], "seed": [1]}, "seed has 1 values for 2 of label; give one for each image."),
    ],
)
def test_a_bad_request_gets_one_error_and_the_others_their_images(model, pipeline, columns, said):
    good, bad, other = model.execute([request(label=[3], seed=[1]), request(**columns), request(label=[2], seed=[2])])
    assert said in bad.error.message()
    assert bad.error.code() == TritonError.INVALID_ARG
    np.testing.assert_array_equal(good["image"], pipeline.generate([3], seed=1).images)
    np.testing.assert_array_equal(other["image"], pipeline.generate([2], seed=2).images)


def test_a_failing_engine_is_an_error_of_each_request(tmp_path):
    model = load(write_bundle(tmp_path / "bundle", poison={"dit_head": float("nan")}), tmp_path / "repository")
    for answer in model.execute([request(label=[1]), request(label=[2])]):
        assert "dit_head returned values that are not finite" in answer.error.message()
        assert answer.error.code() == TritonError.INTERNAL


def test_a_request_that_fails_unexpectedly_is_an_error_too(model, monkeypatch):
    def fail(*args: Any, **keys: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(model._pipeline, "generate", fail)
    (answer,) = model.execute([request(label=[1])])
    assert answer.error.message() == "the request failed with an unexpected ZeroDivisionError; see the server's log."


def test_a_call_ends_when_all_of_its_requests_are_cancelled(model, pipeline):
    one, two = model.execute([request(label=[1], seed=[1], cancelled_after=1), request(label=[2], seed=[2])])
    np.testing.assert_array_equal(two["image"], pipeline.generate([2], seed=2).images)
    one, two = model.execute([request(label=[1], cancelled_after=1), request(label=[2], cancelled_after=0)])
    assert [each.error.code() for each in (one, two)] == [TritonError.CANCELLED] * 2


def test_a_stream_shows_unfinished_images_and_ends_with_the_image(stream, pipeline):
    seen, plain = request(label=[3], seed=[7], partial_images=[3]), request(label=[1, 2], seed=[8, 8])
    bad = request(label=[1, 2], partial_images=[1, 0])
    assert stream.execute([seen, plain, bad]) is None
    expected: list[np.ndarray] = []
    finished = pipeline.generate([3], seed=7, on_step=lambda step: expected.append(step.so_far()) or True)
    assert [int(each["partial"][0, 0]) for each in seen.sent] == [0, 1, -1]
    low, high = expected[2], expected[3]  # after the three low steps, and the first of two high ones
    for each, image in zip(seen.sent, (low, high, finished.images), strict=True):
        np.testing.assert_array_equal(each["image"], image)
    assert [each["recipe"][0, 0] == b"" for each in seen.sent] == [True, True, False]
    np.testing.assert_array_equal(plain.sent[0]["image"], pipeline.generate([1, 2], seed=8).images)
    assert plain.sent[0]["partial"].tolist() == [[-1], [-1]]
    assert "partial_images is given for 2 images; ask for one image in each request." in bad.sent[0].error.message()
    assert all(each.finished for each in (seen, plain, bad))


def test_more_unfinished_images_than_there_may_be_are_refused(stream):
    asked = request(label=[3], partial_images=[4])
    stream.execute([asked])
    assert asked.sent[0].error.message() == "partial_images is 4; it must be 0 to 3."


def test_prompts(tiny_text_path, tmp_path):
    model = load(tiny_text_path, tmp_path / "repository")
    good, bad = model.execute([request(prompt=[b"a cat"], seed=[3]), request(prompt=[b"<|endoftext|>"])])
    whole = Pipeline.load(tiny_text_path, threads=1).generate(prompts=["a cat"], seed=3)
    np.testing.assert_array_equal(good["image"], whole.images)
    assert json.loads(good["recipe"][0, 0])["prompt"] == "a cat"
    assert "prompt 0 holds <|endoftext|>" in bad.error.message()


def test_an_instance_without_its_bundle_says_so(bundle_path, tmp_path):
    model = load(bundle_path, tmp_path)
    shutil.rmtree(tmp_path / "himar" / "1" / "bundle")
    with pytest.raises(backend.TritonModelException, match="is not a folder; give a bundle"):
        start(model, tmp_path / "himar")
