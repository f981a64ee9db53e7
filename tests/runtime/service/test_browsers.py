"""Web pages of other origins: --allow-origin, preflights, and what every answer tells a browser."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

QUICK = {"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}
APP, OTHER, EVIL = "https://app.example", "http://localhost:3000", "https://app.example.evil"
ASK = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-request-id"}


@pytest.fixture(scope="module")
def open_server(start_server: Any, bundle_path: Any) -> Iterator[Any]:
    server = start_server(
        bundle_path, "--allow-origin", APP, "--allow-origin", "HTTP://LocalHost:3000", "--max-body", "4096"
    )
    yield server
    assert server.end() == 0


def words(value: str | None) -> set[str]:
    return {word.strip().lower() for word in (value or "").split(",")} - {""}


def answers(server: Any, origin: str | None) -> Iterator[Any]:
    """One of every kind: images, a bare PNG, refusals by the handler, the routes and the HTTP library."""
    headers = {} if origin is None else {"Origin": origin}
    for body, status in ((QUICK, 200), (b"{", 400), (b" " * 5000, 413)):
        reply = server.images(body, **headers)
        assert reply.status == status
        yield reply
    yield server.images(QUICK, Accept="image/png", **headers)
    yield server.images(QUICK, Accept="text/html", **headers)
    for method, path in (("GET", "/healthz"), ("GET", "/metrics"), ("GET", "/nowhere"), ("DELETE", "/v1/model")):
        yield server.ask(method, path, headers=headers)


@pytest.mark.parametrize("origin", [APP, OTHER])
def test_every_answer_to_an_allowed_page_says_so(open_server: Any, origin: str) -> None:
    for reply in answers(open_server, origin):
        assert reply.headers.get_all("Access-Control-Allow-Origin") == [origin]
        assert words(reply.headers["Access-Control-Expose-Headers"]) >= {"x-request-id", "x-himar-seed", "retry-after"}
        assert words(reply.headers["Vary"]) == {"origin"}
        assert reply.headers["Access-Control-Allow-Credentials"] is None


@pytest.mark.parametrize("origin", [EVIL, "null", None, "https://app.example:444"])
def test_other_pages_are_told_nothing(open_server: Any, origin: str | None) -> None:
    for reply in answers(open_server, origin):
        assert reply.headers["Access-Control-Allow-Origin"] is None
        assert words(reply.headers["Vary"]) == {"origin"}


def test_a_preflight_is_answered(open_server: Any) -> None:
    before = open_server.metrics()
    for path, methods in (("/v1/images", {"post"}), ("/v1/model", {"get", "head"})):
        reply = open_server.ask("OPTIONS", path, headers={"Origin": APP, **ASK})
        assert (reply.status, reply.body, reply.headers["Content-Length"]) == (204, b"", None)
        assert reply.headers["Access-Control-Allow-Origin"] == APP
        assert words(reply.headers["Access-Control-Allow-Methods"]) == methods
        assert words(reply.headers["Access-Control-Allow-Headers"]) >= {"content-type", "x-request-id", "accept"}
        assert int(reply.headers["Access-Control-Max-Age"]) > 0
        assert reply.headers["X-Request-Id"]
    after = open_server.metrics()
    assert {name: value for name, value in after.items() if "requests_total" in name} == {
        name: value for name, value in before.items() if "requests_total" in name
    }


def test_a_preflight_of_another_page_is_refused(open_server: Any) -> None:
    reply = open_server.ask("OPTIONS", "/v1/images", headers={"Origin": EVIL, **ASK})
    assert reply.status == 403 and reply.headers["Access-Control-Allow-Origin"] is None
    assert EVIL in reply.json["error"] and "--allow-origin" in reply.json["error"]


def test_options_that_are_no_preflight_are_as_without_browsers(open_server: Any, server: Any) -> None:
    assert open_server.ask("OPTIONS", "/v1/images").status == 405
    assert open_server.ask("OPTIONS", "/v1/images", headers={"Origin": APP}).status == 405
    assert open_server.ask("OPTIONS", "/nowhere", headers={"Origin": APP, **ASK}).status == 404
    assert server.ask("OPTIONS", "/v1/images", headers={"Origin": APP, **ASK}).status == 405


def test_without_the_option_browsers_are_told_nothing(server: Any) -> None:
    reply = server.images(QUICK, Origin=APP)
    assert reply.status == 200
    assert [name for name in reply.headers if name.lower().startswith("access-control") or name.lower() == "vary"] == []


def test_every_origin_may_be_allowed(start_server: Any, bundle_path: Any) -> None:
    server = start_server(bundle_path, "--allow-origin", "*")
    for reply in (
        server.images(QUICK, Origin=EVIL),
        server.ask("OPTIONS", "/v1/images", headers={"Origin": EVIL, **ASK}),
    ):
        assert reply.status in (200, 204)
        assert reply.headers["Access-Control-Allow-Origin"] == "*" and reply.headers["Vary"] is None
    assert server.end() == 0


@pytest.mark.parametrize(
    "origin", ["", "app.example", "https://", "https://app.example/", "https://app.example/path", "//x", "a b"]
)
def test_what_is_no_origin_is_wrong_usage(command: list[str], bundle_path: Any, origin: str) -> None:
    options = ["--port", "0", "--allow-origin", origin]
    done = subprocess.run([*command, bundle_path, *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"'{origin}' is not an origin; write SCHEME://HOST" in done.stderr.replace("\n", " ")
