"""A browser that looks at the page, and servers of tiny bundles behind it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.runtime import conftest as bundles
from tests.runtime.service.openai.conftest import slow_path

__all__ = ["slow_path"]

TOKEN, ROOT = "a-token-of-the-tests", "/behind/a.proxy"
CLASSES = 40
NAMES = ["tench, Tinca tinca", "goldfish", "", "great white shark", "<b>Crème brûlée</b>", *[""] * 30]
NAMES += [f"golden class {number}" for number in range(len(NAMES), CLASSES)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium. Of a module: Playwright's event loop would be in the way of tests that have their own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'himar[dev]'")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # No sandbox: it wants namespaces that containers lack. The page is this project's own.
        launched = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a server's page: visit(server, path="/", token=None, **context). It asks no other server for anything.

    What the browser reports of policies that were violated, and errors of the scripts, fail the test.
    """
    contexts, said, asked = [], [], []
    hosts = set()

    def open_page(server: Any, path: str = "/", **options: Any) -> Any:
        contexts.append(browser.new_context(**{"reduced_motion": "reduce", **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)  # a machine may be busy
        page.on("console", lambda line: said.append(line.text) if "Failed to load" not in line.text else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        hosts.add(f"127.0.0.1:{server.port}")
        page.goto(f"http://127.0.0.1:{server.port}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
    assert {urlsplit(url).netloc for url in asked if not url.startswith("blob:")} <= hosts


@pytest.fixture(scope="session")
def named_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle of more classes than the page has buttons for, most of which have names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundles, "CLASSES", CLASSES)
        path = bundles.write_bundle(tmp_path_factory.mktemp("page") / "fishes")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"]["class_names"] = NAMES
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture(scope="session")
def fishes(start_server: Callable[..., Any], named_bundle: Path) -> Any:
    return start_server(named_bundle, "--lanes", "2")


@pytest.fixture(scope="session")
def guarded(
    command: list[str], start_server: Callable[..., Any], slow_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A server that wants a token, below a prefix, slow, with room for two requests, one at a time."""
    file = tmp_path_factory.mktemp("page-tokens") / "tokens"
    file.write_text(f"{TOKEN}\n")
    return start_server(slow_path, "--token-file", str(file), "--root-path", ROOT, "--queue", "1", "--max-batch", "1")
