"""Built engines are used again when everything that went into them is the same, and never otherwise."""

import hashlib
import json
import logging
import threading
from dataclasses import fields, replace
from pathlib import Path

import onnx
import onnx.parser
import pytest

from himar_export.graph.component import Component
from himar_export.make import engine_cache
from himar_export.make.engine_cache import EngineCache, engine_key, graph_hash
from himar_export.make.engines import EngineTarget, build_engines
from himar_export.make.gpu import Gpu
from himar_export.tensorrt.build import build_engine
from himar_export.tensorrt.options import EngineOptions
from himar_runtime import TensorSpec

WEIGHT = bytes(range(64))
GPU = Gpu("NVIDIA H100", "9.0")
# Another value for every option; one that the test does not name makes it fail.
OTHER = {
    "optimization_level": 5,
    "workspace": 1 << 30,
    "version_compatible": True,
    "hardware_compatible": True,
    "refittable": True,
    "gpus": ("sm_89",),
}


def graph(folder: Path, operator: str = "Relu", weight: bytes = WEIGHT, offset: int = 0) -> Path:
    """Write x (rows, 4) · W (4, 4), then an operator, W at an offset of an external file."""
    folder.mkdir(exist_ok=True)
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["" : 23]>
        agraph (float[rows,4] x) => (float[rows,4] y)
        {{ h = MatMul(x, w)
           y = {operator}(h) }}"""
    )
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4, 4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", len(weight))):
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    model.graph.initializer.append(tensor)
    (folder / "weights.bin").write_bytes(b"\xff" * offset + weight + b"of another component")
    onnx.save(model, folder / "part.onnx")
    return folder / "part.onnx"


def part(rows: int = 8) -> Component:
    x, y = (TensorSpec(name, "float32", ("rows", 4)) for name in "xy")
    return Component("part", (x,), (y,), {"rows": (1, rows, rows)}, lambda dtype: None, (), lambda rows: {})


@pytest.fixture
def inputs(tmp_path) -> dict:
    return {
        "file": graph(tmp_path / "graph"), "component": part(), "precision": "fp32", "options": EngineOptions(),
        "builder": "tensorrt", "version": "11.4.0", "gpu": GPU,
    }  # fmt: skip


def test_the_same_inputs_have_the_same_key(inputs, tmp_path):
    assert engine_key(**inputs) == engine_key(**inputs)
    elsewhere = graph(tmp_path / "elsewhere", offset=128)
    assert engine_key(**{**inputs, "file": elsewhere}) == engine_key(**inputs)


@pytest.mark.parametrize(
    "change",
    [
        {"component": part(rows=16)},
        {"precision": "fp16"},
        {"builder": "tensorrt-rtx"},
        {"version": "11.4.1"},
        {"gpu": replace(GPU, name="NVIDIA H200")},
        {"gpu": replace(GPU, capability="10.0")},
        {"gpu": None},
        *({"options": replace(EngineOptions(), **{field.name: OTHER[field.name]})} for field in fields(EngineOptions)),
    ],
    ids=lambda change: ",".join(change),
)
def test_any_other_input_has_another_key(inputs, change):
    assert engine_key(**{**inputs, **change}) != engine_key(**inputs)


def test_another_graph_or_another_weight_has_another_key(inputs, tmp_path):
    keys = {engine_key(**{**inputs, "file": file}) for file in (
        inputs["file"],
        graph(tmp_path / "operator", operator="Tanh"),
        graph(tmp_path / "weight", weight=WEIGHT[:-1] + b"\0"),
    )}  # fmt: skip
    assert len(keys) == 3


def test_another_recipe_of_ours_has_another_key(inputs, monkeypatch):
    before = engine_key(**inputs)
    monkeypatch.setattr(engine_cache, "RECIPE", engine_cache.RECIPE + 1)
    assert engine_key(**inputs) != before


def test_a_weight_inside_the_graph_counts_too(tmp_path):
    hashes = set()
    for value in (1.0, 2.0):
        file = tmp_path / f"{value}.onnx"
        model = onnx.load(graph(tmp_path / "g"), load_external_data=False)
        model.graph.initializer.append(onnx.helper.make_tensor("c", onnx.TensorProto.FLOAT, [1], [value]))
        onnx.save(model, file)
        (tmp_path / "weights.bin").write_bytes(WEIGHT)
        hashes.add(graph_hash(file))
    assert len(hashes) == 2


def test_what_is_stored_is_loaded(tmp_path):
    cache = EngineCache(tmp_path / "cache")
    assert cache.load("k") is None
    cache.store("k", b"engine", {"precision": "fp16"})
    data, facts = cache.load("k")
    assert data == b"engine"
    assert facts["precision"] == "fp16"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["k"]


@pytest.mark.parametrize("damage", ["changed", "cut", "no engine", "no entry", "entry is no JSON", "entry is a list"])
def test_a_damaged_entry_is_not_used_and_makes_room(tmp_path, caplog, damage):
    cache = EngineCache(tmp_path)
    cache.store("k", b"engine", {})
    engine, entry = tmp_path / "k" / "engine", tmp_path / "k" / "entry.json"
    {
        "changed": lambda: engine.write_bytes(b"engIne"),
        "cut": lambda: engine.write_bytes(b"eng"),
        "no engine": engine.unlink,
        "no entry": entry.unlink,
        "entry is no JSON": lambda: entry.write_text("{"),
        "entry is a list": lambda: entry.write_text("[]"),
    }[damage]()
    with caplog.at_level(logging.WARNING):
        assert cache.load("k") is None
    assert "is damaged" in caplog.text
    assert "building it again" in caplog.text
    cache.store("k", b"engine", {})
    assert cache.load("k")[0] == b"engine"


def test_many_writers_of_one_entry_leave_one_whole_entry(tmp_path):
    data = bytes(1_000_000)
    start = threading.Barrier(8)

    def write() -> None:
        start.wait()
        EngineCache(tmp_path).store("k", data, {"sha": hashlib.sha256(data).hexdigest()})

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found = EngineCache(tmp_path).load("k")
        assert found is None or found[0] == data
    assert EngineCache(tmp_path).load("k")[0] == data
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_a_cache_that_cannot_be_written_costs_the_cache_alone(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        EngineCache(tmp_path / "file").store("k", b"engine", {})
    assert "cannot be written" in caplog.text


@pytest.fixture
def target(tmp_path) -> EngineTarget:
    library = pytest.importorskip("tensorrt_rtx")
    return EngineTarget("tensorrt-rtx", library, EngineOptions(), None, EngineCache(tmp_path / "cache"))


def built(target: EngineTarget, file: Path) -> tuple[bytes, dict]:
    entries = build_engines(target, file.parent, [part()], {"part": "fp32"}, lambda text, fraction: None)
    return (file.parent / "part.engine").read_bytes(), entries["part"]


def test_the_second_build_takes_the_firsts_engine(target, tmp_path, monkeypatch):
    file = graph(tmp_path / "g")
    first, entry = built(target, file)
    assert entry["cached"] is False
    assert entry["precision"]["matmul"] == {"fp32": 1}

    def never(*arguments, **named):
        raise AssertionError("the builder was called")

    monkeypatch.setattr("himar_export.make.engines.BuilderProcess.build", never)
    second, again = built(target, file)
    assert second == first
    assert again == {**entry, "cached": True}
    with pytest.raises(AssertionError, match="the builder was called"):
        built(target, graph(tmp_path / "other", operator="Tanh"))
    with pytest.raises(AssertionError, match="the builder was called"):
        built(replace(target, options=EngineOptions(gpus=("sm_86",))), file)


def test_a_damaged_engine_is_built_again(target, tmp_path, caplog):
    file = graph(tmp_path / "g")
    first, _ = built(target, file)
    stored = next((tmp_path / "cache").glob("*/engine"))
    stored.write_bytes(stored.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        again, entry = built(target, file)
    assert entry["cached"] is False
    assert again == first
    assert stored.read_bytes() == first
    assert json.loads((stored.parent / "entry.json").read_text())["component"] == "part"


def test_without_a_cache_nothing_is_kept(target, tmp_path):
    _, entry = built(replace(target, cache=None), graph(tmp_path / "g"))
    assert entry["cached"] is False
    assert not (tmp_path / "cache").exists()


@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
def test_the_timing_cache_is_of_one_version_and_gpu(target, tmp_path):
    """TensorRT-RTX has the calls of full TensorRT, as no-ops: this shows that ours exist and that a file is written."""
    timing = target.cache.timing("11.4.0", GPU)
    build_engine(target.library, graph(tmp_path / "g"), part(), "fp32", EngineOptions(), timing)
    assert timing.path.is_file()
    timing.store(b"kernels")
    assert target.cache.timing("11.4.0", GPU).load() == b"kernels"
    assert target.cache.timing("11.5.0", GPU).load() == b""
    assert target.cache.timing("11.4.0", replace(GPU, name="NVIDIA H200")).load() == b""
