"""The capacity plan: queueing theory where it has answers, the service's own policy, and what users may get wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

from himar_export.cli import main
from himar_export.plan.report import MOST_SECONDS, SERVED_IMAGES, SERVED_SECONDS
from himar_export.plan.search import Wanted, find_plan
from himar_export.plan.simulate import Simulated, Traffic, simulate
from himar_export.plan.times import MOST_LANES, CallSeconds, measure, measured, read_seconds
from himar_kernels import EngineError, InputError
from himar_runtime import Pipeline
from himar_runtime.service.cli import cli as serve
from himar_runtime.service.policy import Policy
from tests.runtime.conftest import write_bundle

CONSTANT = CallSeconds(1, {1: 0.1})
GPU = CallSeconds(1, {1: 0.1, 64: 0.4})
ALONE = Policy(max_batch=1, queue=100_000)


@pytest.mark.parametrize("load", [0.3, 0.7, 0.9])
def test_one_lane_without_batches_is_an_m_d_1_queue(load: float) -> None:
    # Pollaczek and Khinchine: the mean wait of constant service times S is ρS / 2(1 − ρ).
    found = simulate(Traffic(load / 0.1), CONSTANT, ALONE, requests=200_000)
    assert found.queued.mean() == pytest.approx(load * 0.1 / (2 * (1 - load)), rel=0.05)
    assert found.busy == pytest.approx(load, rel=0.02)
    assert (found.refused, found.images_per_call) == (0, 1)
    assert found.seconds.min() == pytest.approx(0.1)


@pytest.mark.parametrize("lanes", [2, 8])
def test_lanes_share_one_queue(lanes: int) -> None:
    # What one lane twice as fast needs is a lower bound, what a queue for each lane would need an upper one.
    load, seconds = 0.8, 0.1
    found = simulate(Traffic(load * lanes / seconds), CallSeconds(lanes, {1: seconds}),
                     Policy(lanes, 100_000, max_batch=1), 50_000)  # fmt: skip
    alone = load * seconds / (2 * (1 - load))
    assert alone / lanes * 0.5 < found.queued.mean() < alone / lanes * 1.1
    assert found.busy == pytest.approx(load, rel=0.02)


def test_a_rate_beyond_single_calls_is_answered_in_batches() -> None:
    # 100 requests a second, each of 0.1 s alone; a batch of b takes 0.095 + 0.0048 b.
    found = simulate(Traffic(100), GPU, Policy(queue=256), requests=5000)
    per_image = 0.3 / 63
    assert found.images_per_call == pytest.approx(100 * (0.1 - per_image) / (1 - 100 * per_image), rel=0.15)
    assert found.refused == 0 and found.percentile(99) < 0.6


def test_a_full_queue_refuses_and_that_counts() -> None:
    found = simulate(Traffic(50), CONSTANT, Policy(max_batch=1, queue=2), requests=4000)
    assert found.refused == pytest.approx(4000 * 0.8, rel=0.05)
    assert found.percentile(99) == float("inf") and found.percentile(10) < 0.4
    assert found.most_waiting == 2


def test_percentiles_are_of_all_requests() -> None:
    found = Simulated(np.arange(99.0), np.zeros(99), refused=1, most_waiting=0, images_per_call=1, busy=1)
    assert found.percentile(99) == 98 and found.percentile(99.5) == float("inf")
    assert found.percentile(49.5) == pytest.approx(49)


def test_arrivals_are_the_load_tests() -> None:
    import random

    choice = random.Random(5)
    first = choice.expovariate(2.0)
    found = simulate(Traffic(2.0, overhead=0.01), CallSeconds(1, {1: 1e-6}), ALONE, requests=1, seed=5, warm_up=0)
    assert first > 0 and found.seconds.tolist() == pytest.approx([1e-6 + 0.01])


def test_times_between_and_beyond_what_was_measured() -> None:
    times = CallSeconds(1, {1: 0.1, 4: 0.4, 8: 0.6})
    assert [times.of(images) for images in (1, 2, 4, 6, 8, 9, 16)] == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 1.2])
    assert times.most_per_second(8) == pytest.approx(8 / 0.6)
    assert times.most_per_second(1) == pytest.approx(10)


def test_the_fewest_devices_are_found() -> None:
    wanted = Wanted(rate=1000, p99=0.6, requests=4000)
    plan = find_plan(wanted, [GPU], Policy())
    assert plan.simulated.percentile(99) <= 0.6
    fewer = simulate(Traffic(1000 / (plan.devices - 1)), GPU, Policy(queue=256), 4000)
    assert fewer.percentile(99) > 0.6
    assert plan.most_rate == pytest.approx(1000 / plan.devices, rel=0.2)
    assert find_plan(Wanted(1, 0.6, requests=1000), [GPU], Policy()).devices == 1


def test_the_better_number_of_lanes_is_chosen() -> None:
    slower, faster = CallSeconds(1, {1: 0.1, 2: 0.2}), CallSeconds(2, {1: 0.12, 2: 0.24})
    plan = find_plan(Wanted(40, 1.0, requests=2000), [slower, faster], Policy(max_batch=2))
    assert plan.policy.lanes == 2 and plan.times is faster
    assert 64 <= plan.queue <= 256


def test_no_number_of_devices_beats_a_single_call() -> None:
    with pytest.raises(InputError, match=r"a request takes at least 0.15 s, so that no number of devices answers"):
        find_plan(Wanted(1, 0.12, overhead=0.05), [CONSTANT], Policy())


def test_more_devices_than_there_are_is_another_matter() -> None:
    with pytest.raises(InputError, match=r"100,000 devices do not answer 99 of 100 of 1e\+06 requests a .* within 3 s"):
        find_plan(Wanted(1e6, 3, requests=500), [CallSeconds(1, {1: 1.0})], Policy())
    with pytest.raises(InputError, match=r"100,000 devices do not answer 99 of 100 of 5e\+06"):
        find_plan(Wanted(5e6, 0.11, requests=500), [CONSTANT], Policy())
    plan = find_plan(Wanted(60_000, 20, requests=500), [CallSeconds(1, {1: 0.8})], Policy())
    assert plan.devices <= 100_000


def write(path: Path, values: Any) -> Path:
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


@pytest.fixture
def seconds_path(tmp_path: Path) -> Path:
    return write(tmp_path / "seconds.json", {"lanes": {"1": {"1": 0.1, "64": 0.4}, "2": {"1": 0.19, "64": 0.8}}})


def test_the_command_says_what_to_serve(
    digits_bundle: Path, seconds_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", str(digits_bundle), "--rate", "20", "--p99", "900ms", "--device-seconds", str(seconds_path)]
    assert main([*arguments, "--price", "3", "--overhead", "10ms", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["devices"] >= 1 and values["lanes"] == 1
    assert values["latency"]["p99"] <= 0.9
    hours = values["devices"] / 3600 / 20 * 1e6
    assert values["device_hours_per_million_images"] == pytest.approx(hours)
    assert values["cost_per_million_images"] == pytest.approx(3 * hours)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "20 requests a second, an image each, 99 of 100 within 900 ms" in text
    assert f"serve: himar-serve {digits_bundle} --lanes 1 --max-batch" in text.replace("\n", "")


def test_the_command_measures_and_saves_what_it_reads_again(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "seconds.json"
    arguments = ["plan", str(digits_bundle), "--rate", "1", "--p99", "60s", "--json"]
    quick = ["--max-batch", "2", "--low-steps", "1", "--high-steps", "1", "--repeats", "1", "--threads", "1"]
    lanes = ["--lanes", "1", "--lanes", "2"]
    assert main([*arguments, "--measure", "--save", str(saved), *lanes, *quick]) == 0
    first = json.loads(capsys.readouterr().out)
    found = read_seconds(saved)
    assert [each.lanes for each in found] == [1, 2] and all(set(each.seconds) == {1, 2} for each in found)
    assert main([*arguments, "--max-batch", "2", "--device-seconds", str(saved)]) == 0
    second = json.loads(capsys.readouterr().out)
    assert first["times"].pop("source").startswith("measured here")
    assert second["times"].pop("source") == str(saved)
    assert first == second


def test_an_estimate_is_the_cost_models(capsys: pytest.CaptureFixture[str]) -> None:
    device = ["--peak-tflops", "790", "--peak-gbps", "4800"]
    model = ["--config", "himar-b", "--fp16"]
    assert main(["inspect", "--cost", *model, *device, "--batch", "8", "--json"]) == 0
    bound = json.loads(capsys.readouterr().out)
    arguments = ["plan", *model, "--rate", "100", "--p99", "4s", *device, "--share", "0.5", "--max-batch", "8"]
    assert main([*arguments, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["times"]["seconds"]["8"] == pytest.approx(bound["total"]["bound_seconds"] / 0.5)
    assert values["max_batch"] == 8 and values["devices"] > 5


def test_the_json_of_bench_is_read(tmp_path: Path) -> None:
    generations = [
        {"batch": batch, "times": {"engines": {"summary": {"median": 0.1 * batch}}, "eager": {}}} for batch in (1, 4)
    ]
    (found,) = read_seconds(write(tmp_path / "bench.json", {"generations": generations}))
    assert found == CallSeconds(1, {1: 0.1, 4: 0.4})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds no seconds of calls by their images"),
        ('{"lanes": {"1": {"one": 1}}}', "holds no seconds of calls by their images"),
        ('{"lanes": {"1": {"1": "fast"}}}', "holds no seconds of calls by their images"),
        ('{"lanes": {"1": {"1": 0}}}', "says that a call of 1 images on 1 lanes takes 0 s; give positive numbers."),
        ('{"lanes": {"0": {"1": 1}}}', "on 0 lanes"),
        ('{"lanes": {"1": {"8": 1}}}', "lacks the seconds of a call of 1 image; measure it too (bench --batch 1)."),
        ('{"generations": []}', "lacks the seconds of a call of 1 image"),
        ('{"lanes": {}}', "holds the times of no lanes; measure again with plan --measure --save."),
        ('{"lanes": {"1": {"1": 1}, "65": {"1": 1}}}', "has times of 65 lanes; himar-serve has at most 64."),
    ],
)
def test_files_that_hold_no_times(tmp_path: Path, content: str, said: str) -> None:
    path = write(tmp_path / "seconds.json", content)
    with pytest.raises(InputError) as error:
        read_seconds(path)
    assert str(error.value).startswith(str(path)) and said in str(error.value)
    with pytest.raises(InputError, match="cannot be read"):
        read_seconds(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rate", "5", "--p99", "2s"], "none of --device-seconds, --measure and --peak-tflops are given"),
        (["--rate", "5", "--p99", "2s", "--measure", "--share", "0.5"], "several of --device-seconds, --measure"),
        (["--rate", "5", "--p99", "soon", "--measure"], "'soon' is not a time; write it like 2s or 500ms."),
        (["--rate", "0", "--p99", "2s", "--measure"], "--rate"),
        (["--rate", "5", "--p99", "2s", "--peak-tflops", "100"], "give all three"),
        (["--rate", "5", "--p99", "2s", "--measure", "--max-batch", "1000"], "--max-batch is 1000, but the engines of"),
        (["--rate", "5", "--p99", "2s", "--device-seconds", "FILE", "--lanes", "2"], "--lanes needs --measure."),
        (["--rate", "5", "--p99", "2s", "--device-seconds", "FILE", "--device", "cuda"], "--device needs --measure."),
        (["--rate", "5", "--p99", "2s", "--device-seconds", "FILE", "--repeats", "3"], "--repeats needs --measure."),
        (["--rate", "5", "--p99", "2s", "--device-seconds", "FILE", "--guidance", "2"], "--guidance changes nothing"),
        (["--rate", "5", "--p99", "2s", "--measure", "--config", "himar-b"], "describe a model without a bundle"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage(
    digits_bundle: Path, seconds_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(seconds_path) if option == "FILE" else option for option in options]
    assert main(["plan", str(digits_bundle), *given]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_the_server_takes_what_was_planned(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = write(tmp_path / "seconds.json", {"lanes": {"1": {"1": 0.1, "64": 0.4}}})
    arguments = ["plan", str(digits_bundle), "--rate", "0.1", "--device-seconds", str(times)]
    assert main([*arguments, "--images", "200", "--p99", "90s"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith(" --queue-delay 5 --max-images 200 --timeout 180")
    assert main([*arguments, "--images", "64", "--p99", "60s"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" --queue-delay 5")
    defaults = {each.name: each.default for each in serve.params}
    assert (defaults["max_images"], defaults["timeout"]) == (SERVED_IMAGES, SERVED_SECONDS)
    assert main([*arguments, "--p99", "900000s"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" --timeout 1e+06")
    for name, most in (("lanes", MOST_LANES), ("timeout", MOST_SECONDS)):
        kind = next(each for each in serve.params if each.name == name).type
        assert isinstance(kind, click.IntRange | click.FloatRange) and kind.max == most


def test_a_measurement_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    pipeline = Pipeline.load(write_bundle(tmp_path / "b"), threads=1)
    measured(pipeline, [1, 2], 2, None, 3, lambda text, fraction: told.append((text, fraction)))
    calls = ("calls of 1 image", "calls of 2 images", "calls of 1 image, 2 at once", "calls of 2 images, 2 at once")
    assert [text for text, _ in told] == [text for text in calls for _ in range(5)]  # its start, a warm-up, 3 calls
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions) and (fractions[0], fractions[-1]) == (0, 1)
    assert [fractions[place] for place in (4, 9, 14)] == pytest.approx([1 / 9, 3 / 9, 5 / 9])


def test_the_command_shows_how_far_a_measurement_is(
    digits_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich draws as on a terminal
    quick = ["--max-batch", "1", "--low-steps", "1", "--high-steps", "1", "--repeats", "1", "--threads", "1"]
    arguments = ["plan", str(digits_bundle), "--rate", "1", "--p99", "60s", "--measure", *quick]
    assert main(arguments) == 0
    assert "calls of 1 image" in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("good", [0, 1])
def test_a_lane_that_fails_ends_the_measurement(tmp_path: Path, good: int) -> None:
    """The others do not wait for it for ever."""
    fails = Pipeline.load(write_bundle(tmp_path / "fails", poison={"transformer_low": float("nan")}), threads=1)
    others = [Pipeline.load(write_bundle(tmp_path / "good"), threads=1)] * good
    with pytest.raises(EngineError, match="transformer_low returned values that are not finite"):
        measure([*others, fails], 1, None, 2)


@pytest.mark.parametrize(("peak", "share"), [("1e-300", "1e-300"), ("1e290", "1")])
def test_a_device_that_cannot_be_estimated(peak: str, share: str, capsys: pytest.CaptureFixture[str]) -> None:
    device = ["--config", "himar-b", "--peak-tflops", peak, "--peak-gbps", "1e295", "--share", share]
    assert main(["plan", *device, "--rate", "1e-6", "--p99", "1s", "--max-batch", "1"]) == (share == "1e-300")
    assert share == "1" or "would take inf s on this device" in capsys.readouterr().err


def test_a_bundle_is_needed(seconds_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--rate", "1", "--p99", "1s", "--device-seconds", str(seconds_path)]) == 2
    assert "Missing argument 'BUNDLE'; only an estimate with --config needs none." in capsys.readouterr().err
