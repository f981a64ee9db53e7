"""Opens sessions of ONNX Runtime: chooses their threads on the CPU, and their stream on a GPU."""

from __future__ import annotations

import contextlib
import functools
import logging
import mmap
import os
import re
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from himar_kernels import EngineError, InputError
from himar_kernels.build.fused_library import HOW_TO_COMPILE, VARIABLE, find_library
from himar_kernels.shared.cpu_threads import default_threads
from himar_kernels.shared.interruptions import check_interruption
from himar_runtime.bundle.schema import ComponentSpec

from ..engine import Device, first_line
from .packed import Content, PackedGraph, keeps_packed
from .row_parallel import MOST_WEIGHTS, Workers, shared_rows

if TYPE_CHECKING:
    from himar_runtime.queue.cuda.device import CudaDevice

log = logging.getLogger(__name__)

GRAPHS_VARIABLE = "HIMAR_ORT_GRAPHS"
"""1: sessions record the resident loop's runs in CUDA graphs. Not yet run on a GPU, so nothing else does by itself."""
UNRECORDED = -1
"""The number of a run that its session shall not record."""

LEAST_FP8 = (1, 24)
"""Of ONNX Runtime: the first that rounds to fp8 on the CPU as opset 23 says."""

_ERRORS_ONLY = 3
SPIN_MICROSECONDS = 100
"""How long an idle thread of a session waits for the next operator before it sleeps."""


def create_session(
    path: Path,
    spec: ComponentSpec,
    device: Device,
    threads: int | None,
    lane: CudaDevice | None,
    content: Content | None = None,
) -> tuple[Any, Workers | None]:
    """Load a graph; see `OrtEngine.load`.

    Returns: the session, and the workers that run it on parts of the rows where it has one thread itself, else None.
    """
    if spec.precision == "bf16" and device.kind == "cpu":
        raise EngineError(
            f"{spec.name} is in bfloat16, which ONNX Runtime cannot run on the CPU; load the bundle on 'cuda', "
            f"or build it with --fp16 or --fp32."
        )
    if spec.precision == "int8" and device.kind == "cuda":
        raise EngineError(
            f"{spec.name} is in int8, which is for the CPU only; load the bundle on 'cpu', or build it with --fp16."
        )
    ort = onnxruntime()
    if spec.precision == "fp8" and device.kind == "cpu" and _version(ort) < LEAST_FP8:
        raise EngineError(
            f"{spec.name} is in fp8, which ONNX Runtime {ort.__version__} cannot run on the CPU (it has no "
            f"QuantizeLinear of opset 23); install {LEAST_FP8[0]}.{LEAST_FP8[1]} or later, or build it with --fp16."
        )
    cores = default_threads() if threads is None else check_threads(threads)
    small = spec.weight_bytes is not None and spec.weight_bytes <= MOST_WEIGHTS and shared_rows(spec) is not None
    workers = Workers(cores) if device.kind == "cpu" and small and cores > 1 else None

    def options() -> Any:
        made = _options(ort, 1 if workers is not None else cores, always=workers is not None or threads is not None)
        if device.kind == "cuda" and spec.precision in ("fp16", "bf16", "fp8"):
            use_fused_operators(made)
        return made

    def load(graph: Path, made: Any) -> Any:
        return _load(ort, graph, made, spec, device, lane)

    session = None
    if content is not None and device.kind == "cpu" and keeps_packed():
        packed = PackedGraph.of(ort, content)
        session = packed and packed.session(ort, path, options, load, spec.weight_bytes, content.check)
    if session is None and content is not None:
        content.check()
    try:
        session = session or load(path, options())
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(
            f"{spec.name} does not load on {device} with ONNX Runtime {ort.__version__}: {first_line(error)}"
        ) from error
    if device.kind == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise EngineError(
            f"ONNX Runtime could not use {device} for {spec.name}; check that this GPU exists and "
            f"that CUDA 13 and cuDNN 9 are installed, or use device='cpu'."
        )
    return session, workers


def _options(ort: ModuleType, threads: int, always: bool) -> Any:
    """Return a session's options; always: also where ONNX Runtime's own number of threads is the same."""
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if always or threads < (os.cpu_count() or 1):
        options.intra_op_num_threads = threads  # else ONNX Runtime's own choice, a thread for each physical core
    # To sleep between two operators costs more than most operators; to spin for longer than between two of them
    # would take the core from the next engine, and from the host between two runs.
    spins = _version(ort) >= (1, 26)  # older ones spin for milliseconds
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    return options


def _load(
    ort: ModuleType, path: Path, options: Any, spec: ComponentSpec, device: Device, lane: CudaDevice | None
) -> Any:
    """Return the session; without CUDA graphs, and with a warning, where the graph cannot be recorded as a whole."""
    graphs = lane is not None and records_graphs()
    providers = session_providers(ort, device, lane, graphs)
    try:
        return ort.InferenceSession(path, options, providers=providers)
    except Exception as error:
        if path.is_symlink() and "escapes model directory" in str(error):
            return _load_linked(ort, path, options, providers)
        if not graphs or "graph capture" not in str(error):
            raise
        log.warning("%s runs without CUDA graphs: %s", spec.name, first_line(error))
        return ort.InferenceSession(path, options, providers=session_providers(ort, device, lane))


def _load_linked(ort: ModuleType, path: Path, options: Any, providers: list[Any]) -> Any:
    """Return the session of a graph in the Hub's cache, its weights given in memory.

    ONNX Runtime 1.24 follows the link to the graph, but none to its weights beside it.
    """
    blobs = path.resolve().parent
    links = [
        file
        for file in path.parent.iterdir()
        if file.is_symlink() and file.resolve().parent == blobs and file.stat().st_size
    ]
    with contextlib.ExitStack() as opened:
        buffers = []
        for link in links:
            file = opened.enter_context(link.open("rb"))
            buffers.append(opened.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        options.add_external_initializers_from_files_in_memory(
            [link.name for link in links], buffers, [len(buffer) for buffer in buffers]
        )
        return ort.InferenceSession(path, options, providers=providers)


def records_graphs() -> bool:
    """Return whether runs are to be recorded; InputError where the variable is anything but 0, 1 or empty."""
    value = os.environ.get(GRAPHS_VARIABLE, "")
    if value not in ("", "0", "1"):
        raise InputError(f"{GRAPHS_VARIABLE} is {value!r}; it must be 1 to record runs in CUDA graphs, or 0.")
    return value == "1"


def recorded_by(session: Any) -> bool:
    """Return whether a session records its runs."""
    return bool(session.get_provider_options().get("CUDAExecutionProvider", {}).get("enable_cuda_graph") == "1")


@functools.lru_cache(maxsize=4096)
def run_options(number: int, waits: bool) -> Any:
    """Return the options of runs that are recorded under a number, or not at all; waits: until the run is over."""
    options = onnxruntime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    if not waits:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def use_fused_operators(options: Any) -> None:
    """Let a session run what lies between matmuls in our operators, or say why it will be slower."""
    library = find_library()
    if library is None:
        if os.environ.get(VARIABLE) is None:
            _say_once(f"half precision runs without our fused operators, which are not compiled: {HOW_TO_COMPILE}.")
        return
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        raise EngineError(
            f"ONNX Runtime cannot load {library} ({first_line(error)}); compile it again, or set {VARIABLE} to nothing "
            f"to go without."
        ) from error


@functools.cache
def _say_once(text: str) -> None:
    log.warning(text)


def check_threads(threads: int) -> int:
    """Return a number of CPU threads, at least 1, or raise InputError."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads is {threads!r}; it must be a whole number of at least 1, or None.")
    return threads


def onnxruntime() -> ModuleType:
    """Return the library. Raises EngineError where it is not installed."""
    try:
        import onnxruntime as library
    except ImportError as error:
        check_interruption()  # an import that a signal ended looks like this too
        raise EngineError(
            "this bundle runs on ONNX Runtime, which is not installed here; pip install onnxruntime (CPU) or "
            "pip install onnxruntime-gpu==1.31.0 (NVIDIA GPU)."
        ) from error
    return library


def _version(ort: ModuleType) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", ort.__version__)[:2])


def session_providers(
    ort: ModuleType, device: Device, lane: CudaDevice | None = None, graphs: bool = False
) -> list[Any]:
    """Return what a session on a device runs operators with, first choice first.

    graphs: whether it records CUDA graphs. Raises EngineError where the installed ONNX Runtime has nothing for it.
    """
    if device.kind == "cpu":
        return ["CPUExecutionProvider"]
    available = ort.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        raise EngineError(
            f"device {device} needs ONNX Runtime with CUDA, but the installed {ort.__version__} only has "
            f"{', '.join(available)}; pip uninstall onnxruntime; pip install onnxruntime-gpu==1.31.0"
        )
    ort.preload_dlls()
    # float32 must mean float32: TF32 matmuls would miss the model's numbers by a thousand times more.
    cuda: dict[str, Any] = {"device_id": device.index, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
    if lane is not None:
        cuda |= {"has_user_compute_stream": "1", "user_compute_stream": str(lane.stream)}
    if graphs:
        cuda["enable_cuda_graph"] = "1"
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
