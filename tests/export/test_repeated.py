from __future__ import annotations

import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from himar_export.graph.component import Component
from himar_export.graph.onnx_export import to_onnx
from himar_export.graph.repeated import Repeated, _bodies
from himar_export.make.weights import weight_file
from himar_runtime import TensorSpec
from tests.closeness import COMPONENT, assert_near

WIDTH = 6


class Block(nn.Module):
    """Adds a constant of its own making and a matmul; a second input makes a second result."""

    def __init__(self, seed: int, width: int = WIDTH) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(WIDTH, width, generator=generator))
        self.bias = nn.Parameter(torch.randn(width, generator=generator))

    def forward(self, x: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        # What is made of weights alone would be folded, if the exporter took the first block's for constants.
        factor = (2 * self.bias + torch.arange(WIDTH)).mean() / WIDTH
        x = x + torch.tanh(x @ self.weight + self.bias) * factor
        return (x, x - past[0].mean(dim=1, keepdim=True)) if past else (x,)


class Network(nn.Module):
    def __init__(self, blocks: list[Block], likeness: object = "tests") -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.blocks = Repeated(blocks, likeness)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        left = x
        for place in range(len(self.inner.blocks)):
            (x,) = self.inner.blocks.run(place, x)
            x, left = self.inner.blocks.run(place, x, past, results=2)
        return x, left


def component(network: nn.Module) -> Component:
    shape = ("rows", "cells", WIDTH)
    return Component(
        "network",
        (TensorSpec("x", "float32", shape), TensorSpec("past", "float32", ("rows", "past", WIDTH))),
        (TensorSpec("y", "float32", shape), TensorSpec("left", "float32", shape)),
        {"rows": (1, 2, 4), "cells": (1, 2, 9), "past": (1, 2, 9)},
        lambda dtype: network,
        (),
        lambda rows: {"x": torch.randn(rows, 4, WIDTH), "past": torch.randn(rows, 2, WIDTH)},
    )


def exported(network: nn.Module, folder) -> bytes:
    file = weight_file(folder)
    with file.stream:
        return to_onnx(component(network), "fp32", file).SerializeToString()


@pytest.fixture(autouse=True)
def nothing_remembered():
    _bodies.clear()


def test_every_block_has_its_own_weights_at_any_shape(tmp_path):
    network = Network([Block(seed) for seed in range(4)])
    session = ort.InferenceSession(exported(network, tmp_path))
    for rows, cells, past in ((1, 1, 1), (3, 7, 2)):
        x, before = torch.randn(rows, cells, WIDTH), torch.randn(rows, past, WIDTH)
        found = session.run(None, {"x": x.numpy(), "past": before.numpy()})
        for ours, theirs in zip(found, network(x, before), strict=True):
            assert_near(ours, theirs.detach().numpy(), COMPONENT)


def test_the_names_of_weights_are_those_of_the_module(tmp_path):
    network = Network([Block(seed) for seed in range(3)])
    names = {each.name for each in onnx.load_from_string(exported(network, tmp_path)).graph.initializer}
    assert {name for name, _ in network.named_parameters()} <= names


def test_blocks_are_exported_once_for_each_kind_of_call(tmp_path, monkeypatch):
    calls = []
    forward = Block.forward
    monkeypatch.setattr(
        Block, "forward", lambda self, *inputs: (calls.append(torch.compiler.is_exporting()), forward(self, *inputs))[1]
    )
    exported(Network([Block(seed) for seed in range(8)]), tmp_path)
    assert 0 < sum(calls) < 8


def test_another_network_with_like_blocks_uses_the_same_export(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    exported(Network([Block(0), Block(1)]), tmp_path / "first")
    before = dict(_bodies)
    network = Network([Block(5), Block(6), Block(7)])
    session = ort.InferenceSession(exported(network, tmp_path / "second"))
    assert _bodies == before
    x, past = torch.randn(2, 3, WIDTH), torch.randn(2, 5, WIDTH)
    found = session.run(["y"], {"x": x.numpy(), "past": past.numpy()})[0]
    assert_near(found, network(x, past)[0].detach().numpy(), COMPONENT)


def test_blocks_that_say_they_differ_are_exported_apart(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    exported(Network([Block(0)], "one kind"), tmp_path / "first")
    before = len(_bodies)
    exported(Network([Block(0)], "another"), tmp_path / "second")
    assert len(_bodies) == 2 * before


def test_a_block_with_other_weights_is_refused(tmp_path):
    class Wider(Block):
        def __init__(self) -> None:
            super().__init__(0)
            self.more = nn.Parameter(torch.zeros(1))

    with pytest.raises(TypeError, match=r"inner\.blocks\.1 is not like the first block"):
        exported(Network([Block(0), Wider()]), tmp_path)
