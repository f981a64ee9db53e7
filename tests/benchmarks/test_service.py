"""Measurements of the service run, and say what they are to say; their figures are for quiet machines."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from benchmarks.service import compare, plan, screenshot
from tests.runtime.conftest import write_bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def test_a_checkout_is_compared_with_itself(bundle_path: Path) -> None:
    options = ["--requests", "8", "--clients", "4", "--turns", "1", "--lanes", "1"]
    done = CliRunner().invoke(compare.main, [str(bundle_path), str(ROOT), *options])
    assert done.exit_code == 0, done.output
    for clients in (4, 1):
        assert re.search(rf"^{clients} clients, images/s: [0-9.]+ against [0-9.]+: [0-9.]+$", done.output, re.M)
        assert f"{clients} clients, milliseconds of a request: {{'queue': " in done.output


def test_a_plan_is_held_against_a_load_test(bundle_path: Path) -> None:
    options = ["--lanes", "1", "--load", "0.3", "--requests", "100", "--within", "1000", "--json"]
    done = CliRunner().invoke(plan.main, [str(bundle_path), *options])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    (row,) = report["rates"]
    assert row["load"] == 0.3 and all(row[name][side] > 0 for name in ("p50", "p99") for side in row[name])
    assert report["worst"] >= 0


def test_pictures_of_the_page_are_taken(bundle_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("playwright", reason="needs playwright: pip install 'himar[dev]'")
    if shutil.which("chromium") is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    done = CliRunner().invoke(screenshot.main, [str(bundle_path), "--out", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    for name, width in (("desk", 1280), ("phone", 390)):
        with Image.open(tmp_path / f"page-{name}.png") as picture:
            assert picture.width == width and len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_pictures_want_a_browser(bundle_path: Path, tmp_path: Path) -> None:
    options = ["--out", str(tmp_path / "page"), "--chromium", "no-such-browser"]
    done = CliRunner().invoke(screenshot.main, [str(bundle_path), *options])
    assert done.exit_code == 2 and "there is no program 'no-such-browser'; apt-get install chromium" in done.output
