"""Exports a component's graph from PyTorch to a clean ONNX model at opset 23."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from himar_kernels import BuildError

from ..make.weights import WeightFile
from ..tensorrt.network import OPSET, opset_of
from .component import Component
from .elementwise import add_functions, join_sums_and_norms
from .fp8 import rewrite_matmuls
from .linear import join_linear_layers
from .observed import Range
from .precision import drop_given, value_type
from .precision_choice import FP8_MULTIPLE, Precision
from .quantise import quantise_matmuls
from .repeated import prepare, write_out
from .style import GraphStyle

IR_VERSION = 10
"""Of every model that is written. Newer versions of the onnx packages choose what older runtimes refuse."""

_SOFTMAX_IN_FLOAT32 = onnx.TensorProto.FLOAT


def to_onnx(
    component: Component, precision: Precision, weights: WeightFile, ranges: Mapping[str, Range] | None = None
) -> onnx.ModelProto:
    """Export one component, its large weights into `weights`, and check that its interface is the contract's.

    ranges: of what was observed in its float32 graph: for fixed scales in int8, None for scales per row; for fp8 by the
    names of weights (`fp8.multiplied`).

    Attention stays one node (see `attention`); in half precision a standard one's softmax is asked to run in float32.
    Raises BuildError
    when a weight overflows the precision or the exported interface is not the contract's.
    """
    graph = component.graph(value_type(precision)).eval()
    drop_given(graph, component.name)
    samples = component.sample_inputs(rows=3)
    axes = {axis: torch.export.Dim(axis) for axis in component.profile}
    dynamic: tuple[Any, ...] = tuple(
        {i: axes[size] for i, size in enumerate(spec.shape) if isinstance(size, str)} or None
        for spec in component.inputs
    )

    if any(each.kind is each.VAR_POSITIONAL for each in inspect.signature(graph.forward).parameters.values()):
        dynamic = (dynamic,)  # all inputs are one argument then

    def export(
        module: nn.Module, inputs: tuple[Any, ...], names: list[str], axes: Any, outputs: list[str] | None = None
    ) -> ir.Model:
        program = torch.onnx.export(
            module,
            inputs,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=axes,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
        if program is None:
            raise BuildError(f"PyTorch's exporter returned nothing for {component.name}.")
        return program.model

    with _quiet(), torch.inference_mode():
        prepare(graph, tuple(samples.values()))
        inputs, outputs = ([spec.name for spec in specs] for specs in (component.inputs, component.outputs))
        exported = export(graph, tuple(samples.values()), inputs, dynamic, outputs)
        write_out(exported, graph, export)
    if precision == "int8" and not quantise_matmuls(exported, component.islands, ranges):
        raise BuildError(f"{component.name} has no matmul that could be in int8; build it with fp32.")
    if precision == "fp8" and not rewrite_matmuls(exported, ranges or {}):
        raise BuildError(
            f"{component.name} has no matmul that could be in fp8: modulations and feed-forwards whose sizes are "
            f"multiples of {FP8_MULTIPLE}; build it with fp16."
        )
    weights.move_out(component.name, exported)
    model = ir.to_proto(exported)
    _clean(model, component.name)
    if (dtype := value_type(precision)) != torch.float32:
        _softmax_in_float32(model)
        join_sums_and_norms(model)
        if _fuses(graph):
            join_linear_layers(model, dtype)
        add_functions(model, dtype)
    _check_interface(model, component)
    return model


def _fuses(graph: nn.Module) -> bool:
    """Whether some module of a graph is written in a style that holds operators of ours."""
    found = [
        getattr(owner, "style", None)
        for each in graph.modules()
        for owner in (each, getattr(each, "elementwise", None))
    ]
    return any(isinstance(style, GraphStyle) and style.fuses_elementwise for style in found)


def _clean(model: onnx.ModelProto, name: str) -> None:
    """Stamp the version of the format, and drop what differs between two exports or names paths of the machine."""
    model.ir_version = IR_VERSION
    model.graph.name = name
    model.producer_name, model.producer_version = "himar", ""
    model.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""


def _softmax_in_float32(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Attention" and not any(a.name == "softmax_precision" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("softmax_precision", _SOFTMAX_IN_FLOAT32))


def _check_interface(model: onnx.ModelProto, component: Component) -> None:
    if (opset := opset_of(model)) != OPSET:
        raise BuildError(
            f"{component.name}: PyTorch's exporter wrote opset {opset} where {OPSET} was asked for, which runtimes may "
            f"refuse; install the versions of onnx and onnxscript that himar names, or report this."
        )
    named = set(component.profile)  # axes of the inputs keep their names; an output may have a derived one
    for values, specs in ((model.graph.input, component.inputs), (model.graph.output, component.outputs)):
        found = [
            (value.name, tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim))
            for value in values
        ]
        wanted = [(spec.name, spec.shape) for spec in specs]
        for (name, shape), (wanted_name, wanted_shape) in zip(found, wanted, strict=True):
            same_axes = len(shape) == len(wanted_shape) and all(
                s == w or (isinstance(w, str) and w not in named and isinstance(s, str))
                for s, w in zip(shape, wanted_shape, strict=True)
            )
            if name != wanted_name or not same_axes:
                raise BuildError(
                    f"{component.name}: the exported graph has {name}{list(shape)} where its contract says "
                    f"{wanted_name}{list(wanted_shape)}; please report this."
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notices about optional packages and its own deprecations off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
