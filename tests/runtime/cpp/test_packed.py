"""Graphs kept with packed weights: C++ and Python make and use the same entries, and say the same of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from himar_kernels.shared.files import file_sha256
from himar_runtime import Bundle, Pipeline
from himar_runtime.engines.ort.packed import LIMIT_VARIABLE, VARIABLE, PackedGraph, contents, cpu

pytestmark = pytest.mark.skipif(cpu() is None, reason="needs a system that tells what its CPU can do")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where entries go, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "1")
    return tmp_path / "cache" / "himar" / "onnxruntime"


@pytest.fixture
def generate(built: Path, bundle_path: Path, tmp_path: Path) -> Any:
    """Run himar-generate on the tiny bundle; return its PNG's bytes and what it said on stderr."""

    def run(bundle: Path = bundle_path, code: int = 0) -> tuple[bytes, str]:
        out = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        command = [built / "examples" / "himar-generate", bundle, "--labels", "1", "--threads", "1", "--out", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return next(out.iterdir()).read_bytes() if code == 0 else b"", done.stderr

    return run


def _entries(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in cache.iterdir()}


def test_entries_of_cpp_are_pythons(bundle_path, generate, cache, caplog) -> None:
    generate()
    made = _entries(cache)
    bundle = Bundle.open(bundle_path)
    graphs = [PackedGraph.of(onnxruntime, contents(bundle, f"{name}.onnx")) for name in bundle.manifest.components]
    assert {graph.folder.name for graph in graphs if graph is not None} == made.keys()
    assert all(graph is not None and graph.bytes() is not None for graph in graphs)
    Pipeline.load(bundle_path)
    assert _entries(cache) == made and not caplog.text


def test_entries_of_python_are_cpps(bundle_path, generate, cache, monkeypatch) -> None:
    with monkeypatch.context() as without:
        without.setenv(VARIABLE, "0")
        expected, _ = generate()
    Pipeline.load(bundle_path)
    made = _entries(cache)
    assert generate() == (expected, "")
    assert _entries(cache) == made


def test_both_pack_the_same_bytes(bundle_path, generate, cache, monkeypatch, tmp_path) -> None:
    generate()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "python"))
    Pipeline.load(bundle_path)
    for name in _entries(cache):
        for file in ("graph.onnx", "weights.bin"):
            pythons = tmp_path / "python" / "himar" / "onnxruntime" / name / file
            assert file_sha256(cache / name / file) == file_sha256(pythons)


def test_a_damaged_entry_is_packed_again_with_a_warning(generate, cache) -> None:
    expected, _ = generate()
    entry = sorted(cache.iterdir())[0]
    (entry / "graph.onnx").write_bytes(b"0")
    image, said = generate()
    assert image == expected
    assert said == (
        f"himar: {entry} is damaged (graph.onnx does not have the sha256 that was stored with it); packing again\n"
    )
    assert generate() == (expected, "")


def test_a_folder_that_cannot_be_written_is_done_without(generate, cache, monkeypatch) -> None:
    with monkeypatch.context() as without:
        without.setenv(VARIABLE, "0")
        expected, _ = generate()
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder would be")
    image, said = generate()
    assert image == expected
    assert said.count(f" cannot be kept packed in {cache}/") == 5
    assert "himar: mlp_head.onnx cannot be kept packed in " in said and ", loading it without: " in said


def test_an_entry_that_python_uses_is_not_removed(bundle_path, generate, cache, make_bundle, monkeypatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    pipeline = Pipeline.load(bundle_path)
    used = _entries(cache)
    generate(make_bundle(poison={"mlp_head": 2.0}))
    assert used.items() < _entries(cache).items()
    del pipeline
    generate(make_bundle("third", poison={"mlp_head": 3.0}))
    assert len(_entries(cache)) == len(used)


@pytest.mark.parametrize(("name", "value"), [(VARIABLE, "yes"), (LIMIT_VARIABLE, "1.5")])
def test_a_variable_that_is_none_is_refused_as_in_python(
    bundle_path, generate, cache, monkeypatch, name, value
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Exception, match=f"^{name} is '{value}'") as refused:
        Pipeline.load(bundle_path)
    _, said = generate(code=1)
    assert said == f"himar-generate: {refused.value}\n"
