"""Runs one side by itself: `python -m himar_export.bench.memory_child '{"side": …}'` prints its peak memory.

The engines' process never imports torch, as a service's does not.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himar_runtime.families.family import Sampling, runtime_family

from .shown import generate, what_is_shown

if TYPE_CHECKING:
    from himar_runtime import Bundle, Device, Networks


def main(text: str) -> None:
    """Generate once as the JSON says, and print the fields of `run.Memory` as JSON."""
    asked = json.loads(text)
    sampling = runtime_family(asked["family"]).sampling_from_dict(asked["sampling"], "sampling")
    run = _engines if asked["side"] == "engines" else _eager
    sys.stdout.write(json.dumps(run(asked, sampling)) + "\n")


def _engines(asked: dict[str, Any], sampling: Sampling) -> dict[str, int]:
    from himar_kernels.families.registry import VAE_DECODER
    from himar_runtime import Bundle, Device, Networks, Pipeline, load_networks

    device = Device.parse(asked["device"])
    _import_onnxruntime()
    found = {"imported": resident_peak()}
    used = _device_used(device.index) if device.kind == "cuda" else 0
    bundle = Bundle.open(asked["bundle"])
    if asked["components"] is None:
        networks = load_networks(bundle, device, asked["threads"])
    else:
        networks = _load_some(bundle, device, asked)
        forget_peak()
    if asked["vae"] is None:
        engines = {name: engine for name, engine in networks.engines.items() if name != VAE_DECODER}
        networks = Networks(engines, networks.lane)
    generate(Pipeline(bundle, networks), what_is_shown(*asked["shown"]), sampling, asked["seed"])
    found["peak"] = resident_peak()
    if device.kind == "cuda":
        found["device"] = _device_used(device.index) - used
    return found


def _eager(asked: dict[str, Any], sampling: Sampling) -> dict[str, int]:
    import torch

    from himar.family import open_model
    from himar.text.encoder import TextEncoder

    from ..families.bench import family_bench
    from .eager import plain_float32
    from .eager_text import encoding

    device = torch.device(asked["device"])
    found = {"imported": resident_peak()}
    used = _torch_used(device) if device.type == "cuda" else 0
    with plain_float32(asked["threads"]):
        family = family_bench(asked["family"])
        model: Any = open_model(Path(asked["checkpoint"]), asked["config"], weights=asked["weights"])[0]
        vae = family.load_vae(None if asked["vae"] is None else Path(asked["vae"]), model)
        model = model.eval().requires_grad_(False).to(device)
        vae = None if vae is None else vae.eval().requires_grad_(False).to(device)
        networks = family.eager_networks(model, vae, asked["precisions"])
        del model, vae  # where weights were cast, nothing else of the float32 ones is needed
        if asked["components"] is not None:
            forget_peak()
        images = what_is_shown(*asked["shown"])
        if asked["text"] is not None:
            text = TextEncoder.open(Path(asked["text"]), device)
            images = encoding(text, asked["precisions"])(images)
        family.run_eager(networks, images, sampling, asked["seed"])
    found["peak"] = resident_peak()
    if device.type == "cuda":
        found["device"] = _torch_used(device) - used
        found["allocated"] = torch.cuda.max_memory_allocated(device)
    return found


def _load_some(bundle: Bundle, device: Device, asked: dict[str, Any]) -> Networks:
    """Load the engines that are asked for and that the bundle has."""
    from himar_runtime.engines.networks import Networks, load_engine, open_lane

    components = bundle.manifest.components
    names = [name for name in asked["components"] if name in components]
    lane = open_lane(device, {components[name].backend for name in names})
    engines = {name: load_engine(bundle, name, device, asked["threads"], None, lane) for name in names}
    return Networks(engines, lane)


def forget_peak() -> None:
    """Let the peak begin at what is resident now, where the system can (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def resident_peak() -> int:
    """Return the most bytes of memory that this process has held so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage's figure would begin with the parent's.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _import_onnxruntime() -> None:
    with contextlib.suppress(ImportError):  # a bundle for TensorRT needs none
        import onnxruntime  # noqa: F401


def _device_used(index: int) -> int:
    """Bytes of a GPU that the driver has given out, to all processes."""
    from himar_runtime.queue.cuda.driver import call, runtime_api

    api = runtime_api()
    call(api.cudaSetDevice, index)
    free, total = call(api.cudaMemGetInfo)
    return total - free


def _torch_used(device: Any) -> int:
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return total - free


if __name__ == "__main__":
    main(sys.argv[1])
