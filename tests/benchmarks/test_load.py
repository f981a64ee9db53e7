"""benchmarks.load: what it prints of a bundle's loads, by itself and with packed weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.load import main, ratios
from himar_runtime.engines.ort.packed import cpu
from tests.runtime.conftest import write_bundle

pytestmark = pytest.mark.skipif(cpu() is None, reason="needs a system that tells what its CPU can do")


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """A tiny bundle."""
    return write_bundle(tmp_path / "bundle")


def test_both_ways_take_turns_and_are_summed_up(bundle_path: Path) -> None:
    done = CliRunner().invoke(main, [str(bundle_path), "--lanes", "2", "--repeats", "2", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)
    turn = ["as by itself, first", "as by itself, second", "packed, first", "packed, second"]
    assert [row["process"] for row in rows] == ["packs", *turn, *turn]
    assert len({row["latents"] for row in rows}) == 1
    for row in rows:
        assert 0 < row["own"] <= row["part"]
        assert 0 < row["hashing"] < row["seconds"] and row["cpu_seconds"] > 0


def test_ratios_are_medians_of_turns() -> None:
    rows = []
    for seconds in (1.0, 2.0, 6.0):
        for process, share, added in (
            ("as by itself, first", 1.0, 90), ("as by itself, second", 1.0, 90),
            ("packed, first", 0.25, 80), ("packed, second", 0.25, 8),
        ):  # fmt: skip
            rows.append({"process": process, "seconds": seconds * share, "cpu_seconds": share * share, "added": added})
    assert ratios(rows) == (
        "a packed load takes 0.25 of the seconds of one as by itself, 0.06 of the CPU's; its second process adds 10.0% "
        "of what the first does"
    )


def test_a_server_that_does_not_start_is_named(bundle_path: Path, tmp_path: Path) -> None:
    server = tmp_path / "himar-serve"
    server.write_text("#!/bin/sh\nexit 3\n")
    server.chmod(0o755)
    done = CliRunner().invoke(main, [str(bundle_path), "--server", str(server)])
    assert done.exit_code == 1 and f"Error: {server} ended with code 3." in done.output
