"""Runs a model of one of our operators, by a compiled library or by the function that the model carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from himar_export.graph.elementwise import DOMAIN


def run(model: onnx.ModelProto, library: Path | None, feed: dict[str, np.ndarray], provider: str = "CPU") -> list[Any]:
    """Return the outputs; `library` is what must have run the operator on the provider, None for its function."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if library is not None:
        options.register_custom_ops_library(str(library))
    providers = list(dict.fromkeys([f"{provider}ExecutionProvider", "CPUExecutionProvider"]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
    ran = {(g.ep_name, node.op_type) for g in session.get_provider_graph_assignment_info() for node in g.get_nodes()}
    operator = next(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    assert ((f"{provider}ExecutionProvider", operator) in ran) == (library is not None)
    return session.run(None, feed)
