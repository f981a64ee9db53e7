"""Writes a bundle's files and its manifest; himar_runtime reads them (schema: himar_runtime.bundle.manifest)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from himar.family import FamilyModel
from himar_kernels.families.registry import HI_MAR
from himar_kernels.shared.files import file_sha256
from himar_kernels.text import Tokenizer
from himar_kernels.text.files import write_vocabulary
from himar_runtime import TensorSpec

from ..families.family import export_family
from ..graph.component import Component
from ..graph.observed import Range
from ..graph.onnx_export import to_onnx
from ..graph.precision_choice import Precision
from ..verify.compare import Comparison
from .weights import weight_file


class BundleWriter:
    """Fills a folder with one bundle: components, then weights closed, then the manifest."""

    def __init__(self, folder: Path, model: FamilyModel, max_batch: int) -> None:
        family = export_family(model.family)
        keys, self._schema = family.manifest_keys(model)
        if model.family != HI_MAR:
            keys["model"] = {"family": model.family, **keys["model"]}
        if model.class_names is not None:
            keys["model"]["class_names"] = list(model.class_names)
        self._folder = folder
        self._weights = weight_file(folder)
        self._components: dict[str, dict[str, Any]] = {}
        self._manifest: dict[str, Any] = {
            **keys,
            "max_batch": max_batch,
        }

    def add_component(
        self, component: Component, precision: Precision, ranges: Mapping[str, Range] | None = None
    ) -> None:
        """Export the component; its large weights go into the shared weights file. ranges: as for `to_onnx`."""
        model = to_onnx(component, precision, self._weights, ranges)
        file = f"{component.name}.onnx"
        onnx.save(model, self._folder / file)
        self._components[component.name] = {
            "file": file,
            "precision": precision,
            **({"fp32_layers": list(component.fp32_layers)} if component.fp32_layers else {}),
            "inputs": [_tensor(spec) for spec in component.inputs],
            "outputs": [_tensor(spec) for spec in component.outputs],
            "profile": {axis: list(sizes) for axis, sizes in component.profile.items()},
        }

    def add_layer(self, component: str, key: str, layer: nn.Linear | nn.Conv2d) -> None:
        """Note under `key` of a component's entry where a layer's weights stand, so that `verify` can compute it."""
        assert layer.bias is not None
        arrays = {"weight": layer.weight.flatten(1).t().contiguous().numpy(), "bias": layer.bias.numpy()}
        self._components[component][key] = self._stored(arrays)

    def add_model_arrays(self, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store what the loop between the networks needs of the model, under `key` of the manifest's `model`."""
        self._manifest["model"][key] = self._stored(arrays)

    def add_model_floats(self, key: str, file: str, array: NDArray[np.float32]) -> None:
        """Write an array as raw little-endian float32 to a file of its own, which `key` of the `model` names."""
        path = self._folder / file
        path.write_bytes(np.ascontiguousarray(array, "<f4").tobytes())
        self._manifest["model"][key] = {"file": file, "sha256": file_sha256(path)}

    def add_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Write the files of the tokenizer of prompts, and what the manifest says of it."""
        self._manifest["tokenizer"] = write_vocabulary(tokenizer.vocabulary, self._folder)

    def _stored(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Put arrays into the weights file; return where each stands, as `Bundle.array` reads it."""
        return {
            name: {
                "file": self._weights.name,
                "offset": self._weights.add(np.ascontiguousarray(array).tobytes())[0],
                "dtype": str(np.dtype(array.dtype)),
                "shape": list(array.shape),
            }
            for name, array in arrays.items()
        }

    def close_weights(self) -> None:
        """Finish the weights file; nothing can be added after."""
        self._weights.stream.close()
        for name, entry in self._components.items():
            entry["parts"] = self._weights.parts(name)

    def write_manifest(
        self, backend: Mapping[str, Any], engines: Mapping[str, Mapping[str, Any]], provenance: dict[str, Any]
    ) -> None:
        """Write manifest.json with every file's hash.

        engines: component → its engine's entry; a component without one is run from its ONNX file by `backend`.
        """
        files = sorted(path for path in self._folder.rglob("*") if path.is_file() and path.name != "manifest.json")
        self._manifest = {
            "schema_version": self._schema,
            "himar_version": version("himar"),
            **self._manifest,
            "components": {
                name: {**entry, "engine": engines.get(name, {"backend": backend["name"], "file": entry["file"]})}
                for name, entry in self._components.items()
            },
            "backend": dict(backend),
            "files": {
                path.relative_to(self._folder).as_posix(): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
                for path in files
            },
            "selftest": "selftest.npz",
            "provenance": provenance,
        }
        self._save()

    def add_verification(self, comparisons: list[Comparison], ran: str) -> None:
        """Add the self-test's outcome to the manifest. ran: what replayed it, in words."""
        self._manifest["verification_ran"] = ran
        self._manifest["verification"] = [
            {"name": c.name, "relative_l2": c.relative_l2, "limit": c.limit, "passed": c.passed} for c in comparisons
        ]
        self._save()

    def add_memory(self, found: Mapping[str, Any]) -> None:
        """Add what the engines take in memory, as `himar_runtime.memory.prediction` reads it."""
        self._manifest["memory"] = dict(found)
        self._save()

    def _save(self) -> None:
        text = json.dumps(self._manifest, indent=1, allow_nan=False) + "\n"
        (self._folder / "manifest.json").write_text(text, encoding="utf-8")


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
