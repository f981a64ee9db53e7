"""The type of an answer is what the request's Accept prefers, by RFC 9110: ranges, quality values, odd spellings."""

from __future__ import annotations

from typing import Any

import pytest

QUICK = {"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}
JSON, PNG = "application/json", "image/png"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("*/*", JSON),
        ("", JSON),
        (" ", JSON),
        ("image/png", PNG),
        ("IMAGE/PNG", PNG),
        ("image/*", PNG),
        ("application/*", JSON),
        ("image/png, application/json", JSON),
        ("image/png, */*", JSON),
        ("image/png, application/json;q=0.5", PNG),
        ("application/json;q=0.5,image/png;q=0.6", PNG),
        ("application/json; q=0.5 , image/png ; Q=0.499", JSON),
        ("image/png;q=0.001", PNG),
        ("image/png;q=1.000, application/json;q=0.999", PNG),
        ("image/*;q=0.8, application/json;q=0.7", PNG),
        ("image/png;q=0.1, image/*, application/json;q=0.2", JSON),
        ("image/png;q=0, image/*", None),
        ("image/png;q=0, */*", JSON),
        ("image/png;q=0.0, application/json", JSON),
        ("application/json;q=0, */*", PNG),
        ("application/json;q=0, image/*;q=0.3", PNG),
        ("application/json;q=0", None),
        ("*/*;q=0", None),
        ("text/html", None),
        ("image/jpeg, image/webp", None),
        ("text/html, image/jpeg, *; q=.2, */*; q=.2", JSON),
        ("image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", PNG),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", JSON),
        ("application/json;charset=utf-8", JSON),
        ('image/png;note="a,b;q=0";q=0.9, application/json;q=0.5', PNG),
        ("nonsense", JSON),
        ("*/png", JSON),
        ("image/png;q=high", JSON),
        ("image/png;q=1.5", JSON),
        ("image/png;q=-1, application/json", JSON),
        (",,, image/png ,", PNG),
    ],
)
def test_one_label_gives_what_is_preferred(server: Any, accept: str, wanted: str | None) -> None:
    reply = server.images(QUICK, Accept=accept)
    if wanted is None:
        assert (reply.status, reply.headers["Content-Type"]) == (406, JSON)
        sentence = reply.json["error"]
        assert accept in sentence and JSON in sentence and PNG in sentence and sentence.endswith(".")
    else:
        assert (reply.status, reply.headers["Content-Type"]) == (200, wanted)


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("image/png, application/json;q=0.1", 200),
        ("image/*, */*;q=0.1", 200),
        ("image/png", 406),
        ("image/*", 406),
        ("application/json;q=0, */*", 406),
        ("text/html", 406),
    ],
)
@pytest.mark.parametrize("asked", [{"labels": [1, 2]}, {"output": "latents"}], ids=["two labels", "latents"])
def test_what_a_png_cannot_hold_is_json_or_refused(server: Any, asked: Any, accept: str, status: int) -> None:
    reply = server.images({**QUICK, **asked}, Accept=accept)
    assert (reply.status, reply.headers["Content-Type"]) == (status, JSON)
    if status == 406:
        assert JSON in reply.json["error"]


def test_headers_of_that_name_count_together(server: Any) -> None:
    body = b'{"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}'
    head = (
        "POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Accept: application/json;q=0.4\r\nAccept: image/png;q=0.5\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = server.raw(head.encode() + body).lower()
    assert answer.startswith(b"http/1.1 200 ") and b"\r\ncontent-type: image/png\r\n" in answer


def test_accept_is_for_images_alone(server: Any) -> None:
    for path in ("/healthz", "/v1/model", "/metrics"):
        assert server.ask("GET", path, headers={"Accept": "image/png"}).status == 200
