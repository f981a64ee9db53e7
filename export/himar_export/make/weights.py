"""Writes one weights file for all components of a bundle: every distinct tensor is on disk once.

ONNX lets a tensor live in an external file at an offset, and several graphs may point into the same file. Folding a
phase's constants leaves most large matrices of the two transformers equal; they are found by content and stored once.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

ALIGNMENT = 64
INLINE_LIMIT = 4096
"""Tensors below this many bytes stay inside the ONNX file."""


@dataclass
class WeightFile:
    """Appends tensors to an open file, each content once, and remembers which component uses what."""

    name: str
    stream: BinaryIO
    _offsets: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    _users: dict[bytes, set[str]] = field(default_factory=lambda: defaultdict(set))
    _parts: dict[str, dict[str, list[tuple[bytes, int]]]] = field(default_factory=dict)

    def add(self, data: bytes) -> tuple[int, int]:
        """Store `data` unless equal bytes are there already; return (offset, length)."""
        digest = hashlib.sha256(data).digest()
        if digest not in self._offsets:
            position = self.stream.tell()
            self.stream.write(b"\0" * (-position % ALIGNMENT))
            self._offsets[digest] = (self.stream.tell(), len(data))
            self.stream.write(data)
        return self._offsets[digest]

    def move_out(self, component: str, model: ir.Model) -> None:
        """Move the model's large initializers into the file, leaving references to it."""
        parts: dict[str, list[tuple[bytes, int]]] = defaultdict(list)
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                continue
            data = tensor.tobytes()
            digest = hashlib.sha256(data).digest()
            self._users[digest].add(component)
            parts["constants" if name.startswith("val_") else name.split(".")[0]].append((digest, len(data)))
            if len(data) >= INLINE_LIMIT:
                offset, length = self.add(data)
                value.const_value = ir.ExternalTensor(
                    self.name, offset, length, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
                )
        self._parts[component] = dict(parts)

    def parts(self, component: str) -> list[dict[str, int | str]]:
        """Return the component's weights by part: name, bytes, and bytes that another component uses too."""
        return [
            {
                "name": name,
                "bytes": sum(size for _, size in tensors),
                "shared_bytes": sum(
                    size for digest, size in tensors if len(self._users[digest]) > 1 and size >= INLINE_LIMIT
                ),
            }
            for name, tensors in self._parts[component].items()
        ]


def weight_file(folder: Path, name: str = "weights.bin") -> WeightFile:
    """Open a new weights file in `folder`; the caller closes its stream."""
    return WeightFile(name, (folder / name).open("xb"))
