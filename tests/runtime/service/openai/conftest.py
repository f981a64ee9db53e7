"""A server of a bundle that knows its classes' names, and the openai client pointed at it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openai
import pytest

from tests.runtime.conftest import SAMPLING, write_bundle
from tests.runtime.service.conftest import PYTHON

NAMES = ["goldfish", "goldfinch", "tench, Tinca tinca", "Great White", "cock"]
FAST = {**SAMPLING["plain"], "low_solver": "ddim", "high_solver": "ddim"}


@pytest.fixture(scope="session")
def named_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle with names of classes, and the settings default, plain and fast."""
    path = write_bundle(tmp_path_factory.mktemp("named") / "fishes")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["model"]["class_names"] = NAMES
    manifest["sampling"]["fast"] = FAST
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def slowed(head: onnx.ModelProto) -> onnx.ModelProto:
    """A head that first repeats its input x 4,000 times, and adds nothing of it."""
    helper = onnx.helper
    head.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(np.array([1, 1, 4000]), "repeats"),
            onnx.numpy_helper.from_array(np.array(0, np.float32), "nothing"),
        ]
    )
    for node in head.graph.node:
        node.input[:] = ["x_again" if name == "x" else name for name in node.input]
    before = [
        helper.make_node("Tile", ["x", "repeats"], ["x_repeated"]),
        helper.make_node("Tanh", ["x_repeated"], ["x_bent"]),
        helper.make_node("ReduceMean", ["x_bent"], ["x_mean"], keepdims=0),
        helper.make_node("Mul", ["x_mean", "nothing"], ["x_added"]),
        helper.make_node("Add", ["x", "x_added"], ["x_again"]),
    ]
    nodes = [*before, *head.graph.node]
    del head.graph.node[:]
    head.graph.node.extend(nodes)
    onnx.checker.check_model(head, full_check=True)
    return head


@pytest.fixture(scope="session")
def slow_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle whose default takes many seconds after the first preview."""
    path = write_bundle(tmp_path_factory.mktemp("slow") / "bundle")
    manifest = json.loads((path / "manifest.json").read_text())
    content = slowed(onnx.load(path / "dit_head.onnx")).SerializeToString()
    (path / "dit_head.onnx").write_bytes(content)
    manifest["files"]["dit_head.onnx"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest["sampling"]["default"] |= {"low_steps": 1, "high_steps": 16, "high_diffusion_steps": 1000}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture(scope="session")
def named_server(start_server: Callable[..., Any], named_path: Path) -> Any:
    return start_server(named_path, "--lanes", "2", "--max-images", "8", "--max-body", "4096")


def client_of(server: Any, key: str = "none", **options: Any) -> openai.OpenAI:
    """The client as a program would make it, but for its retries."""
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=key, **{"max_retries": 0, **options})


@pytest.fixture(scope="session")
def client(named_server: Any) -> openai.OpenAI:
    return client_of(named_server)


def ask(server: Any, values: Any) -> Any:
    """POST without a client."""
    body = values if isinstance(values, bytes) else json.dumps(values).encode()
    return server.ask("POST", "/v1/images/generations", body, {"Content-Type": "application/json"})


def require_format(server: Any, kind: str, command: list[str]) -> None:
    """Skip a test of images in a format that the C++ server was built without; Python's must have all."""
    refused = ask(server, {"prompt": "1", "output_format": "gif"}).json["error"]["message"]
    if kind not in refused:
        assert command != PYTHON
        pytest.skip(f"this C++ server was built without {kind}: {refused}")
