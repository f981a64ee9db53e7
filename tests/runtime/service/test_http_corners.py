"""Headers that few clients send, and that an HTTP library may take in its own way."""

from __future__ import annotations

import json
from typing import Any

BODY = {"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}


def test_a_range_means_nothing_for_a_post(server: Any) -> None:
    for wanted in ("bytes=0-4", "bytes=999999999-"):
        reply = server.images(BODY, Range=wanted)
        assert reply.status == 200
        assert reply.json["images"][0]["label"] == 1


def test_a_client_that_asks_first_is_refused_before_it_sends_too_much(server: Any) -> None:
    head = "POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    refused = server.raw(f"{head}Connection: close\r\nContent-Length: 99999\r\n\r\n".encode())
    assert refused.startswith(b"HTTP/1.1 413 ") and b'{"error":"' in refused.replace(b'": "', b'":"')
    body = json.dumps(BODY)
    taken = server.raw(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    assert taken.startswith(b"HTTP/1.1 100 ") and b"HTTP/1.1 200 " in taken


def test_a_form_is_no_request(server: Any) -> None:
    form = b'--zz\r\nContent-Disposition: form-data; name="labels"\r\n\r\n1\r\n--zz--\r\n'
    for boundary in ("; boundary=zz", ""):
        headers = {"Content-Type": f"multipart/form-data{boundary}"}
        assert server.ask("POST", "/v1/images", form, headers).status == 415
