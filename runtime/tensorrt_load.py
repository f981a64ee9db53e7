"""From an engine file to an engine of TensorRT, after checking that this GPU and this library can run it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from himar_kernels import EngineError

from .specs import BackendInfo, ComponentSpec
from .tensorrt_contexts import Loaded
from .tensorrt_jit import JitCache
from .tensorrt_library import collected_errors, first_error, library_logger, library_version


def check_fit(name: str, built: BackendInfo, library: ModuleType, capability: tuple[int, int]) -> None:
    """Raise EngineError unless engines `built` so run with this library on a GPU of this compute capability.

    name: of the component, for the message. A library of another version runs only version-compatible engines.
    """
    version = library_version(library)
    lean = library.__name__ == "tensorrt_lean"
    if not built.version_compatible and (lean or version != built.version):
        raise EngineError(
            f"the engine of {name} needs {built.name} {built.version}, which built it, but {library.__name__} "
            f"{version} is installed here; install that, or build the bundle again with this one (for any later one, "
            f"with --version-compatible)."
        )
    here = f"{capability[0]}.{capability[1]}"
    if built.compute_capability not in (None, here):
        _refuse(name, f"compute capability {built.compute_capability} alone", here)
    if built.compute_capabilities is not None and here not in built.compute_capabilities:
        _refuse(name, f"compute capabilities {', '.join(built.compute_capabilities)}", here)
    if built.least_compute_capability is not None and capability < _parsed(built.least_compute_capability):
        _refuse(name, f"compute capability {built.least_compute_capability} and later", here)


def load_engine_file(
    path: Path, spec: ComponentSpec, built: BackendInfo, library: ModuleType, capability: tuple[int, int]
) -> Loaded:
    """Return the engine in a file, for a GPU of this compute capability.

    Raises EngineError when TensorRT refuses the file, with its own reason, or when the file is of another component.
    """
    runtime = library.Runtime(library_logger(library))
    if built.version_compatible:
        # Such an engine carries host code, the runtime of the version that built it: load only bundles you trust.
        runtime.engine_host_code_allowed = True
    with collected_errors(library) as errors:
        content = path.read_bytes()
        engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(
            f"{path} does not load with {library.__name__} {library_version(library)}: {first_error(errors)}; "
            f"build the bundle again on this machine."
        )
    _check_tensors(path, spec, engine)
    jit = JitCache.of(library, engine, content, capability)
    return Loaded(library, runtime, engine, spec, jit, threading.Lock())


def _check_tensors(path: Path, spec: ComponentSpec, engine: Any) -> None:
    found = {engine.get_tensor_name(number) for number in range(engine.num_io_tensors)}
    wanted = {tensor.name for tensor in (*spec.inputs, *spec.outputs)}
    if found != wanted:
        raise EngineError(
            f"{path} has the tensors {', '.join(sorted(found))}, but {spec.name} has {', '.join(sorted(wanted))}; "
            f"build the bundle again."
        )
    for tensor in (*spec.inputs, *spec.outputs):
        dtype = engine.get_tensor_dtype(tensor.name).name
        if dtype != _DTYPES[tensor.dtype]:
            raise EngineError(
                f"{tensor.name} in {path} is {dtype}, but the manifest says {tensor.dtype}; build the bundle again."
            )


_DTYPES = {"float32": "FLOAT", "float16": "HALF", "int64": "INT64"}


def _parsed(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor or 0)


def _refuse(name: str, built_for: str, here: str) -> None:
    raise EngineError(
        f"the engine of {name} was built for GPUs of {built_for}, but this one has {here}; build the bundle again on "
        f"this machine, or with the backend onnxruntime, whose engines run on any GPU."
    )
