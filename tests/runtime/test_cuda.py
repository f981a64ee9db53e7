"""CUDA's calls as far as they go without a GPU: kernels compiled by NVRTC, arguments taken, refusals in sentences."""

from __future__ import annotations

import shutil
import sys
import threading
import types

import numpy as np
import pytest

from himar_kernels import EngineError, Launch
from himar_kernels.build.sources import COMPILE_OPTIONS, KERNEL_NAMES, cubin_name
from himar_kernels.families.hi_mar import launches
from himar_runtime import Device, Pipeline
from himar_runtime.cache import keep
from himar_runtime.engines.networks import open_lane
from himar_runtime.queue.cuda import program
from himar_runtime.queue.cuda.device import CudaDevice
from himar_runtime.queue.cuda.driver import call, compute_capability, driver_api, runtime_api

pytest.importorskip("cuda.bindings", reason="needs cuda-python: pip install 'himar[kernels]'")
without_gpu = pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="checks what is said without a GPU")


@without_gpu
def test_a_gpu_that_is_not_there_is_refused_in_a_sentence() -> None:
    with pytest.raises(EngineError, match=r"^cuda:3 is not a GPU that can be used here: CUDA's .* use device 'cpu'\.$"):
        compute_capability(Device("cuda", 3))
    with pytest.raises(EngineError, match="cuda:0 is not a GPU"):
        CudaDevice(0)


@without_gpu
def test_a_pipeline_on_a_missing_gpu_says_so(bundle_path) -> None:
    with pytest.raises(EngineError, match="cuda:0"):
        Pipeline.load(bundle_path, device="cuda")


@without_gpu
def test_where_kernels_cannot_be_launched_onnxruntime_goes_on_and_tensorrt_does_not(caplog) -> None:
    assert open_lane(Device("cuda"), {"onnxruntime"}) is None
    assert "the loop runs on the host, not on cuda:0: cuda:0 is not a GPU that can be used here" in caplog.text
    with pytest.raises(EngineError, match="cuda:0 is not a GPU that can be used here"):
        open_lane(Device("cuda"), {"tensorrt-rtx"})
    assert open_lane(Device("cpu"), {"onnxruntime"}) is None


def _unopened() -> CudaDevice:
    """A lane as it is after its constructor, which cannot finish without a GPU."""
    lane = object.__new__(CudaDevice)
    lane._cudart, lane.device, lane.stream, lane.shared = runtime_api(), Device("cuda", 0), 0, False
    lane._addresses, lane._scratch, lane._reserved, lane._lender = [], (0, 0), 64, None
    lane.queue = threading.RLock()

    class Functions:
        def function(self, name: str):
            return driver_api().CUfunction(0)

    lane._kernels = Functions()
    return lane


CUBIN = b"\x7fELF, compiled kernels"
LAUNCH = launches.check_finite(values=256, count=9, state=512, fault=768, component=2)


@without_gpu
@pytest.mark.parametrize(
    "use",
    [
        lambda lane: lane.make_current(),
        lambda lane: lane.upload(256, np.zeros(3, np.float32)),
        lambda lane: lane.download(256, np.zeros(3, np.float32)),
        lambda lane: lane.copy(256, 512, 8),
        lambda lane: lane.clear(256, 8),
        lambda lane: lane.launch(LAUNCH),
        lambda lane: lane.synchronize(),
        lambda lane: lane.mark(),
        lambda lane: lane.record(lambda: None),
        lambda lane: lane.allocate(8),
    ],
)
def test_every_call_is_one_that_cuda_takes(use) -> None:
    """Wrong arguments would be a TypeError; these get as far as the missing driver."""
    with pytest.raises(EngineError, match=r"InsufficientDriver|driver"):
        use(_unopened())


@without_gpu
@pytest.mark.parametrize("name", ["cudaEventRecord", "cudaEventSynchronize", "cudaEventDestroy", "cudaGraphLaunch"])
def test_calls_on_handles_take_what_the_calls_before_them_give(name: str) -> None:
    cudart = runtime_api()
    handles = {"cudaGraphLaunch": (cudart.cudaGraphExec_t(), 0), "cudaEventRecord": (cudart.cudaEvent_t(), 0)}
    with pytest.raises(EngineError, match=name):
        call(getattr(cudart, name), *handles.get(name, (cudart.cudaEvent_t(),)))
    with pytest.raises(EngineError, match="cudaGraphInstantiate"):
        call(cudart.cudaGraphInstantiate, cudart.cudaGraph_t(), 0)


class Calls:
    """CUDA's APIs, noting which calls were made; none fails, and those that make a handle give one."""

    HANDLES = ("cudaEventCreateWithFlags", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaMalloc")

    def __init__(self) -> None:
        self.made: list[str] = []
        self.recording = runtime_api().cudaStreamCaptureStatus.cudaStreamCaptureStatusNone

    def __getattr__(self, name: str):
        real = getattr(runtime_api(), name, None)
        if isinstance(real, type):
            return real

        def called(*arguments):
            self.made.append(name)
            if name == "cudaStreamIsCapturing":
                return 0, self.recording
            return (0, 256) if name in self.HANDLES else (0,)

        return called


@pytest.fixture
def lane_and_calls(monkeypatch) -> tuple[CudaDevice, Calls]:
    lane, calls = _unopened(), Calls()
    lane._cudart = calls
    monkeypatch.setattr("himar_runtime.queue.cuda.device.driver_api", lambda: calls)
    return lane, calls


@pytest.mark.parametrize("use", ["launch", "clear", "copy", "upload", "allocate", "mark", "replay"])
def test_while_a_lane_records_no_other_queues_on_its_stream(use: str, lane_and_calls) -> None:
    """What another lane queued meanwhile would become part of the graph."""
    lane, calls = lane_and_calls
    other = _unopened()
    other.queue, other._cudart = lane.queue, calls
    ways = {
        "launch": lambda: other.launch(LAUNCH),
        "clear": lambda: other.clear(256, 8),
        "copy": lambda: other.copy(256, 512, 8),
        "upload": lambda: other.upload(256, np.zeros(3, np.float32)),
        "allocate": lambda: other.allocate(8),
        "mark": other.mark,
        "replay": other.record(lambda: None),
    }
    started, ended = threading.Event(), threading.Event()

    def meanwhile() -> None:
        started.set()
        ways[use]()
        ended.set()

    thread = threading.Thread(target=meanwhile)

    def enqueue() -> None:
        calls.made.clear()
        thread.start()
        assert started.wait(5)
        assert not ended.wait(0.1)
        assert set(calls.made) <= {"cudaEventCreateWithFlags"}  # which is not on the stream

    lane.record(enqueue)
    thread.join(5)
    assert ended.is_set()
    queued = [name for name in calls.made if name != "cudaEventCreateWithFlags"]
    assert queued[0] == "cudaStreamEndCapture" and len(queued) > 3


def test_a_lane_waits_without_keeping_others_from_the_stream(lane_and_calls) -> None:
    lane, calls = lane_and_calls
    taken: list[bool] = []

    def try_the_lock(*_):
        thread = threading.Thread(target=lambda: taken.append(lane.queue.acquire(timeout=1)))
        thread.start()
        thread.join()
        return (0,)

    calls.cudaEventSynchronize = try_the_lock
    lane.synchronize()
    assert taken == [True]


def test_a_recording_that_failed_is_ended_before_the_stream_is_used_again(lane_and_calls) -> None:
    lane, calls = lane_and_calls
    lane.abandon()
    assert "cudaStreamEndCapture" not in calls.made
    calls.recording = runtime_api().cudaStreamCaptureStatus.cudaStreamCaptureStatusInvalidated
    with pytest.raises(EngineError, match="no such shape"):
        lane.record(lambda: (_ for _ in ()).throw(EngineError("no such shape")))
    assert calls.made[-4:] == ["cudaStreamIsCapturing", "cudaStreamEndCapture", "cudaGraphDestroy", "cudaGetLastError"]


@pytest.mark.parametrize("architecture", ["80", "90a", "120"])
def test_nvrtc_compiles_every_kernel(architecture: str) -> None:
    cubin = program.compile_kernels(architecture)
    assert cubin[:4] == b"\x7fELF"
    assert all(name.encode() in cubin for name in KERNEL_NAMES)


def test_an_architecture_that_the_compiler_lacks_is_a_sentence() -> None:
    with pytest.raises(EngineError, match=r"^NVRTC does not compile the kernels for sm_12: nvrtc: error"):
        program.compile_kernels("12")


def test_kernels_are_compiled_once_and_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled: list[str] = []
    monkeypatch.setattr(program, "Kernels", lambda cubin: cubin)
    monkeypatch.setattr(program, "compile_kernels", lambda arch: compiled.append(arch) or CUBIN)
    monkeypatch.setattr(program, "compiled_directory", lambda: tmp_path / "compiled")
    load = program.load_kernels.__wrapped__
    assert load((9, 0)) == load((9, 0)) == CUBIN
    assert compiled == ["90"]
    assert load((8, 9)) == CUBIN
    assert compiled == ["90", "89"]
    kept = {path.name for path in (tmp_path / "himar" / "kernels").iterdir()}
    assert kept == {cubin_name("90"), cubin_name("89")}
    ahead = tmp_path / "compiled" / cubin_name("90a")
    ahead.parent.mkdir(parents=True)
    ahead.write_bytes(CUBIN + b"ahead of time")
    assert load((9, 0)) == CUBIN + b"ahead of time"
    assert COMPILE_OPTIONS


def test_kept_kernels_that_are_none_are_compiled_again(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(program, "Kernels", lambda cubin: cubin)
    monkeypatch.setattr(program, "compile_kernels", lambda arch: CUBIN)
    monkeypatch.setattr(program, "compiled_directory", lambda: tmp_path / "compiled")
    kept = tmp_path / "himar" / "kernels" / cubin_name("90")
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert program.load_kernels.__wrapped__((9, 0)) == CUBIN
    assert f"{kept} holds no compiled kernels (0 bytes)" in caplog.text
    assert kept.read_bytes() == CUBIN


def test_a_compiler_that_gives_nothing_is_a_sentence(monkeypatch) -> None:
    """Some outputs come back with zero bytes and no error."""

    class Silent(types.SimpleNamespace):
        """NVRTC whose calls all succeed."""

        def __getattr__(self, name: str):
            return lambda *arguments: (0, 0) if name in ("nvrtcCreateProgram", "nvrtcGetCUBINSize") else (0,)

    monkeypatch.setattr("cuda.bindings.nvrtc", Silent(), raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", Silent())
    with pytest.raises(EngineError, match=r"^NVRTC compiled the kernels for sm_90 to 0 bytes that hold no kernels;"):
        program.compile_kernels("90")


def test_an_nvrtc_that_does_not_load_is_not_taken_for_the_driver(monkeypatch) -> None:
    def missing(*arguments):
        raise RuntimeError('Failure finding "libnvrtc.so.13"')

    fake = types.SimpleNamespace(nvrtcCreateProgram=missing)
    monkeypatch.setattr("cuda.bindings.nvrtc", fake, raising=False)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", fake)
    with pytest.raises(EngineError, match=r'whose library does not load here \(Failure finding "libnvrtc.so.13"\)'):
        program.compile_kernels("90")


def test_a_cache_that_cannot_be_written_is_logged_and_leaves_nothing(tmp_path, caplog) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    keep(blocked / "kernels" / "a.cubin", b"x")
    assert "could not be kept" in caplog.text
    keep(tmp_path / "new" / "b.cubin", b"x")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.cubin"]


def test_a_launch_names_a_kernel_that_exists() -> None:
    assert isinstance(LAUNCH, Launch) and LAUNCH.name in KERNEL_NAMES
