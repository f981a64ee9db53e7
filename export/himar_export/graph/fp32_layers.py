"""Keeps single layers in float32 where a component's precision is another: those that need its range or its digits.

A layer is a matmul or a convolution by the path of its module, as `himar-export debug` prints it: `blocks.3.fc2`. A
name also stands for all layers inside of it (`blocks.3`), and for those that it matches as a shell's pattern
(`blocks.*.fc2`). Attention runs in the widest type of its queries, keys and values, and what lies between matmuls in
that of what it is given, so a layer's float32 result reaches the residual stream unrounded.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import nn

from himar_kernels import BuildError

from .component import Component
from .elementwise import Elementwise
from .precision import HalfConvolution, Matmul, value_type
from .precision_choice import Precision

_SHOWN = 3
"""Names of layers that an error suggests, at most."""


def keep_in_float32(
    parts: Sequence[Component], precisions: Mapping[str, Precision], layers: Mapping[str, Sequence[str]]
) -> tuple[Component, ...]:
    """Return the components, with layers kept in float32.

    layers: names or patterns by component. Raises BuildError for a component or a layer that there is not, for one that
    is float32 anyway, and where nothing of a component would be left to its precision.
    """
    for name in layers:
        if name not in precisions:
            raise BuildError(
                f"float32 layers are given for {name!r}, but this bundle's components are {', '.join(precisions)}."
            )
    return tuple(
        _kept(part, precisions[part.name], layers[part.name]) if layers.get(part.name) else part for part in parts
    )


def _kept(part: Component, precision: Precision, asked: Sequence[str]) -> Component:
    if precision == "fp32":
        raise BuildError(f"float32 layers are given for {part.name}, which is in fp32 as a whole; leave them out.")
    if precision == "fp8":
        raise BuildError(f"float32 layers are given for {part.name} in fp8, which keeps none; build it with fp16.")
    known = layer_names(part, precision)
    found = [_matches(part.name, known, each) for each in asked]
    names = tuple(name for name in known if any(name in each for each in found))
    if len(names) == len(known):
        raise BuildError(
            f"all {len(known)} layers of {part.name} would be in float32; build it with --precision {part.name}=fp32."
        )
    return replace(
        part,
        graph=lambda dtype: widened(part.graph(dtype), names),
        islands=(*part.islands, *(f"{name}." for name in names)),
        fp32_layers=names,
    )


def layer_names(part: Component, precision: Precision) -> tuple[str, ...]:
    """Return the layers of a component that run in its precision, in the order of its module."""
    dtype = value_type(precision)
    return tuple(
        name
        for name, module in part.graph(dtype).named_modules()
        if isinstance(module, Matmul | HalfConvolution)
        and module.weight.dtype == dtype
        and not f"{name}.".startswith(part.islands)
    )


def _matches(component: str, known: Sequence[str], asked: str) -> list[str]:
    found = [name for name in known if name == asked or name.startswith(f"{asked}.") or fnmatchcase(name, asked)]
    if not found:
        near = difflib.get_close_matches(asked, known, _SHOWN, 0.0)
        raise BuildError(
            f"{component} has no layer {asked!r} that could be kept in float32; it has "
            f"{', '.join(near) if near else 'none'}{', …' if len(known) > len(near) else ''}"
        )
    return found


def widened(graph: nn.Module, names: Sequence[str]) -> nn.Module:
    """Let the layers of these names hold float32, in place; return the graph.

    In a block that has such a layer nothing is fused, since fused norms give half precision.
    """
    chosen = set(names)
    for name, module in graph.named_modules():
        if isinstance(module, Matmul | HalfConvolution) and name in chosen:
            module.hold(torch.float32)
    for name, module in graph.named_modules():
        elementwise = getattr(module, "elementwise", None)
        if isinstance(elementwise, Elementwise) and any(each.startswith(f"{name}.") for each in chosen):
            module.elementwise = Elementwise(replace(elementwise.style, fuses_elementwise=False))
    return graph
