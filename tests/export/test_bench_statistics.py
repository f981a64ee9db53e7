"""What a benchmark may say of its timings: percentiles, intervals, drift, and when a ratio is inconclusive."""

import itertools

import numpy as np
import pytest

from himar_export.bench.measurement import Spent, core_ticks, share_of_others, spent
from himar_export.bench.statistics import least_for_interval, median_interval, percentile, summarise, trend
from himar_export.bench.timing import Side, WarmUp, calls_in_turn, medians, take_turns, warm_up
from himar_export.bench.verdict import doubts_of, ratio

SETTLED = WarmUp((1.0, 1.0, 1.0), True)


def test_a_summary_of_known_values():
    values = [float(i) for i in range(100, 0, -1)]
    s = summarise(values)
    assert (s.count, s.minimum, s.median, s.mean) == (100, 1.0, 50.5, 50.5)
    # Rank q·(n-1) from 0, between its neighbours: 0.9·99 = 89.1 lies between 90 and 91.
    assert (s.p90, s.p95, s.p99) == pytest.approx((90.1, 95.05, 99.01))
    assert s.variation == pytest.approx(np.std(values, ddof=1) / 50.5)


@pytest.mark.parametrize(("percent", "needed"), [(90, 10), (95, 20), (99, 100)])
def test_a_percentile_needs_a_repetition_beyond_it(percent, needed):
    assert percentile([1.0] * (needed - 1), percent) is None
    assert percentile([1.0] * needed, percent) == 1.0


def test_the_interval_of_a_median_is_as_wide_as_its_confidence_asks():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None  # the extremes cover 93.75 %
    assert median_interval([6.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == (1.0, 6.0)
    assert least_for_interval() == 6
    # Published ranks for 95 %: 2 and 9 of 10, 6 and 15 of 20, 40 and 61 of 100.
    for n, ranks in ((10, (2, 9)), (20, (6, 15)), (100, (40, 61))):
        assert median_interval([float(i) for i in range(1, n + 1)]) == ranks


def test_the_interval_covers_the_median_of_a_skewed_distribution():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        low, high = median_interval(list(rng.lognormal(size=15)))
        hits += low <= 1 <= high
    assert hits / 400 >= 0.93


def test_a_trend_is_found_and_noise_is_not():
    rising = [1 + 0.03 * i for i in range(10)]
    found = trend(rising)
    assert found.significant
    assert found.change == pytest.approx(0.27 / 1.135)
    assert not trend([1.0, 1.1, 0.9, 1.05, 0.95, 1.0, 1.1, 0.9]).significant
    assert not trend([1.0, 2.0]).significant
    many = np.random.default_rng(1).normal(1, 0.1, 3000)
    assert not trend(many).significant
    assert trend(many + np.linspace(0, 0.5, 3000)).change == pytest.approx(0.4, abs=0.05)


def test_a_ratio_is_the_median_of_its_rounds_whatever_the_machine_does_in_between():
    speed = [1.0, 5.0, 2.0, 8.0, 1.0, 3.0, 1.5]  # other programs slow both sides of a round alike
    found = ratio([2 * s for s in speed], speed)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    assert found.conclusive


def test_a_ratio_whose_interval_holds_one_is_inconclusive():
    found = ratio([1.0, 1.2, 0.9, 1.1, 1.0, 0.95, 1.05], [1.0] * 7)
    assert not found.conclusive
    assert "holds 1" in found.doubts[0]


def test_a_ratio_of_few_rounds_is_inconclusive():
    found = ratio([3.0, 3.1, 2.9], [1.0] * 3)
    assert (found.low, found.high) == (None, None)
    assert "3 rounds are too few for an interval of 95 % confidence; 6 are needed" in found.doubts[0]


def test_a_ratio_that_drifts_is_inconclusive():
    found = ratio([2.0 + 0.2 * i for i in range(10)], [1.0] * 10)
    assert "the ratio drifted by +" in " ".join(found.doubts)


def test_a_small_ratio_bears_less_of_a_drift():
    """From 1.085 to 0.995 is less than 10 %, and more than what was found."""
    found = ratio([1.085 - 0.09 * i / 19 for i in range(20)], [1.0] * 20)
    assert found.value == pytest.approx(1.04, abs=1e-3)
    assert "the ratio drifted by -" in " ".join(found.doubts)
    assert ratio([2.085 - 0.09 * i / 19 for i in range(20)], [1.0] * 20).conclusive


def test_a_ratio_whose_interval_is_wide_is_inconclusive():
    found = ratio([3.0, 1.02, 3.0, 1.02, 3.0, 1.02], [1.0] * 6)
    assert found.doubts == ("the interval 1.02 … 3.00 is wider than 30 % of the ratio".replace(" %", "%"),)
    assert ratio([2.0, 1.8, 2.2, 2.0, 1.9, 2.1], [1.0] * 6).conclusive


def test_a_ratio_taken_beside_other_work_is_inconclusive():
    assert ratio([2.0] * 6, [1.0] * 6, others=0.09).conclusive
    assert ratio([2.0] * 6, [1.0] * 6, others=0.43).doubts == ("other processes had 43% of the cores' time",)


def test_what_other_processes_had_is_what_was_busy_and_not_ours():
    stat = (
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 1 2 100 7 3 4 5 0 0\ncpu1 20 0 0 50 0 0 0 0 9 9\n"
        "cpu2 1 1 1 1 1 1 1 1\nintr 5\n"
    )
    assert core_ticks(stat, {0, 1}) == (10 + 1 + 2 + 3 + 4 + 5 + 20, 25 + 107 + 20 + 50)
    before, after = Spent(10.0, 100.0, 4.0), Spent(25.0, 120.0, 12.0)
    assert share_of_others(before, after) == pytest.approx((15 - 8) / 20)
    assert share_of_others(before, Spent(12.0, 120.0, 12.0)) == 0.0  # ticks are coarse
    assert share_of_others(None, after) is None
    assert share_of_others(before, before) is None


def test_this_machine_says_what_was_spent():
    before = spent()
    if before is None:
        pytest.skip("this system does not say what its cores did")
    sum(range(10**6))
    after = spent()
    assert after.own > before.own and after.total >= after.busy >= before.busy > 0


def test_what_is_doubtful_of_one_side_is_said():
    assert doubts_of([1.0, 1.01, 0.99, 1.0], SETTLED) == ()
    assert "drifted by +" in doubts_of([1 + 0.02 * i for i in range(10)], SETTLED)[0]
    assert "warm-up of 1 run did not settle" in doubts_of([1.0, 1.0, 1.0], WarmUp((9.0,), False))[0]
    assert "coefficient of variation is" in doubts_of([1.0, 2.0, 1.0, 2.0, 1.0], SETTLED)[0]


def test_a_warm_up_ends_when_three_runs_agree(monkeypatch):
    pretend(monkeypatch, [9.0, 3.0, 1.3, 1.05, 1.0, 1.02])
    done = warm_up(lambda: None, 100.0)
    assert done.stable
    assert len(done.seconds) == 6


def test_a_warm_up_that_never_settles_ends_in_its_time_after_one_run_at_least(monkeypatch):
    pretend(monkeypatch, itertools.cycle([1.0, 2.0]))
    done = warm_up(lambda: None, 10.0)
    assert (done.stable, sum(done.seconds)) == (False, 10.0)
    assert len(warm_up(lambda: None, 0.0).seconds) == 1


def test_sides_take_turns_and_each_is_first_as_often():
    order = []
    sides = [Side(name, lambda name=name: order.append(name), dict) for name in "abc"]
    times = take_turns(sides, 3, dict.fromkeys("abc", 1), lambda text, done: None)
    assert "".join(order) == "abcbcacab"
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_quick_side_makes_many_calls_in_its_turn_after_one_that_is_not_timed(monkeypatch):
    order = []
    sides = [Side(name, lambda name=name: order.append(name), dict) for name in "ab"]
    times = take_turns(sides, 2, {"a": 1, "b": 3}, lambda text, done: None)
    assert "".join(order) == "abbbbbbbba"
    assert [len(each) for each in times["b"]] == [3, 3]
    assert medians(((1.0, 9.0, 2.0), (4.0, 3.0))) == (2.0, 3.5)


def test_a_turn_lasts_a_twentieth_of_a_second_or_one_call():
    counts = [calls_in_turn(WarmUp((9.0, each, each, each), True)) for each in (1.0, 0.051, 0.03, 0.01, 1e-4, 0.0)]
    assert counts == [1, 1, 2, 5, 500, 500]


def pretend(monkeypatch, seconds) -> None:
    """Let each run take the next of these seconds."""
    durations = iter(seconds)
    monkeypatch.setattr("himar_export.bench.timing.seconds_of", lambda run: next(durations))
