"""What cannot be done as asked is refused in OpenAI's form, so that its client raises the right exception."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from himar_kernels import InputError
from himar_runtime import Bundle
from himar_runtime.service.answer import LONGEST_SENTENCE
from himar_runtime.service.openai.answer import failure
from himar_runtime.service.openai.request import read_generation
from himar_runtime.service.request import RefusalError
from tests.runtime.service.openai.conftest import ask, client_of

TAKEN = (
    "prompt, model, n, size, quality, stream, partial_images, output_format, output_compression, background, "
    "response_format, seed, guidance_scale"
)
VALUES = [
    ("prompt", None, 'the body lacks "prompt"; give the name or the number of a class.'),
    ("prompt", 3, "prompt is 3; write it as a string."),
    ("prompt", "", "the class is empty; give the name or the number of one."),
    ("prompt", "9", "9 is not a class of this model; classes are the numbers 0 to 4."),
    ("prompt", "goldfush", "'goldfush' is not a class of this model; the nearest names are 'goldfish', 'goldfinch'."),
    ("prompt", "gold", "'gold' may be 2 classes: 'goldfish' (0), 'goldfinch' (1); write more of the name, or the"),
    ("prompt", "a cock on a roof", "'a cock on a roof' is not a class of this model; "),
    ("n", 0, "n is 0; it must be a whole number from 1 to 10."),
    ("n", 11, "n is 11; it must be a whole number from 1 to 10."),
    ("n", True, "n is true; it must be a whole number from 1 to 10."),
    ("n", 1.0, "n is 1.0; it must be a whole number from 1 to 10."),
    ("n", 9, "n is 9, but this server makes at most 8 images in one request."),
    ("size", "1024x1024", "size is '1024x1024', but this model makes images of 16x16; ask for that, or 'auto'."),
    ("size", 16, "size is 16, but this model makes images of 16x16"),
    ("quality", "high", "quality is 'high'; this bundle has auto, low, default, plain, fast."),
    ("quality", ["low"], 'quality is ["low"]; this bundle has'),
    ("stream", "yes", "stream is 'yes'; it must be true or false."),
    ("partial_images", 2, "partial_images is 2, but stream is not true; ask for a stream."),
    ("partial_images", 4, "partial_images is 4; it must be a whole number from 0 to 3."),
    ("partial_images", -1, "partial_images is -1; it must be a whole number from 0 to 3."),
    ("output_format", "gif", "output_format is 'gif'; this server writes png"),
    ("output_format", [], "output_format is []; this server writes png"),
    ("output_compression", 50, "output_compression is 50, but a PNG loses nothing; leave it out, or ask for another"),
    ("output_compression", 101, "output_compression is 101; it must be a whole number from 0 to 100."),
    ("background", "transparent", "background is 'transparent', but the images are opaque; leave it out."),
    ("response_format", "url", "response_format is 'url', but this server keeps no images, so it has no addresses"),
    ("seed", -1, "seed is -1"),
    ("seed", "7", "seed is '7'"),
    ("guidance_scale", -1, "low_guidance is -1"),
    ("guidance_scale", 1e300, "low_guidance is 1e+300; it must be a number from 0 to 1000000."),
    ("guidance_scale", "much", "it must be a number"),
]


@pytest.mark.parametrize(("param", "value", "sentence"), VALUES, ids=lambda value: str(value)[:30])
def test_a_wrong_value_names_its_field(named_server: Any, param: str, value: Any, sentence: str) -> None:
    reply = ask(named_server, {"prompt": "1", param: value})
    assert (reply.status, reply.headers["Content-Type"]) == (400, "application/json")
    error = reply.json["error"]
    assert sentence in error["message"] and error["message"].endswith(".")
    missing = value is None
    code = "missing_required_parameter" if missing else "invalid_value"
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert reply.headers["X-Request-Id"]


@pytest.mark.parametrize("key", ["negative_prompt", "num_inference_steps", "complexity", "labels", "strength"])
def test_a_field_that_would_change_the_image_is_refused(named_server: Any, key: str) -> None:
    reply = ask(named_server, {"prompt": "1", key: 3})
    assert reply.json["error"] == {
        "message": f"unknown parameter {key!r}; this server takes {TAKEN}.", "type": "invalid_request_error",
        "param": key, "code": "unknown_parameter",
    }  # fmt: skip
    assert reply.status == 400


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b"{", "the body is not valid JSON"),
        (b"[1]", "the body is [1]; it must be a JSON object with prompt."),
        (b'{"prompt": ' + b"[" * 1500 + b"]" * 1500 + b"}", ""),
        (b'{"prompt": "\xff"}', "the body is not UTF-8"),
    ],
)
def test_a_body_that_is_no_object_is_refused(named_server: Any, body: bytes, part: str) -> None:
    reply = ask(named_server, body)
    assert (reply.status, reply.json["error"]["param"] in (None, "prompt")) == (400, True)
    assert part in reply.json["error"]["message"]


def test_other_refusals_have_that_form_too(named_server: Any) -> None:
    body, json_type = json.dumps({"prompt": "1"}), {"Content-Type": "application/json"}
    path = "/v1/images/generations"
    for reply, status, part in (
        (named_server.ask("GET", path), 405, "does not take GET; use POST."),
        (named_server.ask("DELETE", "/v1/models"), 405, "use "),
        (named_server.ask("GET", "/v1/models/"), 404, "there is no model ''"),
        (named_server.ask("POST", path, body, {"Content-Type": "text/plain"}), 415, "Content-Type is 'text/plain'"),
        (named_server.ask("POST", path, " " * 5000, json_type), 413, "the body has 5000 bytes; send at most 4096."),
    ):
        assert reply.status == status
        assert reply.json["error"].keys() == {"message", "type", "param", "code"}
        assert part in reply.json["error"]["message"]
        assert reply.json["error"]["type"] == "invalid_request_error"
    assert isinstance(named_server.ask("GET", "/v1/imagess").json["error"], str)


def test_the_client_raises_what_was_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="n is 11; it must be a whole number from 1 to 10") as refused:
        client.images.generate(prompt="1", n=11)
    error = refused.value
    assert (error.param, error.code, error.type) == ("n", "invalid_value", "invalid_request_error")
    with pytest.raises(
        openai.NotFoundError, match="model is 'dall-e-3', but this server has 'fishes' alone"
    ) as refused:
        client.images.generate(prompt="1", model="dall-e-3")
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError, match="partial_images is 4; it must be a whole number from 0 to 3"):
        client.images.generate(prompt="1", stream=True, partial_images=4)
    with pytest.raises(openai.BadRequestError, match="n is 2, but a stream shows one image; send a request for each"):
        client.images.generate(prompt="1", stream=True, n=2)


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["auto", "low", "png", "1"])
)
BODIES = st.dictionaries(
    st.sampled_from(TAKEN.split(", ")) | st.text(),
    LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.text(), LEAVES, max_size=2),
    max_size=4,
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=BODIES)
def test_any_object_is_read_or_refused(values: dict[str, Any], named_path: Path) -> None:
    manifest = Bundle.open(named_path).manifest
    body = json.dumps({"prompt": "1", **values}).encode()
    try:
        found = read_generation(body, manifest, ("fishes",), max_images=8)
    except RefusalError as error:
        assert error.status in (400, 404) and error.code is not None
        told = json.loads(failure(error.status, str(error), error.param, error.code))["error"]
        assert 10 < len(told["message"]) <= LONGEST_SENTENCE and len(told["param"]) <= LONGEST_SENTENCE
    except InputError as error:
        assert "not valid JSON" in str(error)  # NaN
    else:
        assert found.images.labels is not None and 1 <= len(found.images.labels) <= 8


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=BODIES)
def test_any_object_is_answered_or_refused(values: dict[str, Any], named_server: Any) -> None:
    reply = ask(named_server, {"prompt": "1", "quality": "low", **values})
    assert reply.status in (200, 400, 404), reply.body
    if reply.status != 200:
        error = reply.json["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error" and 10 < len(error["message"]) <= LONGEST_SENTENCE


def test_a_bundle_without_names_takes_numbers(server: Any) -> None:
    assert ask(server, {"prompt": "4"}).status == 200
    refused = ask(server, {"prompt": "cock"}).json["error"]
    assert refused["message"] == "'cock' is no number, and this model does not know its classes' names; give 0 to 4."


def test_a_bundle_without_a_decoder_has_no_images(start_server: Any, make_bundle: Any) -> None:
    server = start_server(make_bundle(decoder=False))
    reply = ask(server, {"prompt": "1"})
    assert (reply.status, reply.json["error"]["param"]) == (400, None)
    assert "this bundle has no VAE decoder, so there are no images; ask /v1/images" in reply.json["error"]["message"]
    assert server.end() == 0


def test_a_bundle_without_a_tower_takes_no_texts(start_server: Any, tmp_path: Path) -> None:
    from tests.runtime.tiny_text import write_text_bundle

    server = start_server(write_text_bundle(tmp_path / "bundle", encoder=False))
    refused = ask(server, {"prompt": "red"}).json["error"]
    assert "this bundle has no text_encoder, so it takes no prompts" in refused["message"]
    lacks = ask(server, {}).json["error"]
    assert lacks["message"] == 'the body lacks "prompt"; give a text.'
    assert server.end() == 0


def test_what_failed_for_good_is_not_sent_again(start_server: Any, make_bundle: Any) -> None:
    server = start_server(make_bundle(poison={"transformer_low": float("nan")}))
    with pytest.raises(openai.InternalServerError, match="transformer_low returned values that are not finite"):
        client_of(server, max_retries=5).images.generate(prompt="0")
    assert server.metrics()["himar_requests_total{code=500}"] == 1
    reply = ask(server, {"prompt": "0"})
    assert (reply.headers["x-should-retry"], reply.json["error"]["type"]) == ("false", "server_error")
    assert server.end() == 0


def test_full_queues_are_to_be_tried_again(start_server: Any, bundle_path: Path, slow: Any) -> None:
    server = start_server(bundle_path, "--queue", "1")
    running = server.start(slow)
    server.wait_for("himar_lanes_busy", 1)
    queued = server.start(slow)
    server.wait_for("himar_queue_length", 1)
    with pytest.raises(openai.RateLimitError, match="all lanes are at work and 1 requests wait") as refused:
        client_of(server).images.generate(prompt="1")
    assert refused.value.response.headers["Retry-After"] == "1"
    assert (refused.value.type, refused.value.code) == ("rate_limit_error", "rate_limit_exceeded")
    running.close()
    queued.close()
    assert server.end() == 0


def test_what_takes_too_long_is_not_sent_again(start_server: Any, slow_path: Path) -> None:
    server = start_server(slow_path, "--timeout", "0.5")
    with pytest.raises(openai.InternalServerError, match=r"no answer within 0\.5 s") as late:
        client_of(server, max_retries=5).images.generate(prompt="1")
    assert (late.value.status_code, late.value.response.headers["x-should-retry"]) == (504, "false")
    assert server.metrics()["himar_requests_total{code=504}"] == 1
    assert server.end() == 0


def test_a_server_that_ends_sends_clients_elsewhere(start_server: Any, slow_path: Path) -> None:
    server = start_server(slow_path, "--drain-seconds", "600")
    running = server.start({"labels": [1]})
    server.wait_for("himar_lanes_busy", 1)
    server.process.send_signal(signal.SIGTERM)
    while server.ask("GET", "/healthz").status == 200:
        pass
    reply = ask(server, {"prompt": "1"})
    assert (reply.status, reply.headers["Retry-After"], reply.headers["x-should-retry"]) == (503, "1", None)
    assert "shutting down" in reply.json["error"]["message"]
    running.close()
    assert server.process.wait(timeout=60) == 0
