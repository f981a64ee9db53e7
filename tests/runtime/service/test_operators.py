"""What operators ask of a server: probes, where the time went, tokens, a proxy's prefix, a log for machines."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import openai
import pytest

QUICK = {"labels": [1], "low_steps": 1, "high_steps": 1, "low_diffusion_steps": 2, "high_diffusion_steps": 2}
COUNTED = ("/v1/images", "/v1/images/generations", "/v1/images/edits")
PATHS = (*COUNTED, "/v1/model", "/v1/models", "/v1/models/x", "/nowhere")
OPEN = ("/healthz", "/v2/health/live", "/v2/health/ready", "/metrics")


def run(command: list[str], *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)


def test_a_draining_server_is_live_and_not_ready(start_server: Any, bundle_path: Path, slow: Any) -> None:
    server = start_server(bundle_path, "--drain-seconds", "600")
    assert [server.ask("GET", path).status for path in OPEN] == [200] * 4
    assert server.ask("GET", "/v2/health/live").json == {"live": True}
    assert server.ask("GET", "/v2/health/ready").json == {"ready": True}
    assert server.ask("HEAD", "/v2/health/ready").body == b""
    assert set(server.ask("POST", "/v2/health/live", b"").headers["Allow"].split(", ")) == {"GET", "HEAD"}
    running = server.start(slow)
    server.wait_for("himar_lanes_busy", 1)
    server.process.send_signal(signal.SIGTERM)
    while (ready := server.ask("GET", "/v2/health/ready")).status == 200:
        pass
    live = server.ask("GET", "/v2/health/live")
    assert (ready.status, ready.json, live.status, live.json) == (503, {"ready": False}, 200, {"live": True})
    running.close()
    assert server.process.wait(timeout=60) == 0


def timings(header: str) -> dict[str, float]:
    found = dict(re.findall(r"([a-z0-9-]+);dur=([0-9.]+)", header))
    assert header == ", ".join(f"{name};dur={value}" for name, value in found.items())
    return {name: float(value) / 1000 for name, value in found.items()}


def test_answers_say_where_their_time_went(server: Any) -> None:
    before = server.metrics()
    reply = server.images({**QUICK, "labels": [1, 2]})
    seconds = timings(reply.headers["Server-Timing"])
    assert list(seconds) == ["queue", "low", "high", "decode", "encode"]
    assert abs(seconds["queue"] - reply.json["seconds"]["queued"]) < 1e-5
    working = seconds["low"] + seconds["high"] + seconds["decode"]
    assert 0 < working <= reply.json["seconds"]["generate"] + 1e-5
    after = server.metrics()
    for stage, each in seconds.items():
        count, total = (f"himar_stage_seconds_{what}{{stage={stage}}}" for what in ("count", "sum"))
        assert after[count] - before.get(count, 0) == 1
        assert abs(after[total] - before.get(total, 0) - each) < 1e-5
    assert server.images(b"{").headers["Server-Timing"] is None


def test_scales_are_stages_too(start_server: Any, tiny_hmar_path: Path) -> None:
    server = start_server(tiny_hmar_path)
    reply = server.ask("POST", "/v1/images", b'{"labels": [1]}', {"Content-Type": "application/json"})
    assert list(timings(reply.headers["Server-Timing"])) == [
        "queue", "scale-1", "scale-2", "scale-3", "decode", "encode",
    ]  # fmt: skip
    assert server.end() == 0


def test_who_has_no_token_is_refused(start_server: Any, bundle_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# for the team\n\nfirst-TOKEN_1.~+/==\nzweites\n")
    server = start_server(bundle_path, "--token-file", file, "--allow-origin", "*")
    for path in PATHS:
        for header, part in (
            ({}, "this server wants a token; send it in the header 'Authorization: Bearer TOKEN'."),
            ({"Authorization": "Basic zweites"}, "this server wants a token"),
            ({"Authorization": "Bearer "}, "this server wants a token"),
            ({"Authorization": "Bearer zweite"}, "the token is not one of this server's; ask its operator for one."),
            ({"Authorization": "Bearer zweites x"}, "the token is not one of this server's"),
            ({"Authorization": "Bearer s\u00e9cond".encode("latin-1")}, "the token is not one of this server's"),
            ({"Authorization": "Bearer # for the team"}, "the token is not one of this server's"),
        ):
            reply = server.ask("POST", path, b"{}", header)
            assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
            error = reply.json["error"]
            assert part in (error if isinstance(error, str) else error["message"])
            assert isinstance(error, dict) == (path.startswith(("/v1/models", "/v1/images/")))
            assert reply.headers["X-Request-Id"] and reply.headers["Access-Control-Allow-Origin"] is None
    assert [server.ask("GET", path).status for path in OPEN] == [200] * 4
    assert server.metrics()["himar_requests_total{code=401}"] == len(COUNTED) * 7
    assert server.images(QUICK, Authorization="Bearer zweites").status == 200
    assert server.images(QUICK, Authorization="bearer  first-TOKEN_1.~+/== ").status == 200
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    preflight = server.ask("OPTIONS", "/v1/images", headers=ask)
    assert preflight.status == 204 and "Authorization" in preflight.headers["Access-Control-Allow-Headers"]

    client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="the token is not one of this server's") as refused:
        client.images.generate(prompt="1")
    assert (refused.value.type, refused.value.code) == ("authentication_error", "invalid_api_key")
    assert client.with_options(api_key="zweites").images.generate(prompt="1").data
    log = server.log.read_text()
    assert "zweites" not in log and "first-TOKEN" not in log and "wrong" not in log
    assert server.end() == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no token; write one a line"),
        (b"# nothing\n\n", "holds no token; write one a line"),
        (b"good\nsecret word\n", "line 2 of"),
        (b"gr\xc3\xb6\xc3\x9fe\n", "line 1 of"),
        (b"\xff\n", "cannot be read: it is not UTF-8."),
        (None, "cannot be read: No such file or directory."),
    ],
)
def test_a_file_of_no_tokens_is_wrong_usage(
    command: list[str], bundle_path: Path, tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    file = tmp_path / "tokens"
    if content is not None:
        file.write_bytes(content)
    done = run(command, bundle_path, "--port", 0, "--token-file", file)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and sentence in said and "secret word" not in said


def test_a_proxy_may_leave_its_prefix(start_server: Any, bundle_path: Path) -> None:
    server = start_server(bundle_path, "--root-path", "/some/himar")
    body, json_type = json.dumps(QUICK), {"Content-Type": "application/json"}
    for root in ("/some/himar", ""):
        assert server.ask("POST", f"{root}/v1/images", body, json_type).status == 200
        assert server.ask("GET", f"{root}/healthz").status == 200
        assert server.ask("GET", f"{root}/v1/models").json["data"]
    assert server.metrics()["himar_requests_total{code=200}"] == 2
    for path in ("/some/healthz", "/some/himarhealthz", "/some", "/some/himar/some/himar/healthz"):
        assert server.ask("GET", path).status == 404
    missing = server.ask("GET", "/some/himar/v1/models/none")
    assert missing.status == 404 and missing.json["error"]["code"] == "model_not_found"
    assert server.end() == 0


@pytest.mark.parametrize("root", ["himar", "/himar/", "/", "//x", "/a b", "/a?b", "https://x/himar"])
def test_what_is_no_prefix_is_wrong_usage(command: list[str], bundle_path: Path, root: str) -> None:
    done = run(command, bundle_path, "--port", 0, "--root-path", root)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and f"{root!r} is not a prefix of paths; write it like /himar" in said


def test_the_log_may_be_json(start_server: Any, make_bundle: Any) -> None:
    server = start_server(make_bundle(), "--log-json")
    ids = [server.images(body, **{"X-Request-Id": name}).headers["X-Request-Id"] for name, body in
           (("good", {**QUICK, "labels": [1, 2]}), ("bad", b"{"))]  # fmt: skip
    assert ids == ["good", "bad"]
    assert server.end() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) for line in lines)
    good, bad = (next(line for line in lines if line.get("id") == name) for name in ids)
    assert {key: good[key] for key in ("method", "path", "status", "images")} == {
        "method": "POST", "path": "/v1/images", "status": 200, "images": 2,
    }  # fmt: skip
    assert list(good["stages"]) == ["queue", "low", "high", "decode", "encode"]
    assert 0 < sum(good["stages"].values()) <= good["seconds"] + 1e-3 and good["queued"] >= 0
    assert (bad["status"], bad["images"], bad["stages"]) == (400, 0, {})
    others = [line for line in lines if "id" not in line]
    assert all(line.keys() >= {"level", "logger", "message"} for line in others)


def test_a_failure_in_the_json_log_has_its_traceback() -> None:
    import logging
    import sys

    from himar_runtime.service.log import JsonLines

    try:
        raise ValueError("odd\nvalue")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "request %s failed", ("abc",), sys.exc_info())
    line = JsonLines().format(record)
    values = json.loads(line)
    assert "\n" not in line and values["message"] == "request abc failed" and "odd\nvalue" in values["traceback"]
