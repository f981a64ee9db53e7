"""What figure 3 says of ratios: intervals hold what they are of, and what is inconclusive says why."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.figure3.ratios import composed_ratio, ratio_of
from benchmarks.figure3.rows import rows_of
from benchmarks.figure3.tables import markdown
from himar_export.bench.verdict import ratio

DOCS = Path(__file__).parents[2] / "docs" / "figure3"
ROUNDS = (1.0, 1.1, 0.9, 1.02, 0.98, 1.04)
SLOWER = tuple(2 * seconds * change for seconds, change in zip(ROUNDS, (1, 1.01, 0.99, 1.02, 0.98, 1), strict=True))


def test_a_composed_ratio_without_noise_is_its_own_interval():
    found = composed_ratio([10, 2], [[1.0] * 6, [5.0] * 6], [[0.5] * 6, [1.0] * 6], (4.0, 1.0))
    assert found.value == found.low == found.high == (10 + 10 + 4) / (5 + 2 + 1)
    assert found.conclusive


def test_what_slows_both_sides_of_a_round_alike_widens_nothing():
    rounds = np.linspace(1, 2, 9)
    alike = composed_ratio([3, 1], [3 * rounds, rounds], [rounds, rounds / 3])
    assert alike.value == pytest.approx(3) and alike.high - alike.low < 1e-12
    apart = composed_ratio([3, 1], [3 * rounds, rounds], [rounds[::-1], rounds[::-1] / 3])
    assert apart.low < 2 and apart.high > 4


def test_the_interval_is_the_same_in_every_run_and_holds_the_truth_about_as_often_as_it_says():
    numbers = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        weights, seconds = numbers.uniform(1, 5, 4), numbers.uniform(1, 3, (4, 1))
        eager, engines = (each * seconds * np.exp(0.05 * numbers.standard_normal((4, 8))) for each in (1.5, 1))
        found = composed_ratio(weights, eager, engines)
        assert found == composed_ratio(weights, eager, engines)
        held += found.low <= 1.5 <= found.high
    assert held >= 88


def test_a_composed_ratio_says_why_it_is_inconclusive():
    few = composed_ratio([1], [[2.0] * 5], [[1.0] * 7])
    assert (few.value, few.low, few.high) == (2, None, None)
    assert few.doubts == ("5 rounds are too few for an interval of 95 % confidence; 6 are needed",)
    (holds,) = composed_ratio([1], [ROUNDS], [ROUNDS[::-1]]).doubts
    assert holds.endswith("holds 1")
    (wide,) = composed_ratio([1], [[3.0, 6.0] * 3], [[1.0] * 6]).doubts
    assert wide == "the interval 3.00 … 6.00 is wider than 30% of the ratio"
    # Of the engines' seconds the first call has nine tenths.
    busy = composed_ratio([9, 1], [[2.0] * 6] * 2, [[1.0] * 6] * 2, others=[0.2, 0.0])
    assert busy.doubts == ("other processes had 18% of the cores' time",)
    assert composed_ratio([9, 1], [[2.0] * 6] * 2, [[1.0] * 6] * 2, others=[0.0, 0.2]).conclusive


def test_a_ratio_is_the_one_that_was_kept_or_of_the_seconds_of_a_record_of_before():
    kept = {"value": 2.0, "low": 1.9, "high": 2.1, "doubts": ["other processes had 18% of the cores' time"]}
    found = ratio_of({"ratios": {"eager": kept}, "seconds": {"eager": SLOWER, "engines": ROUNDS}})
    assert (found.value, found.low, found.high, list(found.doubts)) == tuple(kept.values())
    assert ratio_of({"seconds": {"eager": SLOWER, "engines": ROUNDS}}) == ratio(SLOWER, ROUNDS)
    assert ratio_of({"seconds": {"eager": SLOWER}}) is ratio_of({"seconds": {"eager": [], "engines": []}}) is None
    assert ratio_of({}) is None


@pytest.mark.parametrize("name", ["cpu", "cpu-int8", "digits"])
def test_the_records_in_docs_can_be_shown(name):
    content = json.loads((DOCS / f"{name}.json").read_text())
    text = markdown(content)
    calls = [call for entry in content["models"].values() for call in entry["calls"]]
    assert text.count("\n| ") == 2 + len(rows_of(content)) + 2 + len(calls)
    few = content["request"]["repeats"] < 6
    assert (text.count("3 rounds are too few for an interval") == 2) == few
    assert all(row.ratio.conclusive is False for row in rows_of(content)) or not few


def page(**changes: object) -> str:
    call = {"component": "dit_head", "rows": 2, "known": 0, "seconds": {"eager": SLOWER, "engines": ROUNDS}, **changes}
    seen = {"component": "transformer_high", "rows": 1, "known": 7, "seconds": {"engines": [0.001] * 3}}
    point = {"steps": 1, "published": None, "calls": [{**call, "count": 5}]}
    entry = {"to": "latents", "points": [point], "calls": [call, seen], "host": {}, "whole": {}}
    return markdown({
        "request": {"device": "cuda", "precision": "fp16", "backend": "onnxruntime", "batch": 2},
        "environment": {"gpu": "a GPU", "processor": "a processor", "command": ["x"]},
        "threads": 1, "models": {"digits": entry},
    })  # fmt: skip


def test_the_page_has_the_calls_with_their_ratios_and_every_doubt():
    text = page(doubts={"eager": ["it drifted"], "engines": []})
    low, high = ratio(SLOWER, ROUNDS).low, ratio(SLOWER, ROUNDS).high
    assert f"| digits | dit_head | 2 | – | 2040 | 1010 | 2.00× ({low:.2f} … {high:.2f}) |" in text
    assert "| digits | transformer_high | 1 | 7 | – | 1 | – |" in text
    assert "* digits, dit_head, 2 rows, doubts about a side's own figures. eager: it drifted." in text
    assert "| digits | 1 | 5.1 | 2.52 | 2.02× (" in text and "Inconclusive" not in text

    kept = {"value": 2.0, "low": 0.9, "high": 2.1, "doubts": ["one", "another"]}
    text = page(ratios={"eager": kept}, others=0.3)
    assert "| 2.00× (0.90 … 2.10) ? |" in text
    assert "* Inconclusive (?): digits, dit_head, 2 rows, since one; another." in text
    assert "* Inconclusive (?): digits with 1 step, since other processes had 30% of the cores' time." in text
