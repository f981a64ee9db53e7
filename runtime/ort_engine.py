"""Engines that ONNX Runtime runs, on the CPU or on a GPU, with inputs and outputs that stay on the device."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import EngineError, InputError

from .engine import Device, DeviceArray, Tensor, first_line, resolve_axes, resolved_shape
from .manifest import ComponentSpec
from .ort_placed import PlacedRuns
from .resident.device import Placed

if TYPE_CHECKING:
    from .cuda.device import CudaDevice

log = logging.getLogger(__name__)

_ERRORS_ONLY = 3


@dataclass(frozen=True)
class OrtArray:
    """An OrtValue on the engine's device; `host` is its memory where that is the CPU's and the engine's own."""

    value: Any
    dtype: str
    device: Device
    shape: tuple[int, ...]
    host: NDArray[Any] | None = None

    def numpy(self) -> NDArray[Any]:
        """Return a copy on the host, float32 for any float."""
        on_cpu = self.device.kind == "cpu"  # then the value's own array is a view of the engine's buffer
        array = self.value.numpy() if self.host is None else self.host
        return array.astype(np.float32 if self.dtype.startswith("float") else array.dtype, copy=on_cpu)


class OrtEngine:
    """An ONNX Runtime session with its own binding: see `Engine` for the methods' contract.

    Bound inputs and outputs keep their device buffers between runs while their shapes stay the same.
    """

    def __init__(
        self,
        session: Any,
        spec: ComponentSpec,
        device: Device,
        lock: threading.Lock | None = None,
        lane: CudaDevice | None = None,
    ) -> None:
        """lock: of the session, when other engines share it; lane: whose stream the session works on."""
        self._session = session
        self._lock = lock or threading.Lock()
        self._placed = PlacedRuns(session, spec, device, self._lock)
        self._spec = spec
        self._device = device
        self._binding = session.io_binding()
        self._dtypes = {tensor.name: tensor.dtype for tensor in spec.inputs}
        self._inputs: dict[str, OrtArray] = {}
        self._uploads: dict[str, OrtArray] = {}
        self._outputs: dict[str, OrtArray] = {}
        self._reshaped = True
        self._lane = lane  # last, so that it outlives the session, whose stream is the lane's

    @classmethod
    def load(
        cls, path: Path, spec: ComponentSpec, device: Device, threads: int | None, lane: CudaDevice | None = None
    ) -> OrtEngine:
        """Create the session.

        Args:
            threads: of one operator on the CPU; None leaves it to ONNX Runtime.
            lane: the GPU lane on whose stream the session queues its work; None gives it streams of its own.

        Raises EngineError: ONNX Runtime is absent or lacks CUDA, no such GPU, the model does not load.
        """
        if spec.precision == "bf16" and device.kind == "cpu":
            raise EngineError(
                f"{spec.name} is in bfloat16, which ONNX Runtime cannot run on the CPU; load the bundle on 'cuda', "
                f"or build it with --fp16 or --fp32."
            )
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        # Idle threads of one engine must not spin while the next engine, or the host between two runs, computes.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = check_threads(threads)
        try:
            session = ort.InferenceSession(path, options, providers=_providers(ort, device, lane))
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
        log.debug("loaded %s on %s", spec.name, device)
        return cls(session, spec, device, lane=lane)

    @property
    def spec(self) -> ComponentSpec:
        """The component's tensors."""
        return self._spec

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """See Engine.bind."""
        for name, tensor in inputs.items():
            if name not in self._dtypes:
                raise EngineError(f"{self._spec.name} has no input {name!r}; it has {', '.join(self._dtypes)}.")
            array, before = self._on_device(name, tensor), self._inputs.get(name)
            if array is before:
                continue
            self._reshaped |= before is None or array.shape != before.shape
            self._inputs[name] = array
            self._binding.bind_ortvalue_input(name, array.value)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """See Engine.run."""
        return {name: array.numpy() for name, array in self.run_on_device(inputs).items()}

    def run_on_device(self, inputs: Mapping[str, Tensor]) -> Mapping[str, DeviceArray]:
        """See Engine.run_on_device."""
        self.bind(inputs)
        if self._reshaped:
            axes = resolve_axes(self._spec, {name: array.shape for name, array in self._inputs.items()})
            self._outputs.clear()
            for tensor in self._spec.outputs:
                self._prepare_output(tensor.name, tensor.dtype, resolved_shape(tensor, axes))
            self._reshaped = False
        try:
            # Engines that share a stream also share the libraries' handles on it.
            with self._lock if self._lane is not None else contextlib.nullcontext():
                self._session.run_with_iobinding(self._binding)
        except Exception as error:
            raise EngineError(f"{self._spec.name} failed on {self._device}: {first_line(error)}") from error
        if len(self._outputs) == len(self._spec.outputs):
            return dict(self._outputs)
        values = zip(self._spec.outputs, self._binding.get_outputs(), strict=True)  # the session alone knew some shapes
        return {
            tensor.name: OrtArray(value, tensor.dtype, self._device, tuple(value.shape())) for tensor, value in values
        }

    def clone(self, lane: CudaDevice | None = None) -> OrtEngine:
        """See Engine.clone. The session stays on its stream, so `lane` must share that."""
        return OrtEngine(self._session, self._spec, self._device, self._lock, self._lane)

    @property
    def recordable(self) -> str | None:
        """See ResidentEngine.recordable."""
        return "ONNX Runtime's runs are not recorded in graphs of ours"

    def enqueue(self, tensors: Mapping[str, Placed]) -> None:
        """See ResidentEngine.enqueue."""
        try:
            self._placed.enqueue(tensors)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"{self._spec.name} failed on {self._device}: {first_line(error)}") from error

    def finish(self) -> None:
        """See ResidentEngine.finish: nothing was compiled."""

    def _on_device(self, name: str, tensor: Tensor) -> OrtArray:
        dtype = self._dtypes[name]
        if isinstance(tensor, OrtArray) and (tensor.dtype, tensor.device) == (dtype, self._device):
            return tensor
        host = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
        upload = self._uploads.get(name)
        if upload is None or upload.shape != host.shape:
            self._uploads[name] = upload = self._allocate(host.shape, dtype)
        if upload.host is not None:
            np.copyto(upload.host, host, casting="unsafe")
        else:
            upload.value.update_inplace(np.ascontiguousarray(host, dtype))
        return upload

    def _prepare_output(self, name: str, dtype: str, shape: tuple[int, ...] | None) -> None:
        if shape is None:
            self._binding.bind_output(name, self._device.kind, self._device.index)
            return
        self._outputs[name] = buffer = self._allocate(shape, dtype)
        self._binding.bind_ortvalue_output(name, buffer.value)

    def _allocate(self, shape: tuple[int, ...], dtype: str) -> OrtArray:
        """Return a buffer on the device. On the CPU it is NumPy's memory, written and read without the session."""
        values = _onnxruntime().OrtValue
        if self._device.kind == "cpu":
            host = np.empty(shape, dtype)
            return OrtArray(values.ortvalue_from_numpy(host), dtype, self._device, shape, host)
        kind, index = self._device.kind, self._device.index
        value = values.ortvalue_from_shape_and_type(shape, np.dtype(dtype).type, kind, index)
        return OrtArray(value, dtype, self._device, shape)


def check_threads(threads: int) -> int:
    """Return a number of CPU threads, at least 1, or raise InputError."""
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads is {threads!r}; it must be a whole number of at least 1, or None.")
    return threads


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "this bundle runs on ONNX Runtime, which is not installed here; pip install onnxruntime (CPU) or "
            "pip install onnxruntime-gpu==1.31.0 (NVIDIA GPU)."
        ) from error
    return onnxruntime


def _providers(ort: ModuleType, device: Device, lane: CudaDevice | None) -> list[Any]:
    if device.kind == "cpu":
        return ["CPUExecutionProvider"]
    available = ort.get_available_providers()
    if "CUDAExecutionProvider" not in available:
        raise EngineError(
            f"device {device} needs ONNX Runtime with CUDA, but the installed {ort.__version__} only has "
            f"{', '.join(available)}; pip uninstall onnxruntime; pip install onnxruntime-gpu==1.31.0"
        )
    ort.preload_dlls()
    # float32 must mean float32: TF32 products would miss the model's numbers by a thousand times more.
    cuda: dict[str, Any] = {"device_id": device.index, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
    if lane is not None:
        cuda |= {"has_user_compute_stream": "1", "user_compute_stream": str(lane.stream)}
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]
