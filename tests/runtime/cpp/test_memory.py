"""What a bundle takes and what is left of the machine: C++ finds Python's numbers and says Python's sentences."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from himar_kernels import BundleError, EngineError, InputError
from himar_runtime import Bundle, Device, Pipeline
from himar_runtime.memory.available import VARIABLE, host_limits
from himar_runtime.memory.prediction import predict
from himar_runtime.memory.room import fitting_batch, require_room
from himar_runtime.service.service import Service, Settings
from tests.conftest import GOLDEN
from tests.kernels.test_cpu_threads import V2
from tests.runtime.test_memory_available import GB, V1, host
from tests.runtime.tiny_hmar import write_hmar_bundle


@pytest.fixture(scope="session")
def cpp(built: Path, run: Callable[..., str]) -> Callable[..., Any]:
    """What himar_arithmetic prints of its arguments."""
    return lambda *arguments: json.loads(run(built / "tests" / "himar_arithmetic", *map(str, arguments)))


@pytest.fixture(scope="session")
def measured(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with figures of its memory, on a CPU and on a GPU, no two alike."""
    folder = tmp_path_factory.mktemp("memory") / "tiny"
    shutil.copytree(bundle_path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    names = list(manifest["components"])

    def figures(scale: int) -> dict[str, Any]:
        return {
            name: {
                "loaded": scale * (5_000_003 + number),
                "images": [1, 3 + number],
                "runs": [1_000_001 * scale, (2 + number) * 1_700_003 * scale],
                "most": 64 - number,
            }
            for number, name in enumerate(names)
        }

    gpu = {"by": "a GPU of a test", "backend": "onnxruntime", "once": 123_456_789, "components": figures(10)}
    manifest["memory"] = {"by": "a test", "components": figures(1), "gpu": gpu}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("images", [1, 2, 7, 10**6])
def test_both_predict_the_same_on_a_cpu(measured, cpp, images, lanes) -> None:
    found = predict(Bundle.open(measured).manifest, images, lanes)
    expected = {"images": found.images, "loaded": found.loaded, "runs": found.runs}
    assert cpp("memory", measured, images, lanes, "cpu") == expected


def test_both_know_the_weights_of_bundles_without_figures(bundle_path, cpp) -> None:
    for bundle in (bundle_path, GOLDEN / "bundle-1.2" / "bundle"):
        for images in (1, 5, 64):
            found = predict(Bundle.open(bundle).manifest, images, 2)
            assert cpp("memory", bundle, images, 2, "cpu") == {
                "images": found.images, "loaded": found.loaded, "runs": found.runs,
            }  # fmt: skip


def test_on_a_gpu_both_count_the_same_but_for_their_own_buffers(measured, cpp) -> None:
    manifest = Bundle.open(measured).manifest
    for lanes in (1, 3):
        found, own = predict(manifest, 2, lanes, "cuda"), cpp("memory", measured, 2, lanes, "cuda")
        assert own["loaded"] == found.loaded
        sessions = found.runs - lanes * found.buffers  # which all lanes queue on one stream
        assert sessions == predict(manifest, 2, 1, "cuda").runs - found.buffers > 0
        assert 0.9 < (own["runs"] - sessions) / (lanes * found.buffers) < 1.2


def test_both_count_what_the_default_setting_needs(make_bundle, edit_manifest, cpp) -> None:
    held, scales = make_bundle("held", held=True), write_hmar_bundle(make_bundle("beside").parent / "hmar")
    for bundle, needs in ((held, {"modulation_interval": 4}), (scales, {"all_scales": True, "schedule": []})):
        found, own = [], []
        for change in ({}, needs):
            edit_manifest(bundle, lambda manifest, change=change: manifest["sampling"]["default"].update(change))
            found.append(predict(Bundle.open(bundle).manifest, 1, 1, "cuda"))
            own.append(cpp("memory", bundle, 1, 1, "cuda"))
        assert [each["loaded"] for each in own] == [each.loaded for each in found]
        more = found[1].buffers - found[0].buffers
        assert own[1]["loaded"] > own[0]["loaded"]
        assert (
            0 < more <= own[1]["runs"] - own[0]["runs"] < 2 * more
        )  # C++ aligns each, and has two caches of own scales


@pytest.mark.parametrize(
    ("cgroup", "mountinfo", "files"),
    [
        ("", "", {}),
        (
            "0::/pod/box\n", V2,
            {"pod/memory.max": f"{2 * GB}", "pod/memory.current": "7", "pod/memory.swap.max": "0",
             "pod/box/memory.max": f"{GB}", "pod/box/memory.current": "0", "pod/box/memory.stat": "inactive_file 5\n"},
        ),
        (
            "4:memory:/\n", V1,
            {"memory/memory.limit_in_bytes": f"{GB}", "memory/memory.usage_in_bytes": "1000",
             "memory/memory.stat": "total_inactive_file 200\n"},
        ),
    ],
)  # fmt: skip
def test_both_find_the_same_limits(tmp_path, cpp, cgroup, mountinfo, files) -> None:
    root = host(tmp_path, cgroup, mountinfo, files)
    (root / "proc/self/limits").write_text(
        "Max address space         4096000000           unlimited            bytes\n"
    )
    (root / "proc/self/status").write_text("Name:\tx\nVmSize:\t    3000 kB\n")
    key = str  # the order is each's own
    assert sorted(cpp("limits", root), key=key) == sorted(
        ([each.bytes, each.of] for each in host_limits(root)), key=key
    )


def _said(records: list[logging.LogRecord]) -> list[str]:
    return [f"himar: {record.getMessage()}" for record in records]


@pytest.mark.parametrize("share", [0.5, 0.79, 0.82, 1.05, 1.2])
def test_both_refuse_and_warn_in_the_same_words(measured, run, built, monkeypatch, caplog, tmp_path, share) -> None:
    limit = share * predict(Bundle.open(measured).manifest, 1).total / 1e9
    monkeypatch.setenv(VARIABLE, f"{limit:.6f}")
    command = [built / "examples" / "himar-generate", measured, "--labels", "1", "--threads", "1", "--out", tmp_path]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    try:
        Pipeline.load(measured)
    except EngineError as error:
        assert share < 0.8 and done.returncode == 1
        assert done.stderr == f"himar-generate: {error}\n"
    else:
        assert share > 0.8 and done.returncode == 0
        assert done.stderr.splitlines() == _said(caplog.records) != []


def test_another_lane_is_refused_in_the_same_words(measured, library, monkeypatch) -> None:
    pipeline = Pipeline.load(measured)
    expected: list[str] = []

    def limited() -> None:
        monkeypatch.setenv(VARIABLE, "0.001")
        with pytest.raises(EngineError) as caught:
            pipeline.clone()
        expected.append(str(caught.value))

    assert [library.clone_sentence(measured, limited)] == expected


@pytest.mark.parametrize(
    ("precision", "sentence"),
    [
        ("fp16", "left; use a bundle built with --int8, or set HIMAR_MEMORY_LIMIT=none"),
        ("int8", "left; free some, or set HIMAR_MEMORY_LIMIT=none"),
    ],
)
def test_none_advises_a_build_in_the_precision_that_the_bundle_has(
    measured, library, monkeypatch, tmp_path, precision, sentence
) -> None:
    monkeypatch.setenv(VARIABLE, "0.001")
    small = tmp_path / "small"
    shutil.copytree(measured, small)
    manifest = json.loads((measured / "manifest.json").read_text())
    next(iter(manifest["components"].values()))["precision"] = precision
    (small / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match=sentence) as refused:
        Pipeline.load(small)
    with pytest.raises(RuntimeError) as cpps:
        library.classes(small, ())
    assert str(cpps.value) == str(refused.value)


def test_wrong_variables_and_figures_are_refused_in_the_same_words(measured, library, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv(VARIABLE, "1e9")
    with pytest.raises(InputError) as caught:
        Pipeline.load(measured)
    with pytest.raises(RuntimeError) as cpps:
        library.classes(measured, ())
    assert str(cpps.value) == str(caught.value)
    monkeypatch.delenv(VARIABLE)
    shutil.copytree(measured, tmp_path / "wrong")
    manifest = json.loads((measured / "manifest.json").read_text())
    next(iter(manifest["memory"]["components"].values()))["images"] = [4, 1]
    (tmp_path / "wrong" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError) as refused:
        Pipeline.load(tmp_path / "wrong")
    with pytest.raises(RuntimeError) as cpps:
        library.classes(tmp_path / "wrong", ())
    assert str(cpps.value) == str(refused.value)


def _served(server: Path, bundle: Path, *options: str) -> tuple[int, list[str]]:
    """Start the C++ server, end it once it listens; return its exit code and the sentences of its log."""
    command = [str(server), str(bundle), "--port", "0", "--threads", "1", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline():
        process.terminate()
    _, said = process.communicate(timeout=60)
    return process.returncode, [line.partition("himar-serve: ")[2] for line in said.splitlines()]


@pytest.fixture
def server(built: Path) -> Path:
    """The C++ himar-serve."""
    found = built / "service" / "himar-serve"
    if not found.exists():
        pytest.skip("needs himar-serve in build/cpp/release: run `make cpp` once, which builds it")
    return found


def test_both_servers_take_the_largest_batch_that_fits(measured, server, monkeypatch, caplog) -> None:
    bundle = Bundle.open(measured)
    monkeypatch.setenv(VARIABLE, f"{predict(bundle.manifest, 2, 2).total / 0.89 / 1e9:.6f}")
    assert fitting_batch(bundle, Device("cpu"), lanes=2) == 2 < bundle.manifest.max_batch
    require_room(bundle, Device("cpu"), images=2, lanes=2)
    code, said = _served(server, measured, "--lanes", "2")
    assert code == 0
    assert [line for line in said if "SIG" not in line and "stopped" not in line] == [
        record.getMessage() for record in caplog.records
    ]


@pytest.mark.parametrize(("batch", "options"), [(None, []), (2, ["--max-batch", "2"])])
def test_both_servers_refuse_what_does_not_fit(measured, server, monkeypatch, batch, options) -> None:
    monkeypatch.setenv(VARIABLE, f"{predict(Bundle.open(measured).manifest, 1, 3).total / 1.4 / 1e9:.6f}")
    with pytest.raises(EngineError) as caught:
        Service(Settings(measured, lanes=3, max_batch=batch))
    code, said = _served(server, measured, "--lanes", "3", *options)
    assert code == 1 and said[-1] == str(caught.value)


def test_mapped_weights_need_no_room_in_either(measured, library, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, f"{predict(Bundle.open(measured).manifest, 1).runs / 0.89 / 1e9:.6f}")
    for load in (Pipeline.load, lambda bundle: library.classes(bundle, ())):
        monkeypatch.delenv("HIMAR_ORT_PACKED", raising=False)
        with pytest.raises((EngineError, RuntimeError), match="needs about"):
            load(measured)
        monkeypatch.setenv("HIMAR_ORT_PACKED", "1")
        load(measured)
