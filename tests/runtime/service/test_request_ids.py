"""A caller's X-Request-Id comes back in every answer and stands in the log; what is not a plain id is replaced."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

QUICK = {"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}
LONGEST = "x" * 124 + ".-_9"


@pytest.mark.parametrize("sent", ["a", "7f3c0e0a-8e8b-4d0e-b0de-2d6a1c3f5b77", "Trace_1.2-3", LONGEST])
def test_a_plain_id_is_kept(server: Any, sent: str) -> None:
    for path, method, status in (("/healthz", "GET", 200), ("/nowhere", "GET", 404), ("/v1/model", "DELETE", 405)):
        reply = server.ask(method, path, headers={"X-Request-Id": sent})
        assert (reply.status, reply.headers["X-Request-Id"]) == (status, sent)
    for body, status in ((QUICK, 200), (b"{", 400), ({**QUICK, "labels": [1] * 17}, 413)):
        reply = server.images(body, **{"X-Request-Id": sent})
        assert (reply.status, reply.headers.get_all("X-Request-Id")) == (status, [sent])
        assert re.search(
            rf"Z {re.escape(sent)} {status} images=\d+ queued=\S+ seconds=\d+\.\d{{3}}\n", server.log.read_text()
        )


@pytest.mark.parametrize(
    "sent", ["", " ", "a b", "x" * 129, "a,b", 'a"b', "a;b=c", "a\tb", "\u00e9", "<i>", "{}", "a/../b", "%0a", "(x)"]
)
def test_another_id_is_replaced(server: Any, sent: str) -> None:
    for reply in (
        server.images(QUICK, **{"X-Request-Id": sent.encode()}),
        server.ask("GET", "/healthz", headers={"X-Request-Id": sent.encode()}),
    ):
        assert reply.status == 200
        assert re.fullmatch("[0-9a-f]{16}", reply.headers["X-Request-Id"])
    log = server.log.read_bytes()
    assert not sent.strip() or f" {sent} ".encode() not in log


def test_two_ids_are_none(server: Any) -> None:
    body = json.dumps(QUICK)
    head = (
        "POST /v1/images HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"X-Request-Id: one\r\nX-Request-Id: two\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = server.raw((head + body).encode()).lower()
    assert answer.startswith(b"http/1.1 200 ") and len(re.findall(rb"\r\nx-request-id: [0-9a-f]{16}\r\n", answer)) == 1
