"""Graphs kept with packed weights: equal bits, found again, never trusted when damaged, never in the way."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from himar_export.cli import main
from himar_kernels import BundleError, InputError
from himar_runtime import Bundle, Device, Pipeline
from himar_runtime.engines.ort import entries, packed
from himar_runtime.engines.ort.packed import LIMIT_VARIABLE, VARIABLE, PackedGraph, contents, cpu, key, packed_bytes
from himar_runtime.engines.ort.session import create_session
from tests.runtime.hub_cache import write_weights_apart

pytestmark = pytest.mark.skipif(cpu() is None, reason="needs a system that tells what its CPU can do")

GENERATE = """
import sys
from himar_runtime import Pipeline
sys.stdout.buffer.write(Pipeline.load(sys.argv[1]).generate([1, 2], seed=3).latents.tobytes())
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where entries go, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "1")
    return tmp_path / "cache" / "himar" / "onnxruntime"


@pytest.fixture
def expected(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Latents of a bundle whose weights are not kept."""
    with monkeypatch.context() as without:
        without.setenv(VARIABLE, "0")
        return _latents(bundle_path)


def _latents(bundle: Path) -> np.ndarray:
    return Pipeline.load(bundle).generate([1, 2], seed=3).latents


def _entries(cache: Path) -> dict[str, int]:
    """Folders of entries with their times of change."""
    return {path.name: path.stat().st_mtime_ns for path in cache.iterdir() if path.is_dir()}


def test_bits_are_equal_and_a_second_load_packs_nothing(bundle_path, expected, cache, caplog) -> None:
    caplog.set_level(logging.INFO, "himar_runtime.engines.ort.packed")
    assert np.array_equal(_latents(bundle_path), expected)
    made = _entries(cache)
    assert caplog.text.count("packed ") == len(made) == len(Bundle.open(bundle_path).manifest.components)
    caplog.clear()
    assert np.array_equal(_latents(bundle_path), expected)
    assert _entries(cache) == made and not caplog.text


def test_nothing_is_kept_unless_asked_for(bundle_path, cache, monkeypatch) -> None:
    for value in ("", "0"):
        monkeypatch.setenv(VARIABLE, value)
        _latents(bundle_path)
    assert not cache.exists()
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(InputError, match=f"{VARIABLE} is 'yes'; it must be 1 to keep graphs with packed weights, or 0"):
        Pipeline.load(bundle_path)


@pytest.mark.parametrize("value", ["1.5", "-1", "many", "1000000"])
def test_a_limit_that_is_none_is_refused(bundle_path, cache, monkeypatch, value) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, value)
    with pytest.raises(
        InputError,
        match=f"^{LIMIT_VARIABLE} is '{value}'; it must be a whole number from 0 to 999999, the GiB of disk that "
        f"graphs with packed weights may take.$",
    ):
        Pipeline.load(bundle_path)


def test_old_entries_go_when_new_ones_are_made_and_used_ones_stay(bundle_path, make_bundle, cache, monkeypatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    used = Pipeline.load(bundle_path)
    first = _entries(cache).keys()
    assert len(first) == len(used.bundle.manifest.components)
    other = make_bundle(poison={"mlp_head": 2.0})
    _latents(other)
    second = _entries(cache).keys()
    assert first < second and len(second) == len(first) + 1  # they have the other components in common
    del used
    gc.collect()
    _latents(other)
    assert _entries(cache).keys() == second  # nothing was made, so nothing goes
    Pipeline.load(make_bundle("third", poison={"mlp_head": 3.0, "dit_head": 3.0}))
    third = _entries(cache).keys()
    assert len(third) == len(first) and len(third & first) == len(first) - 2 and not third & (second - first)


def test_nothing_of_a_bundle_is_read_but_its_entries(make_bundle, edit_manifest, cache, caplog) -> None:
    """So its weights are not hashed; they are before anybody reads them."""
    bundle = make_bundle()
    write_weights_apart(bundle, edit_manifest)
    expected = _latents(bundle)
    weights = bundle / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    assert np.array_equal(_latents(bundle), expected) and not caplog.text
    with pytest.raises(BundleError, match=r"^weights\.bin in .* does not have the manifest's sha256"):
        Bundle.open(bundle)
    shutil.rmtree(cache)
    with pytest.raises(BundleError, match=r"^weights\.bin in .* does not have the manifest's sha256"):
        Pipeline.load(bundle)
    assert not _entries(cache) and not list(cache.glob(".*"))
    cache.rmdir()
    cache.write_text("a file where the folder would be")  # nothing is kept, and the bundle's graphs are read
    with pytest.raises(BundleError, match=r"^weights\.bin in .* does not have the manifest's sha256"):
        Pipeline.load(bundle)


def test_an_onnx_runtime_that_cannot_write_packed_weights_is_named_once(bundle_path, caplog) -> None:
    class Old:
        __version__ = "1.20.1"

    content = contents(Bundle.open(bundle_path), "mlp_head.onnx")
    for _ in range(2):
        assert PackedGraph.of(Old, content) is None  # type: ignore[arg-type]
    said = "weights are not kept packed: HIMAR_ORT_PACKED needs ONNX Runtime 1.21 or later, and this is 1.20.1"
    assert caplog.text.count(said) == 1


def test_a_system_that_tells_nothing_of_its_cpu_is_named_once(bundle_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(packed, "cpu", lambda: None)
    content = contents(Bundle.open(bundle_path), "mlp_head.onnx")
    for _ in range(2):
        assert PackedGraph.of(onnxruntime, content) is None
    assert caplog.text.count("weights are not kept packed: this system does not tell what its CPU can do") == 1


def test_a_cache_behind_a_link_is_used(bundle_path, expected, cache, caplog, tmp_path, monkeypatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    for _ in range(2):
        assert np.array_equal(_latents(bundle_path), expected)
    assert not caplog.text and len(_entries(tmp_path / "real" / "himar" / "onnxruntime")) == 5


def test_who_packs_for_too_long_is_not_waited_for(bundle_path, expected, cache, caplog, monkeypatch) -> None:
    bundle = Bundle.open(bundle_path)
    monkeypatch.setattr(entries, "WAIT_SECONDS", 0.1)
    with contextlib.ExitStack() as stack:
        for name in bundle.manifest.components:
            graph = PackedGraph.of(onnxruntime, contents(bundle, f"{name}.onnx"))
            assert graph is not None
            stack.enter_context(entries.making(graph.folder))
        assert np.array_equal(_latents(bundle_path), expected)
    assert "loading it without: another process has been at it for 0.1 s" in caplog.text


def _longer(entry: Path) -> None:
    with (entry / "weights.bin").open("ab") as file:
        file.write(b"0")


def _other_weights(entry: Path) -> None:
    file = entry / "weights.bin"
    changed = bytearray(file.read_bytes() or b"0")
    changed[0] ^= 1
    file.write_bytes(changed)
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_longer, "weights.bin has"),
        (_other_weights, "weights.bin "),
        (lambda entry: (entry / "graph.onnx").write_bytes(b"0"), "graph.onnx does not have the sha256"),
        (lambda entry: (entry / "entry.json").write_text("[]"), "damaged"),
        (lambda entry: (entry / "weights.bin").unlink(), "No such file"),
    ],
)
def test_a_damaged_entry_is_packed_again(bundle_path, expected, cache, caplog, damage, reason) -> None:
    _latents(bundle_path)
    made = _entries(cache)
    for name in made:
        damage(cache / name)
    assert np.array_equal(_latents(bundle_path), expected)
    assert f"is damaged ({reason}" in caplog.text or reason in caplog.text
    caplog.clear()
    assert _entries(cache).keys() == made.keys()
    assert len(packed_bytes(Bundle.open(bundle_path), onnxruntime)) == len(made) and not caplog.text


def test_an_entry_that_was_copied_is_used(bundle_path, expected, cache, caplog) -> None:
    """Its weights have another time of change, and the same hash."""
    _latents(bundle_path)
    for name in _entries(cache):
        os.utime(cache / name / "weights.bin", ns=(1, 1))
    made = _entries(cache)
    assert np.array_equal(_latents(bundle_path), expected)
    assert _entries(cache) == made and not caplog.text


def test_a_folder_that_cannot_be_written_is_done_without(bundle_path, expected, cache, caplog) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder would be")
    assert np.array_equal(_latents(bundle_path), expected)
    assert "mlp_head.onnx cannot be kept packed in" in caplog.text


def test_a_full_disk_is_done_without(bundle_path, expected, cache) -> None:
    def no_file_over_a_hundred_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    command = [sys.executable, "-c", GENERATE, str(bundle_path)]
    done = subprocess.run(command, capture_output=True, check=True, preexec_fn=no_file_over_a_hundred_bytes)
    assert done.stdout == expected.tobytes()
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_a_disk_with_too_little_space_is_left_alone(bundle_path, cache, caplog) -> None:
    bundle = Bundle.open(bundle_path)
    spec = dataclasses.replace(bundle.manifest.components["mlp_head"], weight_bytes=1 << 60)
    path, content = bundle.path(spec.engine_file), contents(bundle, spec.engine_file)
    create_session(path, spec, Device("cpu"), 1, None, content)
    assert f"bytes free, and {3 << 60} are wanted" in caplog.text
    assert not _entries(cache)


def test_another_library_cpu_or_weights_is_another_entry(bundle_path, make_bundle) -> None:
    class Other:
        __version__ = "1.0.0"
        get_build_info = staticmethod(onnxruntime.get_build_info)

    ours, other = (
        contents(Bundle.open(path), "mlp_head.onnx").hashes
        for path in (bundle_path, make_bundle(poison={"mlp_head": 2.0}))
    )
    machine = cpu()
    assert ours is not None and other is not None and machine is not None
    names = {
        key(onnxruntime, ours, machine),
        key(onnxruntime, other, machine),
        key(onnxruntime, ours, machine + " avx999"),
        key(Other, ours, machine),  # type: ignore[arg-type]
    }
    assert len(names) == 4
    assert contents(Bundle.open(bundle_path), "unknown.onnx").hashes is None


def test_processes_that_start_together_pack_once(bundle_path, expected, cache) -> None:
    command = [sys.executable, "-c", GENERATE, str(bundle_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    assert {process.communicate()[0] for process in started} == {expected.tobytes()}
    count = len(Bundle.open(bundle_path).manifest.components)
    assert len(_entries(cache)) == len(list(cache.glob("*/entry.json"))) == count
    assert not list(cache.glob(".*"))
    entry = json.loads(next(cache.glob("*/entry.json")).read_text())
    assert entry.keys() == {"graph", "weights", "bytes", "changed"}


def test_inspect_says_what_is_kept(bundle_path, cache, capsys) -> None:
    for count in (0, len(Bundle.open(bundle_path).manifest.components)):
        assert main(["inspect", str(bundle_path)]) == 0
        printed = capsys.readouterr().out
        assert f"packed     {count} of 5 components, " in printed and f" in {cache}\n" in printed
        _latents(bundle_path)
