"""Engines: what is bound stays, outputs can stay on the device, and a wrong input says which and why."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from himar_kernels import EngineError, InputError
from himar_kernels.build.fused_library import VARIABLE
from himar_runtime import Bundle, ComponentSpec, Device, TensorSpec, load_engine
from himar_runtime.engines.ort import session as ort_session
from himar_runtime.engines.ort.engine import GraphNumbers, OrtEngine, PlacedRuns
from himar_runtime.engines.ort.session import GRAPHS_VARIABLE, _load, _say_once, records_graphs, use_fused_operators
from himar_runtime.queue.device import DeviceTensor
from tests.closeness import assert_near

CPU = Device("cpu")


@pytest.fixture
def head(bundle_path: Path) -> OrtEngine:
    engine = load_engine(Bundle.open(bundle_path), "mlp_head", CPU, 1)
    assert isinstance(engine, OrtEngine)
    return engine


def _inputs(samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "x": random.standard_normal((samples, 2)).astype(np.float32),
        "timestep": np.array([500]),
        "condition": random.standard_normal((samples, 4)).astype(np.float32),
    }


def test_bound_inputs_stay_until_they_are_bound_again(head: OrtEngine) -> None:
    first, second = _inputs(3), _inputs(3, seed=1)
    expected = head.run(first)["prediction"]
    other = head.clone()
    other.bind({"condition": first["condition"]})
    state = {"x": first["x"], "timestep": first["timestep"]}
    assert np.array_equal(other.run(state)["prediction"], expected)
    assert np.array_equal(other.run(state)["prediction"], expected)
    other.bind({"condition": second["condition"]})
    assert not np.array_equal(other.run(state)["prediction"], expected)
    assert np.array_equal(head.run(first)["prediction"], expected)


def test_results_are_the_callers_own(head: OrtEngine) -> None:
    first = head.run(_inputs(3))["prediction"]
    kept = first.copy()
    head.run(_inputs(3, seed=1))
    assert np.array_equal(first, kept)


def test_what_is_bound_does_not_change_with_the_callers_array(head: OrtEngine) -> None:
    inputs = _inputs(3)
    expected = head.run(inputs)["prediction"]
    condition = inputs.pop("condition")
    head.bind({"condition": condition})
    condition[:] = 0
    assert np.array_equal(head.run(inputs)["prediction"], expected)


def test_sizes_may_change_between_runs(head: OrtEngine) -> None:
    for samples in (3, 1, 7, 3):
        found = head.run(_inputs(samples))["prediction"]
        assert found.shape == (samples, 4)
        assert np.array_equal(found, head.clone().run(_inputs(samples))["prediction"])


def test_an_input_is_taken_from_either_place_at_every_run(head: OrtEngine) -> None:
    """An engine's output and a host array may take turns: neither is left from the run before."""
    other, inputs = head.clone(), _inputs(2)
    for seed in (0, 1):
        condition = _inputs(2, seed)["condition"]
        expected = head.clone().run({**inputs, "condition": condition})["prediction"]
        assert np.array_equal(head.run({**inputs, "condition": condition})["prediction"], expected)
        there = other.run_on_device(_inputs(2, seed))["prediction"]  # as wide as a condition
        expected = head.clone().run({**inputs, "condition": there.numpy()})["prediction"]
        assert np.array_equal(head.run({**inputs, "condition": there})["prediction"], expected)


def test_an_output_on_the_device_feeds_another_engine(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    low, head = (load_engine(bundle, name, CPU, 1) for name in ("dit_head", "dit_head"))
    random = np.random.default_rng(0)
    x = random.standard_normal((2, 16, 2)).astype(np.float32)
    condition = random.standard_normal((2, 16, 4)).astype(np.float32)
    time = np.array([3])
    there = low.run_on_device({"x": x, "timestep": time, "condition": condition})["prediction"]
    assert there.shape == (2, 16, 2)
    here = there.numpy()
    direct = head.run({"x": there, "timestep": time, "condition": condition})["prediction"]
    assert np.array_equal(direct, head.run({"x": here, "timestep": time, "condition": condition})["prediction"])


def test_outputs_of_sizes_only_the_engine_knows(bundle_path: Path) -> None:
    decoder = load_engine(Bundle.open(bundle_path), "vae_decoder", CPU, None)
    for side in (2, 4, 4):
        latent = np.random.default_rng(0).standard_normal((1, 2, side, side)).astype(np.float32)
        first = decoder.run({"latent": latent})["image"]
        assert first.shape == (1, 3, 4 * side, 4 * side)
        assert not np.array_equal(first, decoder.run({"latent": -latent})["image"])
        assert np.array_equal(first, decoder.run({"latent": latent})["image"])


def test_half_precision_tensors_are_cast_on_the_way_in_and_out(tmp_path: Path) -> None:
    text = '<ir_version: 10, opset_import: ["": 20]> g (float16[n] x) => (float16[n] y) { y = Add(x, x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "half.onnx")
    spec = ComponentSpec(
        name="half",
        file="half.onnx",
        precision="fp16",
        inputs=(TensorSpec("x", "float16", ("n",)),),
        outputs=(TensorSpec("y", "float16", ("n",)),),
        profile={},
        backend="onnxruntime",
        engine_file="half.onnx",
    )
    y = OrtEngine.load(tmp_path / "half.onnx", spec, CPU, None).run({"x": np.float32([0.1])})["y"]
    assert y.dtype == np.float32
    assert y[0] == 2 * np.float32(np.float16(0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((3, 5), np.float32)}, r"mlp_head: input x has shape \(3, 5\)"),
        ({"x": np.zeros(3, np.float32)}, r"mlp_head: input x has shape \(3,\)"),
        ({"condition": np.zeros((2, 4), np.float32)}, r"input condition has shape \(2, 4\)"),
        ({"y": np.zeros(3)}, "mlp_head has no input 'y'; it has x, timestep, condition"),
    ],
)
def test_wrong_inputs_are_named(head: OrtEngine, change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        head.run({**_inputs(3), **change})


def test_missing_inputs_are_named(head: OrtEngine) -> None:
    with pytest.raises(EngineError, match=r"mlp_head: inputs missing: \['condition', 'timestep'\]"):
        head.clone().run({"x": np.zeros((1, 2), np.float32)})


def test_an_engine_that_fails_while_running_is_named(bundle_path: Path) -> None:
    engine = load_engine(Bundle.open(bundle_path), "transformer_low", CPU, 1)
    with pytest.raises(EngineError, match=r"transformer_low failed on cpu: .*"):
        engine.run(
            {
                "class_row": np.array([99]),
                "low_tokens": np.zeros((1, 4, 2), np.float32),
                "visible": np.array([[0, 1]]),
                "sources": np.zeros((1, 22), np.int64),
            }
        )


def test_a_model_that_does_not_load_is_named(make_bundle, edit_manifest) -> None:
    path = make_bundle()
    (path / "mlp_head.onnx").write_bytes(b"no model")
    entry = {"sha256": hashlib.sha256(b"no model").hexdigest(), "bytes": 8}
    edit_manifest(path, lambda manifest: manifest["files"].update({"mlp_head.onnx": entry}))
    with pytest.raises(EngineError, match=r"mlp_head does not load on cpu with ONNX Runtime 1\.\d+"):
        load_engine(Bundle.open(path), "mlp_head", CPU, None)


def test_onnxruntime_that_is_not_installed(bundle_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=r"not installed here; pip install onnxruntime"):
        load_engine(Bundle.open(bundle_path), "mlp_head", CPU, None)


def test_cuda_without_the_provider_says_what_to_install(bundle_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match=r"cuda:0 .* pip uninstall onnxruntime; pip install onnxruntime-gpu==1"):
        load_engine(Bundle.open(bundle_path), "mlp_head", Device.parse("cuda"), None)


def test_another_backend_is_refused(make_bundle: Callable[..., Path], edit_manifest) -> None:
    path = make_bundle()
    change = {"backend": "openvino", "file": "mlp_head.onnx"}
    edit_manifest(path, lambda manifest: manifest["components"]["mlp_head"].update(engine=change))
    with pytest.raises(EngineError, match=r"mlp_head .* an engine for 'openvino', which this himar does not know"):
        load_engine(Bundle.open(path), "mlp_head", CPU, None)


def test_a_tensorrt_engine_on_the_cpu_is_refused_and_its_graph_runs_when_asked(
    make_bundle: Callable[..., Path], edit_manifest
) -> None:
    path = make_bundle()
    change = {"backend": "tensorrt", "file": "mlp_head.onnx"}
    edit_manifest(path, lambda manifest: manifest["components"]["mlp_head"].update(engine=change))
    bundle = Bundle.open(path)
    with pytest.raises(EngineError, match=r"engine for tensorrt, which needs an NVIDIA GPU; .* backend 'onnxruntime'"):
        load_engine(bundle, "mlp_head", CPU, None)
    assert load_engine(bundle, "mlp_head", CPU, None, backend="onnxruntime").spec.name == "mlp_head"
    with pytest.raises(EngineError, match=r"has an engine for 'tensorrt', not for 'tensorrt-rtx'"):
        load_engine(bundle, "mlp_head", CPU, None, backend="tensorrt-rtx")


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "cpu:0", "", None, 0])
def test_a_device_that_is_none_is_refused(text: object) -> None:
    with pytest.raises(EngineError, match=r"device is .*; it must be 'cpu', 'cuda' or 'cuda:N'"):
        Device.parse(text)  # type: ignore[arg-type]


def test_devices_are_read() -> None:
    assert Device.parse("cuda") == Device.parse("cuda:0") == Device("cuda", 0)
    assert str(Device.parse("cuda:3")) == "cuda:3"
    assert str(Device.parse("cpu")) == "cpu"


def test_the_default_of_threads_is_what_the_process_was_given(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_path)
    for cores, cpus, wanted in ((1, 2, 1), (3, 4, 3), (4, 4, 0)):  # 0: ONNX Runtime's own choice
        monkeypatch.setattr(ort_session, "default_threads", lambda cores=cores: cores)
        monkeypatch.setattr(os, "cpu_count", lambda cpus=cpus: cpus)
        engine = load_engine(bundle, "mlp_head", CPU, None)
        assert engine._session.get_session_options().intra_op_num_threads == wanted  # type: ignore[attr-defined]


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_must_be_a_count(bundle_path: Path, threads: object) -> None:
    with pytest.raises(InputError, match=r"threads is .* at least 1"):
        load_engine(Bundle.open(bundle_path), "mlp_head", CPU, threads)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="ONNX Runtime has no CUDA here"
)
def test_the_gpu_gives_the_cpus_numbers(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    inputs = _inputs(5)
    expected = load_engine(bundle, "mlp_head", CPU, 1).run(inputs)["prediction"]
    engine = load_engine(bundle, "mlp_head", Device.parse("cuda:0"), None)
    engine.bind({"condition": inputs.pop("condition")})
    for _ in range(2):
        assert_near(engine.run(inputs)["prediction"], expected, 1e-4)


def test_a_file_that_is_no_library_of_operators_is_named(monkeypatch, tmp_path):
    file = tmp_path / "mine.so"
    file.write_bytes(b"no library")
    monkeypatch.setenv(VARIABLE, str(file))
    with pytest.raises(EngineError, match=r"cannot load \S*mine\.so \(.*set HIMAR_FUSED_LIBRARY to nothing"):
        use_fused_operators(onnxruntime.SessionOptions())


@pytest.mark.parametrize(("value", "wanted"), [(None, False), ("", False), ("0", False), ("1", True)])
def test_runs_are_recorded_where_the_variable_says_so(monkeypatch, value, wanted) -> None:
    monkeypatch.delenv(GRAPHS_VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(GRAPHS_VARIABLE, value)
    assert records_graphs() is wanted


def test_a_variable_that_says_neither_is_named(monkeypatch) -> None:
    monkeypatch.setenv(GRAPHS_VARIABLE, "yes")
    with pytest.raises(InputError, match=r"^HIMAR_ORT_GRAPHS is 'yes'; it must be 1 to record .* or 0\.$"):
        records_graphs()


class Sessions:
    """ONNX Runtime for CUDA as far as options go: notes those of each session, and may refuse to record."""

    def __init__(self, refusal: str | None) -> None:
        self.refusal, self.made = refusal, []

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def preload_dlls(self) -> None:
        pass

    def InferenceSession(self, path, options, providers):  # noqa: N802
        self.made.append(providers[0][1].get("enable_cuda_graph"))
        if self.made[-1] and self.refusal:
            raise RuntimeError(self.refusal)
        return "session"


def _loaded(sessions: Sessions, head: OrtEngine, lane: object) -> object:
    return _load(sessions, Path("x.onnx"), None, head.spec, Device("cuda"), lane)  # type: ignore[arg-type]


def test_only_sessions_of_a_lane_record_and_only_where_asked(monkeypatch, head) -> None:
    lane = SimpleNamespace(stream=7)
    for value, given, expected in (("1", lane, "1"), ("1", None, None), ("0", lane, None)):
        monkeypatch.setenv(GRAPHS_VARIABLE, value)
        sessions = Sessions(None)
        assert _loaded(sessions, head, given) == "session"
        assert sessions.made == [expected]


def test_a_graph_that_cannot_be_recorded_as_a_whole_runs_without(monkeypatch, head, caplog) -> None:
    monkeypatch.setenv(GRAPHS_VARIABLE, "1")
    sessions = Sessions(
        "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested"
    )
    assert _loaded(sessions, head, SimpleNamespace(stream=7)) == "session"
    assert sessions.made == ["1", None]
    assert "mlp_head runs without CUDA graphs: [ONNXRuntimeError] : 1 : FAIL" in caplog.text
    with pytest.raises(RuntimeError, match="no such file"):
        _loaded(Sessions("no such file"), head, SimpleNamespace(stream=7))


class Noting:
    """A session whose runs note the number under which they are recorded; `fails` are numbers that cannot be."""

    def __init__(self, session, fails: tuple[int, ...] = ()) -> None:
        self._session, self.fails, self.numbers = session, fails, []

    def io_binding(self):
        return self._session.io_binding()

    def run_with_iobinding(self, binding, options) -> None:
        self.numbers.append(int(options.get_run_config_entry("gpu_graph_id")))
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        if self.numbers[-1] in self.fails:
            raise RuntimeError("a recording failed")
        self._session.run_with_iobinding(binding, options)


class Lane:
    abandoned = 0

    def abandon(self) -> None:
        self.abandoned += 1


def _placed(head: OrtEngine, samples: int) -> tuple[dict[str, np.ndarray], dict[str, DeviceTensor]]:
    arrays = {**_inputs(samples), "prediction": np.zeros((samples, 4), np.float32)}
    return arrays, {name: DeviceTensor(array.ctypes.data, array.shape) for name, array in arrays.items()}


def test_a_run_is_recorded_the_third_time_at_its_places(head) -> None:
    """Under a number of its own, which the lanes of a session share out among them."""
    session, numbers = Noting(head._session), GraphNumbers(3)
    lanes = [PlacedRuns(session, head.spec, CPU, nullcontext(), numbers, None) for _ in range(2)]
    kept = [_placed(head, samples) for samples in (3, 5, 3, 4)]
    for lane, (arrays, places) in zip((lanes[0], lanes[0], lanes[1], lanes[1]), kept, strict=True):
        for _ in range(4):
            arrays["prediction"][:] = 0
            lane.enqueue(places)
            np.testing.assert_array_equal(arrays["prediction"], head.run(_inputs(len(arrays["x"])))["prediction"])
    one, two, three, none = (session.numbers[4 * place : 4 * place + 4] for place in range(4))
    assert (one, two, three) == ([-1, -1, 1, 1], [-1, -1, 2, 2], [-1, -1, 3, 3])
    assert none == [-1, -1, -1, -1]  # there are three numbers


def test_a_recording_that_fails_is_the_last(head, caplog) -> None:
    session, lane = Noting(head._session, fails=(1,)), Lane()
    runs = PlacedRuns(session, head.spec, CPU, nullcontext(), GraphNumbers(9), lane)  # type: ignore[arg-type]
    (arrays, places), (_, others) = kept = _placed(head, 3), _placed(head, 5)
    for _ in range(4):
        runs.enqueue(places)
    np.testing.assert_array_equal(arrays["prediction"], head.run(_inputs(3))["prediction"])
    for _ in range(4):
        runs.enqueue(others)
    assert session.numbers == [-1, -1, 1, -1, -1, -1, -1, -1, -1]
    assert lane.abandoned == 1
    assert caplog.text.count("mlp_head runs without CUDA graphs from here on: a recording failed") == 1
    assert len(kept) == 2


def test_a_run_that_fails_by_itself_is_an_error(head) -> None:
    runs = PlacedRuns(Noting(head._session, fails=(-1,)), head.spec, CPU, nullcontext(), GraphNumbers(9), None)
    _, places = kept = _placed(head, 3)
    with pytest.raises(RuntimeError, match="a recording failed"):
        runs.enqueue(places)
    assert len(kept) == 2


def test_without_operators_half_precision_says_once_how_to_get_them(monkeypatch, caplog, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr("himar_kernels.build.fused_library.library_path", lambda: tmp_path / "none.so")
    _say_once.cache_clear()
    for _ in range(2):
        use_fused_operators(onnxruntime.SessionOptions())
    assert caplog.text.count("himar_kernels.build.fused") == 1


def test_who_switched_operators_off_is_told_nothing(monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, "")
    _say_once.cache_clear()
    use_fused_operators(onnxruntime.SessionOptions())
    assert not caplog.text
