"""Runs by itself: `python -m himar_export.memory.gpu_child BUNDLE` prints what engines take of a GPU's memory, as JSON.

What the driver says is free before and after gives it, in a process of its own for every figure, as on a CPU
(`himar_export.memory.child`); other programs on the GPU disturb it. Tensors lie where a loop would have them, and do
not count. ONNX Runtime's engines run at one image and at their most. Of TensorRT's engines nothing runs: each says how
much of a lane's shared memory its contexts need, at any batch.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from himar_kernels import EngineError
from himar_runtime import Bundle, ComponentSpec, Device
from himar_runtime.engines.engine import resolved_shape
from himar_runtime.engines.networks import load_engine, open_lane
from himar_runtime.engines.tensorrt.engine import TensorRTEngine
from himar_runtime.queue.cuda.driver import call, runtime_api
from himar_runtime.queue.device import DeviceTensor, ResidentEngine, allocate_together

from .child import FEW, axes, described, entry, forked, largest_call

if TYPE_CHECKING:
    from himar_runtime.queue.cuda.device import CudaDevice

GPU = Device("cuda")


def measure(bundle: Bundle) -> dict[str, Any]:
    """Return the manifest's key `memory.gpu`. No call of CUDA's is made in this process, which forks."""
    backend, most = bundle.manifest.backend, bundle.manifest.max_batch
    components, libraries = {}, {}
    for name, spec in bundle.manifest.components.items():
        images = [FEW] if spec.backend != "onnxruntime" else sorted({FEW, largest_call(spec, most)})
        found = [forked(functools.partial(alone, bundle, spec, each), described(spec, each)) for each in images]
        components[name] = entry(spec, most, images, found[0][0], [run for _, run, _ in found])
        if spec.backend != "onnxruntime":
            components[name]["most"] = FEW  # more images need no more
        libraries[name] = max(once for _, _, once in found)
    name = forked(gpu_name, "the GPU's name")
    return {
        "by": f"{backend.name} {backend.version} on {name}",
        "backend": backend.name,
        "once": once(components[smallest(bundle).name], max(libraries.values())),
        "components": components,
    }


def once(first: Mapping[str, Any], grown: int) -> int:
    """Return what libraries take beside the engines: all that the first engine added, less its own."""
    return max(0, grown - int(first["loaded"]) - int(first["runs"][0]))


def smallest(bundle: Bundle) -> ComponentSpec:
    """Return the component that runs first, and pays what is paid once."""
    return min(bundle.manifest.components.values(), key=lambda each: each.weight_bytes or 0)


def alone(bundle: Bundle, spec: ComponentSpec, images: int) -> tuple[int, int, int]:
    """Return the bytes of a loaded engine, of its runs, and of what was there first with the libraries' own."""
    first = smallest(bundle)
    lane = open_lane(GPU, {spec.backend})
    if lane is None:
        raise EngineError(f"our kernels do not run on {GPU}.")
    least = placed(lane, first, {name: low for name, (low, _, _) in first.profile.items()})
    tensors = placed(lane, spec, axes(spec, bundle.manifest.max_batch, images))
    start = used()
    warm = load_engine(bundle, first.name, GPU, None, lane=lane)
    run(lane, warm, least)
    before = used()
    engine = load_engine(bundle, spec.name, GPU, None, lane=lane)
    loaded = used()
    if isinstance(engine, TensorRTEngine):
        return max(0, loaded - before), engine.scratch_bytes, before - start
    for _ in range(2):
        run(lane, engine, tensors)
    return max(0, loaded - before), max(0, used() - loaded), before - start


def placed(lane: CudaDevice, spec: ComponentSpec, sizes: Mapping[str, int]) -> dict[str, DeviceTensor]:
    """Return zeros for all tensors of a run in device memory; sizes: of every dynamic axis."""
    shapes = {}
    for tensor in (*spec.inputs, *spec.outputs):
        shape = resolved_shape(tensor, sizes)
        if shape is None:
            raise EngineError(f"{spec.name} alone knows the shape of {tensor.name}.")
        shapes[tensor.name] = (shape, int(np.prod(shape)) * np.dtype(tensor.dtype).itemsize)
    places = allocate_together(lane, {name: max(1, size) for name, (_, size) in shapes.items()})
    for name, (_, size) in shapes.items():
        if size:
            lane.clear(places[name], size)
    return {name: DeviceTensor(places[name], shape) for name, (shape, _) in shapes.items()}


def run(lane: CudaDevice, engine: Any, tensors: Mapping[str, DeviceTensor]) -> None:
    """Run an engine on tensors in device memory, and wait for it."""
    assert isinstance(engine, ResidentEngine)
    engine.enqueue(tensors)
    lane.synchronize()


def used() -> int:
    """Return the bytes of the GPU's memory that are not free."""
    free, total = call(runtime_api().cudaMemGetInfo)
    return int(total) - int(free)


def gpu_name() -> str:
    """Return what the driver calls the GPU."""
    name = call(runtime_api().cudaGetDeviceProperties, GPU.index).name
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Bundle.open(sys.argv[1]))) + "\n")
