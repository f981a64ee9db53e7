"""Writes multi-head attention in a graph: from its normalised input to what its last matmul takes.

A score is a dot product, and in a sharp model it passes 65,504, fp16's largest number. A GPU's fused kernels
keep scores in float32. ONNX Runtime's CPU kernel of the standard `Attention` keeps them in the type of its inputs,
whatever `softmax_precision` says, and a row with such a score becomes not-a-number. So no fp16 graph gives it fp16
inputs (bfloat16 has float32's range):

* graphs for ONNX Runtime hold its own `MultiHeadAttention`, whose CPU kernel is in float32 alone, so that ONNX Runtime
  casts its inputs there, and which takes fp16 on a GPU;
* graphs for TensorRT, which the CPU runs in checks, cast around an `Attention` in float32; `tensorrt_graph` takes those
  casts out of what TensorRT parses.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from himar.families.hi_mar.layers import Attention

from .precision import Matmul, gated
from .shared_input import parts_of, shared_input
from .style import GraphStyle

ORT_DOMAIN = "com.microsoft"
_ORT_VERSION = 1

Rows = tuple[int, int]
"""Rows R and the positions T of each, which a stream (R·T, D) has as one axis; one of the two may be -1."""


class AttentionGraph(nn.Module):
    """Attention without its last matmul, which `last` makes.

    Where operators are fused, keys have no bias, which adds the same to all scores of a query and so nothing to their
    softmax, and that of the values is a part of the last matmul's: a softmax sums to 1. On a GPU a bias costs a pass,
    but for that of the queries, which becomes an epilogue (`linear`). Queries, keys and values are matmuls apart:
    ONNX Runtime's CUDA kernels would have packed ones taken apart first, which moves more than two reads of x.
    """

    def __init__(self, attn: Attention, style: GraphStyle, *, apart: bool = False, causal: bool = False) -> None:
        """apart: queries come from fewer positions than keys and values; causal: none sees those after it."""
        super().__init__()
        q, k, v = parts_of(attn.qkv, 3)
        self.heads, self.style, self.apart, self.causal = attn.heads, style, apart, causal
        self._values_bias = v[1]
        if self.style.fuses_elementwise:
            k, v = ((weight, torch.zeros_like(bias)) for weight, bias in (k, v))
        if apart:
            self.q = Matmul(*q, style.dtype)
            self.kv = shared_input([k, v], style)
        else:
            self.qkv = shared_input([q, k, v], style)

    def forward(self, x: Tensor, queries: Rows, keys: Rows, asking: Tensor | None = None) -> Tensor:
        """Map normalised x (R·T, D), or `asking` (R·Q, D) for the queries, to (R·Q, D).

        queries, keys: (R, Q) and (R, T). Whether heads become an axis of their own is the style's choice.
        """
        if self.apart:
            assert asking is not None
            parts = (self.q.bias_pending(asking), *self.kv.bias_pending(x))
        else:
            parts = self.qkv.bias_pending(x)
        width = parts[0].values.shape[-1]
        split = (self.heads, width // self.heads) if self.style.splits_heads else (width,)
        asks, *seen = parts
        values = [asks.with_bias(), *(s.values if self.style.fuses_elementwise else s.with_bias() for s in seen)]
        q, k, v = (value.reshape(*rows, *split) for value, rows in zip(values, (queries, keys, keys), strict=True))
        if not q.dtype == k.dtype == v.dtype:  # one of their matmuls stays float32 (`fp32_layers`)
            q, k, v = q.float(), k.float(), v.float()
        if self.style.splits_heads:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            return with_heads(q, k, v, causal=self.causal).transpose(1, 2).reshape(-1, width)
        return finding_heads(q, k, v, self.heads, causal=self.causal).reshape(-1, width)

    def last(self, linear: nn.Linear, gate: Tensor | None) -> Matmul:
        """Return gate·(W·x + b), the last matmul, with the values' bias where it is due; gate (D,), None for 1."""
        bias = linear.bias + linear.weight @ self._values_bias if self.style.fuses_elementwise else linear.bias
        if gate is None:
            return Matmul(linear.weight, bias, self.style.dtype)
        return gated(linear.weight, bias, gate, self.style.dtype)


def with_heads(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, *, causal: bool = False) -> Tensor:
    """Attend over (R, heads, positions, width of a head); scale: of the scores, None for 1 / √width.

    causal: a position sees itself and those before it.
    """
    if q.dtype != torch.float16:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    return with_heads(q.float(), k.float(), v.float(), scale, causal=causal).to(q.dtype)


def finding_heads(
    q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float | None = None, *, causal: bool = False
) -> Tensor:
    """Attend over (R, positions, D); scale: of the scores, None for 1 / √(D / heads); causal: as in `with_heads`."""
    if q.dtype != torch.float16:
        return torch.onnx.ops.attention(q, k, v, q_num_heads=heads, kv_num_heads=heads, scale=scale, is_causal=causal)[
            0
        ]
    if not torch.compiler.is_exporting():
        return finding_heads(q.float(), k.float(), v.float(), heads, scale, causal=causal).to(q.dtype)
    attributes: dict[str, Any] = {"num_heads": heads}
    if scale is not None:
        attributes["scale"] = scale
    if causal:
        attributes["unidirectional"] = 1
    return torch.onnx.ops.symbolic(
        f"{ORT_DOMAIN}::MultiHeadAttention",
        (q, k, v),
        attributes,
        dtype=q.dtype,
        shape=q.shape,
        version=_ORT_VERSION,
    )
