"""A request that cannot be served gets a 4xx and one sentence with the value, and harms nobody else."""

from __future__ import annotations

import json
from typing import Any

import pytest

OK = {"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}

BODIES = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b'{"labels": [1]} x', "not valid JSON"),
    (b'{"labels": [1], "guidance": NaN}', "not valid JSON"),
    (b'{"labels": ["\xff"]}', "UTF-8"),
    (b'{"labels": ' + b"[" * 2000 + b"]" * 2000 + b"}", ""),
    (b"[1]", "must be a JSON object"),
    ({}, 'lacks "labels"'),
    ({"labels": 3}, "labels is 3"),
    ({"labels": "3"}, 'labels is "3"'),
    ({"labels": []}, "labels is empty"),
    ({"labels": [1, 5]}, "label 5 (number 1 of the list) is not a class of this model"),
    ({"labels": [-1]}, "label -1 "),
    ({"labels": [1.0]}, "label 1.0 "),
    ({"labels": [2**70]}, "is not a class of this model"),
    ({"labels": [True]}, "is not a class of this model"),
    ({"labels": [None]}, "is not a class of this model"),
    ({"labels": [[1]]}, "is not a class of this model"),
    ({"label": [1]}, "label"),
    ({**OK, "seed": -1}, "seed is -1"),
    ({**OK, "seed": 2**64}, "it must be a whole number from 0 to 2^64-1"),
    ({**OK, "seed": 1.5}, "seed is 1.5"),
    ({**OK, "seed": "7"}, "seed is"),
    ({**OK, "seed": None}, "seed is null"),
    ({**OK, "first_index": -1}, "first_index is -1; it must be 0 to 4294967295."),
    ({**OK, "first_index": 2**32}, "first_index is 4294967296; it must be 0 to 4294967295."),
    ({**OK, "first_index": 0.5}, "first_index is 0.5"),
    ({**OK, "sampling": "best"}, "sampling 'best' is not in this bundle; it has default, plain."),
    ({**OK, "sampling": ["plain"]}, "sampling is"),
    ({**OK, "guidance": -1}, "low_guidance is -1"),
    ({**OK, "guidance": 1e300}, "low_guidance is 1e+300; it must be a number from 0 to 1000000."),
    ({**OK, "temperature": 1000001}, "temperature is 1000001.0; it must be a number from 0 to 1000000."),
    ({**OK, "guidance": "2"}, "it must be a number"),
    ({**OK, "high_guidance": 10**400}, ""),
    ({**OK, "low_guidance": True}, "low_guidance is"),
    ({**OK, "temperature": [1]}, "temperature is"),
    ({**OK, "low_steps": 0}, "low_steps is 0; it must be at least 1."),
    ({**OK, "low_steps": 5}, "low_steps is 5, but phase low has only 4 positions; ask for 1 to 4 steps."),
    ({**OK, "high_steps": 2**40}, "high_steps is 1099511627776, but phase high has only 16 positions"),
    ({**OK, "high_steps": 1.0}, "high_steps is 1.0; it must be a whole number."),
    ({**OK, "low_diffusion_steps": 1}, "low_diffusion_steps is 1; it must be 2 to 1000."),
    ({**OK, "high_diffusion_steps": 1001}, "high_diffusion_steps is 1001; it must be 2 to 1000."),
    ({**OK, "guidance_schedule": "cosine"}, "guidance_schedule is 'cosine'; it must be 'linear' or 'constant'."),
    ({**OK, "low_solver": "euler"}, "low_solver is 'euler'; it must be 'ddpm', 'ddim' or 'dpm++'."),
    ({**OK, "high_solver": 2}, "high_solver is 2; it must be 'ddpm', 'ddim' or 'dpm++'."),
    (
        {**OK, "low_solver": "ddim", "high_solver": "dpm++", "temperature": 0.5},
        "temperature is 0.5, but it scales the noise of reverse steps and solver 'dpm++' adds none; set it to 1, or",
    ),
    ({**OK, "high_forecast": 0}, "high_forecast is 0; it must be 1 to 1000."),
    ({**OK, "low_forecast": 1.5}, "low_forecast is 1.5; it must be a whole number."),
    ({**OK, "guidance_interval": 1001}, "guidance_interval is 1001; it must be 1 to 1000."),
    (
        {**OK, "forecast_order": 0},
        "forecast_order is 0, but no phase is forecast; set low_forecast or high_forecast to 2",
    ),
    ({**OK, "low_forecast": 2, "forecast_order": 3}, "forecast_order is 3; it must be 0 to 2."),
    ({**OK, "high_forecast": 9, "forecast_order": 2}, "high_forecast is 9 and forecast_order is 2, which diverges"),
    ({**OK, "low_guidances": 2}, "low_guidances is 2; it must be a list."),
    ({**OK, "low_guidances": [[1]]}, "low_guidances[0] is"),
    ({**OK, "low_guidances": [-1]}, "low_guidances[0] is -1.0; it must be a number from 0 to 1000000."),
    ({**OK, "high_guidances": [1, 2]}, "high_guidances has 2 scales, but high_steps is 1; give one for each step."),
    ({**OK, "low_diffusion_counts": [1]}, "low_diffusion_counts[0] is 1; it must be 2 to 1000."),
    ({**OK, "high_diffusion_counts": [4.0]}, "high_diffusion_counts[0] is 4.0; it must be a whole number."),
    ({**OK, "high_diffusion_counts": {}}, "it must be a list."),
    ({**OK, "output": "jpeg"}, "it must be 'png' or 'latents'"),
    ({**OK, "outputs": "png"}, "outputs"),
]


def assert_one_sentence(reply: Any, status: int, part: str = "") -> None:
    assert reply.status == status, reply.body
    assert reply.headers["Content-Type"] == "application/json"
    assert set(reply.json) == {"error"}
    sentence = reply.json["error"]
    assert part in sentence
    assert 10 < len(sentence) <= 700 and sentence.endswith((".", "…")) and "\n" not in sentence
    assert reply.headers["X-Request-Id"]


@pytest.mark.parametrize(("body", "part"), BODIES, ids=lambda value: str(value)[:40] if value else "nothing")
def test_a_wrong_body_is_a_400(server: Any, body: Any, part: str) -> None:
    assert_one_sentence(server.images(body), 400, part)


def test_a_refusal_does_not_spoil_the_clients_next_request(server: Any) -> None:
    connection = server.connect()
    for body, status in ((b"{", 400), (json.dumps(OK), 200), (b'{"labels": 1}', 400), (json.dumps(OK), 200)):
        connection.request("POST", "/v1/images", body, {"Content-Type": "application/json"})
        assert server.reply(connection).status == status
    connection.close()


def test_only_json_is_read(server: Any) -> None:
    body = json.dumps(OK)
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        assert_one_sentence(server.ask("POST", "/v1/images", body, {"Content-Type": content_type}), 415, content_type)
    assert_one_sentence(server.ask("POST", "/v1/images", body), 415, "application/json")
    compressed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert_one_sentence(server.ask("POST", "/v1/images", body, compressed), 415)
    with_charset = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert server.ask("POST", "/v1/images", body, with_charset).status == 200


def test_one_png_holds_one_image(server: Any) -> None:
    assert_one_sentence(server.images({**OK, "labels": [1, 2]}, Accept="image/png"), 406, "one image")
    assert_one_sentence(server.images({**OK, "output": "latents"}, Accept="image/png"), 406, "latents")
    both = server.images({**OK, "labels": [1, 2]}, Accept="image/png, application/json;q=0.5")
    assert (both.status, both.headers["Content-Type"]) == (200, "application/json")


def test_too_many_images_are_a_413(server: Any) -> None:
    assert server.images({**OK, "labels": [1] * 16}).status == 200
    assert_one_sentence(server.images({**OK, "labels": [1] * 17}), 413, "17")


def test_too_large_a_body_is_a_413_declared_or_not(server: Any) -> None:
    fits = json.dumps(OK).ljust(4096).encode()
    assert server.images(fits).status == 200
    assert_one_sentence(server.images(fits + b" "), 413, "4096")
    json_type = {"Content-Type": "application/json"}
    assert server.ask("POST", "/v1/images", iter([fits]), json_type).status == 200
    assert_one_sentence(server.ask("POST", "/v1/images", iter([fits, b" "]), json_type), 413, "4096")


def test_a_body_of_unknown_length_is_a_411(server: Any) -> None:
    head = b"POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
    assert server.raw(head).startswith(b"HTTP/1.1 411 ")


def test_unknown_paths_and_wrong_methods_say_so(server: Any) -> None:
    for path in ("/v1/image", "/v1/images/", "/docs", "/openapi.json", "/v1/../healthz2", "/%00"):
        assert_one_sentence(server.ask("GET", path), 404)
    for method, path, allowed in (
        ("GET", "/v1/images", "POST"),
        ("DELETE", "/v1/images", "POST"),
        ("PUT", "/v1/images", "POST"),
        ("POST", "/v1/model", "GET"),
        ("POST", "/healthz", "GET"),
        ("DELETE", "/metrics", "GET"),
    ):
        reply = server.ask(method, path, b"" if method in ("POST", "PUT") else None)
        assert_one_sentence(reply, 405, allowed)
        assert allowed in [name.strip() for name in reply.headers["Allow"].split(",")]


def test_head_answers_without_a_body(server: Any) -> None:
    for path in ("/healthz", "/v1/model", "/metrics"):
        reply = server.ask("HEAD", path)
        assert (reply.status, reply.body) == (200, b"")


def test_what_is_not_http_gets_no_answer_but_a_refusal(server: Any) -> None:
    assert server.raw(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")[:13] in (b"", b"HTTP/1.1 400 ")
    assert server.images(OK).status == 200
