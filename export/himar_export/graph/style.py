"""Decides how graphs are written: what suits the runtime that runs them and the type they compute in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class GraphStyle:
    """How one graph is written. The formulas are the same in every style; the operators that compute them differ.

    Attributes:
        dtype: type of the matmuls and of the activations between them; the residual stream is float32 in any style.
        merges_shared_inputs: matmuls of one input are one matmul whose result is split (see `shared_input`).
        splits_heads: attention takes (R, heads, T, D / heads); else (R, T, D), and the operator finds the heads.
        fuses_elementwise: what lies between matmuls is exported as operators of the domain "himar" (see `elementwise`).
        packs_modulations: one matmul makes all that modulates a block, and the operators read their parts of its rows;
            only where they are fused, since any other operator would have the parts copied out.
    """

    dtype: torch.dtype
    merges_shared_inputs: bool
    splits_heads: bool
    fuses_elementwise: bool
    packs_modulations: bool

    @classmethod
    def of(cls, backend: str, dtype: torch.dtype) -> GraphStyle:
        """Return the style for a bundle's backend: "onnxruntime", or one of TensorRT's.

        TensorRT's builders fuse elementwise operators themselves, and make views of split results and of heads. ONNX
        Runtime copies for both, and fuses in half precision only what is one operator already. Half precision is for
        its CUDA provider above all, where an input that several matmuls read is read from memory again by each.
        """
        for_onnxruntime = backend == "onnxruntime"
        fuses = for_onnxruntime and dtype in _HALVES
        return cls(
            dtype,
            merges_shared_inputs=not for_onnxruntime,
            splits_heads=not for_onnxruntime,
            fuses_elementwise=fuses,
            packs_modulations=fuses,
        )
