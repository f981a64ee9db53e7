"""Engines that run a component's export graph in PyTorch itself: what every variant's loop needs, without an export.

The graphs, the contracts and the loops are the real ones; only the way through an ONNX file is left out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from himar.families.hi_mar.model import HiMAR
from himar.vae.autoencoder import AutoencoderKL
from himar_export.families.hi_mar.components import components, editing
from himar_export.families.hi_mar.phases import model_info
from himar_export.graph.component import Component
from himar_runtime import Bundle, ComponentSpec, Manifest, Networks
from himar_runtime.bundle.schema import BackendInfo
from himar_runtime.engines.engine import resolve_axes
from himar_runtime.queue.device import DeviceTensor


class HostArray:
    """An output that lies on the host."""

    def __init__(self, array: NDArray) -> None:
        self._array, self.shape = array, array.shape

    def numpy(self) -> NDArray:
        return self._array.copy()


class GraphEngine:
    """See himar_runtime.engines.engine.Engine and himar_runtime.queue.device.ResidentEngine."""

    recordable = None

    def __init__(self, component: Component, graph: torch.nn.Module | None = None) -> None:
        self._component = component
        self._graph = graph or component.graph(torch.float32).eval()
        self._bound: dict[str, NDArray] = {}
        self.spec = ComponentSpec(
            component.name, "", "fp32", component.inputs, component.outputs, component.profile, "onnxruntime", ""
        )

    def bind(self, inputs: Mapping[str, Any]) -> None:
        self._bound |= {
            name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in inputs.items()
        }

    def run(self, inputs: Mapping[str, Any]) -> dict[str, NDArray]:
        self.bind(inputs)
        resolve_axes(self.spec, {name: array.shape for name, array in self._bound.items()})
        tensors = (torch.from_numpy(np.ascontiguousarray(self._bound[each.name])) for each in self.spec.inputs)
        with torch.inference_mode():
            outputs = self._graph(*tensors)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {each.name: value.numpy() for each, value in zip(self.spec.outputs, outputs, strict=True)}

    def run_on_device(self, inputs: Mapping[str, Any]) -> dict[str, HostArray]:
        return {name: HostArray(array) for name, array in self.run(inputs).items()}

    def clone(self, lane: Any = None) -> GraphEngine:
        return GraphEngine(self._component, self._graph)

    def enqueue(self, tensors: Mapping[str, DeviceTensor]) -> None:
        dtypes = {each.name: np.dtype(each.dtype) for each in (*self.spec.inputs, *self.spec.outputs)}
        arrays = {name: _at(place, dtypes[name]) for name, place in tensors.items()}
        assert arrays.keys() == dtypes.keys()
        outputs = self.run({each.name: arrays[each.name] for each in self.spec.inputs})
        for name, value in outputs.items():
            assert arrays[name].shape == value.shape
            arrays[name][...] = value

    def finish(self) -> None:
        pass


def graph_networks(model: HiMAR, max_batch: int = 3, vae: AutoencoderKL | None = None) -> Networks:
    """Return engines of all components of a model; with a VAE those of editing too."""
    parts = components(model, vae, max_batch)
    if vae is not None:
        parts += editing(model, vae, max_batch)
    return Networks({part.name: GraphEngine(part) for part in parts})


def bundle_of(model: HiMAR, networks: Networks, max_batch: int = 3) -> Bundle:
    """Return what a pipeline reads of a bundle of these engines; there are no files."""
    specs = {name: engine.spec for name, engine in networks.engines.items()}
    manifest = Manifest(
        "1.1", "0", model.family, model_info(model.config), model.config.sampling, max_batch, specs,
        BackendInfo("onnxruntime", "0", None), {}, "selftest.npz", {}, {},
    )  # fmt: skip
    return Bundle(Path("nowhere"), manifest, "0" * 64)


def _at(place: DeviceTensor, dtype: np.dtype) -> NDArray:
    size = int(np.prod(place.shape)) * dtype.itemsize
    memory = (ctypes.c_uint8 * size).from_address(place.address)
    return np.frombuffer(memory, dtype).reshape(place.shape)
