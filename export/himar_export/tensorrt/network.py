"""Parses a component's ONNX graph into TensorRT's typed network, ready for its builder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import onnx

from himar_kernels import BuildError
from himar_runtime import TensorSpec
from himar_runtime.engines.tensorrt.library import collected_errors, first_error, library_logger

if TYPE_CHECKING:
    from ..graph.component import Profile  # imports PyTorch, which a child that builds engines does without

OPSET = 23
_PADDING = 6  # the place of nonpad_kv_seqlen among an Attention's inputs


@dataclass(frozen=True)
class ParsedNetwork:
    """A network and what it needs alive: TensorRT's objects do not keep each other.

    graph: the ONNX model as it was parsed, its large weights outside.
    """

    library: ModuleType
    builder: Any
    network: Any
    parser: Any
    graph: onnx.ModelProto


def parse_network(library: ModuleType, file: Path) -> ParsedNetwork:
    """Parse an ONNX file with external weights into a strongly typed network.

    Every tensor has the type that the graph gives it: a builder must not lower a matmul to half precision, nor
    raise one. float32 attentions may be decomposed into several kernels, since TensorRT has fused ones for half
    precision only; a half-precision attention may not, for that would run its softmax in half precision.

    Raises BuildError with the parser's reason and the node it concerns.
    """
    logger = library_logger(library)
    graph = tensorrt_graph(file)
    _require_understood(graph, file)
    with collected_errors(library) as errors:
        builder = library.Builder(logger)
        if builder is None:
            raise BuildError(f"{library.__name__} cannot start its builder: {first_error(errors)}.")
        # TensorRT 11 and TensorRT-RTX are strongly typed whatever the flag; 10.x only with it.
        flag = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = builder.create_network(flag)
        parser = library.OnnxParser(network, logger)
        if not parser.parse(graph.SerializeToString(), str(file)):
            reason = parser.get_error(0).desc() if parser.num_errors else first_error(errors)
            node = parser.get_error(0).node_name() if parser.num_errors else ""
            raise BuildError(
                f"{library.__name__} {library.__version__} cannot read {file.name}"
                f"{f' at {node}' if node else ''}: {reason.strip() or first_error(errors)}"
            )
    _let_float32_attentions_decompose(library, network)
    return ParsedNetwork(library, builder, network, parser, graph)


def tensorrt_graph(file: Path) -> onnx.ModelProto:
    """Read an ONNX graph, its large weights left outside, as TensorRT's parser has to get it.

    The parser refuses the attribute softmax_precision, with which the exported graphs ask for a float32 softmax:
    TensorRT's fused attention kernels leave a network no choice there. And the casts go that keep an fp16 attention's
    scores in float32 on the CPU (see `attention`): those kernels take fp16 and keep their scores in float32 themselves.
    """
    model = onnx.load(file, load_external_data=False)
    nodes = model.graph.node
    makers = {name: node for node in nodes for name in node.output}
    for node in nodes:
        if node.op_type == "Attention":
            kept = [attribute for attribute in node.attribute if attribute.name != "softmax_precision"]
            del node.attribute[:]
            node.attribute.extend(kept)
            _take_out_casts(model.graph, node, [makers.get(name) for name in node.input])
    return model


def _take_out_casts(graph: onnx.GraphProto, attention: onnx.NodeProto, makers: Sequence[onnx.NodeProto | None]) -> None:
    """Let an attention whose inputs are cast to float32, and whose result is cast to float16, work in float16."""
    users = [node for node in graph.node if attention.output[0] in node.input]
    if [_cast_to(node) for node in users] != [onnx.TensorProto.FLOAT16]:
        return
    before = [node for node in makers if node is not None and _cast_to(node) == onnx.TensorProto.FLOAT]
    if len(before) != len(makers):
        return
    for place, cast in enumerate(before):
        attention.input[place] = cast.input[0]
    attention.output[0] = users[0].output[0]
    read = {name for node in graph.node for name in node.input}
    for cast in (*before, users[0]):
        if cast.output[0] not in read or cast is users[0]:
            graph.node.remove(cast)


def _cast_to(node: onnx.NodeProto) -> int | None:
    """Return the type that a node casts to; None for one that is not a cast."""
    return next((int(a.i) for a in node.attribute if a.name == "to"), None) if node.op_type == "Cast" else None


def opset_of(model: onnx.ModelProto) -> int | None:
    """Return the version of ONNX's own operators in a model; None where it uses none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)


def _require_understood(graph: onnx.ModelProto, file: Path) -> None:
    """Raise BuildError for what TensorRT's parser would take and not do: other opsets, a padding of keys."""
    if (opset := opset_of(graph)) != OPSET:
        raise BuildError(
            f"{file.name} is of opset {opset}, and engines are built only from opset {OPSET}: TensorRT's parser reads "
            f"any other by its own opset's rules; export it again."
        )
    for node in graph.graph.node:
        if node.op_type == "Attention" and len(node.input) > _PADDING and node.input[_PADDING]:
            raise BuildError(
                f"{file.name} has an Attention {node.name!r} with nonpad_kv_seqlen, which TensorRT-RTX ignores; mask "
                f"the padding with attn_mask."
            )


def add_profile(parsed: ParsedNetwork, config: Any, inputs: Sequence[TensorSpec], profile: Profile) -> None:
    """Add one optimization profile with the min, opt and max shape of every dynamic input."""
    ranges = parsed.builder.create_optimization_profile()
    with collected_errors(parsed.library) as errors:
        for spec in inputs:
            if any(isinstance(size, str) for size in spec.shape):
                shapes = [
                    tuple(profile[size][k] if isinstance(size, str) else size for size in spec.shape) for k in range(3)
                ]
                ranges.set_shape(spec.name, *shapes)
        index = config.add_optimization_profile(ranges)
    if index < 0:
        raise BuildError(f"TensorRT refuses the optimization profile {dict(profile)}: {first_error(errors)}")


def layers(network: Any) -> list[Any]:
    """Return the layers of a network in order."""
    return [network.get_layer(index) for index in range(network.num_layers)]


def _let_float32_attentions_decompose(library: ModuleType, network: Any) -> None:
    for layer in layers(network):
        if layer.type == library.LayerType.ATTENTION_OUTPUT and layer.get_output(0).dtype == library.float32:
            layer.__class__ = library.IAttentionOutputLayer
            layer.attention.decomposable = True
