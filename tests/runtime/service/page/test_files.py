"""The page's files as either server gives them: types, policy, caching; and nothing in them leads elsewhere."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest

from himar_runtime.service.page.routes import FILES, HEADERS, INDEX, TYPES

PATHS = {"/" if file.name == INDEX else f"/page/{file.name}": file for file in sorted(FILES.glob("*.*"))}


@pytest.mark.parametrize("path", PATHS)
def test_a_file_comes_with_its_type_and_policy(server: Any, path: str) -> None:
    reply, file = server.ask("GET", path), PATHS[path]
    assert (reply.status, reply.body) == (200, file.read_bytes())
    assert reply.headers["Content-Type"] == TYPES[file.suffix]
    assert {name: reply.headers[name] for name in HEADERS} == HEADERS
    assert reply.headers["X-Request-Id"]
    head = server.ask("HEAD", path)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(reply.body)))


def test_the_policy_lets_in_only_the_pages_own_files() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
    assert policy.pop("img-src") == "'self' blob:"
    assert {name for name, value in policy.items() if value == "'self'"} == {"script-src", "style-src", "connect-src"}
    assert {value for value in policy.values()} == {"'none'", "'self'", "'script'"}


def test_a_file_that_is_known_is_not_sent_again(server: Any) -> None:
    for path, file in PATHS.items():
        tag = server.ask("GET", path).headers["ETag"]
        assert tag == f'"{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}"'
        for sent, status in ((tag, 304), (f'"x", W/{tag}', 304), ("*", 304), ('"x"', 200), (tag.strip('"'), 200)):
            reply = server.ask("GET", path, headers={"If-None-Match": sent})
            assert (reply.status, len(reply.body) > 0, reply.headers["ETag"]) == (status, status == 200, tag)
            assert {name: reply.headers[name] for name in HEADERS} == HEADERS


def test_other_methods_and_names_are_refused(server: Any) -> None:
    for path in PATHS:
        reply = server.ask("POST", path, b"")
        assert (reply.status, {name.strip() for name in reply.headers["Allow"].split(",")}) == (405, {"GET", "HEAD"})
    for path in ("/page/", "/page/index.html", "/page/nothing.js", "/page/../../routes.py", "/page/%2e%2e/routes.py"):
        reply = server.ask("GET", path)
        assert (reply.status, isinstance(reply.json["error"], str)) == (404, True)


def test_the_files_name_no_other_place() -> None:
    for file in PATHS.values():
        text = file.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"(https?:)?//[\w.-]+\.\w|url\(|@import", text), file.name
        for quoted in re.findall(r'(?:src|href)="([^"]*)"', text):
            assert f"/{quoted}" in PATHS, f"{file.name} names {quoted}"
        for quoted in re.findall(r'\bfrom "([^"]*)"', text):
            assert quoted.startswith("./") and f"/page/{quoted[2:]}" in PATHS, f"{file.name} imports {quoted}"


def test_no_script_or_style_stands_in_the_page() -> None:
    text = PATHS["/"].read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>([^<]*)</script>", text) == [""]
    assert not re.search(r"<style|\sstyle=|\son\w+=", text)
    for file in PATHS.values():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", file.read_text())


def test_every_element_that_the_scripts_name_is_there() -> None:
    index = PATHS["/"].read_text(encoding="utf-8")
    named = {name for file in FILES.glob("*.js") for name in re.findall(r'byId\("([^"]+)"\)', file.read_text())}
    assert named and named <= set(re.findall(r'\sid="([^"]+)"', index))


def test_the_page_needs_no_token_but_the_api_does(guarded: Any) -> None:
    for path in PATHS:
        assert guarded.ask("GET", path).status == 200
    assert guarded.ask("GET", "/v1/model").status == 401


def test_the_prefix_alone_leads_to_the_page(guarded: Any) -> None:
    reply = guarded.ask("GET", "/behind/a.proxy")
    assert (reply.status, reply.headers["Location"]) == (308, "a.proxy/")
    assert guarded.ask("GET", "/behind/a.proxy/").body == PATHS["/"].read_bytes()
    assert guarded.ask("GET", "/behind/a.proxy/page/main.js").body == PATHS["/page/main.js"].read_bytes()
    assert guarded.ask("GET", "/behind").status == 401
