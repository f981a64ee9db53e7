"""Measurements of the service run, and say what they are to say; their figures are for quiet machines."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.service import compare, plan
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
