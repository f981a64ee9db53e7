"""Observes a model at work before it is built in int8 or fp8: ranges from which its matmuls' inputs get their scales.

The components are exported in float32 into a bundle that is thrown away, and its engines make a few images, always the
same. Families say which components are observed and what is made (`ExportFamily.calibration`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from himar.family import FamilyModel
from himar_kernels import BuildError
from himar_kernels.families.registry import TEXT_ENCODER, VAE_DECODER, VAE_ENCODER
from himar_kernels.shared.cpu_threads import default_threads
from himar_runtime import Bundle, ComponentSpec, Device, Networks, Pipeline, load_networks
from himar_runtime.engines.engine import Engine, Tensor
from himar_runtime.engines.ort.session import onnxruntime

from ..families.family import Calibration, export_family
from ..files import write_npz
from ..graph.component import Component
from ..graph.fp8 import multiplied
from ..graph.observed import Observations, Range, observe
from ..graph.precision_choice import Precision
from ..graph.quantise import observed_values
from .assemble import Progress, add_graphs, onnxruntime_entry
from .manifest import BundleWriter

Ranges = Mapping[str, Mapping[str, Range]]
"""By component, then by the name of a value in its float32 graph, or for fp8 of the weight that multiplies it."""

_BETWEEN = (VAE_DECODER, VAE_ENCODER, TEXT_ENCODER)
"""Components that no image in the making passes through."""


def calibrate(
    folder: Path,
    model: FamilyModel,
    parts: Sequence[Component],
    precisions: Mapping[str, Precision],
    progress: Progress,
) -> Ranges:
    """Return the ranges of all components in int8 or fp8 that their family calibrates; empty where there are none.

    folder: beside it lies the bundle that is thrown away, the size of the model in float32. Raises BuildError for a
    component in fp8 that cannot be observed.
    """
    asked = export_family(model.family).calibration(model)
    sources = _sources(asked, precisions)
    if asked is None or not sources:
        return {}
    names = set(sources.values())
    parts = [part for part in parts if part.name not in _BETWEEN]
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.calibration.", dir=folder.parent) as temporary:
        place = Path(temporary)
        writer = BundleWriter(place, model, asked.images)
        add_graphs(writer, model, None, parts, {part.name: "fp32" for part in parts}, lambda text, fraction: None)
        write_npz(place / "selftest.npz", {})
        writer.write_manifest(onnxruntime_entry(), {}, {})
        bundle = Bundle.open(place)
        networks = load_networks(bundle, Device("cpu"), None)
        observing = {
            part.name: ObservingEngine(place / f"{part.name}.onnx", part, bundle.manifest.components[part.name])
            for part in parts
            if part.name in names
        }
        progress(f"observing {asked.images} images for {' and '.join(_observed(precisions))}", 0.5)
        pipeline = Pipeline(bundle, Networks({**networks.engines, **observing}, networks.lane))
        pipeline.generate(**asked.request)
        return {name: observing[source].ranges(precisions[name]) for name, source in sources.items()}


def _observed(precisions: Mapping[str, Precision]) -> list[str]:
    """Return the precisions among these that take scales from what is observed."""
    return [each for each in ("int8", "fp8") if each in precisions.values()]


def _sources(asked: Calibration | None, precisions: Mapping[str, Precision]) -> dict[str, str]:
    """Return whose observations each component takes: its own, or those of the one whose weights it has."""
    sources = {}
    for name, precision in precisions.items():
        if asked is not None and name in asked.components and precision in ("int8", "fp8"):
            sources[name] = name
        elif asked is not None and name in (*asked.only_fp8, *asked.twins) and precision == "fp8":
            sources[name] = asked.twins.get(name, name)
        elif precision == "fp8":
            raise BuildError(
                f"precision fp8 of {name} is impossible: its scales come from images that a build makes by itself, "
                f"which only Hi-MAR's models of classes can; build it with fp16."
            )
    return sources


@dataclass(frozen=True)
class _HostArray:
    """An output of an ObservingEngine; see DeviceArray."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def numpy(self) -> NDArray[Any]:
        return self.array.copy()


class ObservingEngine:
    """Runs a float32 graph with ONNX Runtime and observes its matmuls' inputs; see `Engine` for what methods do."""

    def __init__(self, path: Path, part: Component, spec: ComponentSpec) -> None:
        model = ir.from_proto(onnx.load(path, load_external_data=False))
        self._by_weight = {weight: value.name for weight, value in multiplied(model).items() if value.name is not None}
        observe(model, observed_values(model, part.islands))
        file = path.with_suffix(".observed.onnx")
        onnx.save(ir.to_proto(model), file)
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = default_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._dtypes = {tensor.name: tensor.dtype for tensor in spec.inputs}
        self._bound: dict[str, NDArray[Any]] = {}
        self._spec = spec
        self.observations = Observations()

    @property
    def spec(self) -> ComponentSpec:
        """The component's tensors."""
        return self._spec

    def ranges(self, precision: Precision) -> Mapping[str, Range]:
        """Return what was seen, by the names of values; for fp8 by those of the weights that multiply them."""
        seen = self.observations.ranges()
        return {weight: seen[name] for weight, name in self._by_weight.items()} if precision == "fp8" else seen

    def bind(self, inputs: Mapping[str, Tensor]) -> None:
        """See Engine.bind."""
        for name, tensor in inputs.items():
            array = tensor if isinstance(tensor, np.ndarray) else tensor.numpy()
            self._bound[name] = np.array(array, self._dtypes[name])

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """See Engine.run."""
        return {name: output.numpy() for name, output in self.run_on_device(inputs).items()}

    def run_on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, _HostArray]:
        """See Engine.run_on_device."""
        self.bind(inputs)
        outputs = dict(zip(self._names, self._session.run(None, self._bound), strict=True))
        self.observations.add(outputs)
        return {tensor.name: _HostArray(outputs[tensor.name]) for tensor in self._spec.outputs}

    def clone(self, lane: object = None) -> Engine:
        """See Engine.clone: an observer is of one lane."""
        raise NotImplementedError("a model is observed in one lane")
