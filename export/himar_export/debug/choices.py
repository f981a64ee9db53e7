"""Names what `debug` lets a user choose, without ONNX or PyTorch."""

from __future__ import annotations

from himar_runtime.engines.tensorrt.library import BUILDS

EMULATE, ONNXRUNTIME = "emulate", "onnxruntime"
TENSORRT_BACKENDS = tuple(BUILDS)

RUNNERS = (EMULATE, ONNXRUNTIME, *TENSORRT_BACKENDS)
"""What computes a component's layers: the graph rounded as on a GPU, or a real engine."""

FLOAT32, EAGER = "float32", "eager"
REFERENCES = (FLOAT32, EAGER, ONNXRUNTIME)
"""What they are compared with: the float32 graph, the network in PyTorch, or ONNX Runtime."""
