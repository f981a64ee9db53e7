"""Puts new weights into a built engine. The engine has to be opened, and that takes its GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from himar_kernels import BuildError
from himar_runtime.engines.tensorrt.library import collected_errors, first_error, library_logger

_DATA_TYPES = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
    onnx.TensorProto.INT64: "INT64",
}


@dataclass(frozen=True)
class NamedWeight:
    """A weight's bytes as TensorRT takes them. dtype: name of a TensorRT DataType; count: of its elements."""

    dtype: str
    count: int
    data: NDArray[np.uint8]

    def to_weights(self, library: ModuleType) -> Any:
        """Return the library's Weights, which point into `data`."""
        return library.Weights(getattr(library.DataType, self.dtype), self.data.ctypes.data, self.count)


def named_weights(file: Path) -> dict[str, NamedWeight]:
    """Read every initializer of an ONNX file with its external weights, by name."""
    model = onnx.load(file)
    found = {}
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        found[tensor.name] = NamedWeight(_DATA_TYPES.get(tensor.data_type, ""), int(array.size), data)
    return found


def refit_engine(library: ModuleType, data: bytes, file: Path, component: str) -> bytes:
    """Return the engine `data` with the weights of the ONNX file, refittable again.

    Raises BuildError when the engine does not load here, is not refittable, or lacks or refuses a weight.
    """
    weights = named_weights(file)
    logger = library_logger(library)
    runtime = library.Runtime(logger)
    runtime.engine_host_code_allowed = True  # a version-compatible engine brings its runtime along
    with collected_errors(library) as errors:
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise BuildError(f"the engine of {component} does not load here: {first_error(errors)}")
        if not engine.refittable:
            raise BuildError(f"the engine of {component} was built without --refittable; build the bundle anew.")
        refitter = library.Refitter(engine, logger)
        for name in refitter.get_all_weights():
            if name not in weights:
                raise BuildError(f"the engine of {component} has a weight {name!r} that its graph does not name.")
            if not refitter.set_named_weights(name, weights[name].to_weights(library)):
                raise BuildError(f"the engine of {component} refuses the weight {name}: {first_error(errors)}")
        missing = refitter.get_missing_weights()
        if missing or not refitter.refit_cuda_engine():
            reason = f"it also needs {', '.join(missing)}" if missing else first_error(errors)
            raise BuildError(f"the engine of {component} cannot be refitted: {reason}")
        config = engine.create_serialization_config()
        config.clear_flag(library.SerializationFlag.EXCLUDE_WEIGHTS)
        config.set_flag(library.SerializationFlag.INCLUDE_REFIT)
        return bytes(engine.serialize_with_config(config))
