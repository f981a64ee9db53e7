"""A tiny bundle from text of hand-written ONNX graphs with the real contracts, and with a tokenizer of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.parser

from himar_kernels.text.files import write_vocabulary
from himar_kernels.text.vocabulary import Vocabulary
from tests.runtime import conftest as classes
from tests.runtime.conftest import SAMPLING, C, D, L, N, S, W, save_components, save_manifest

# Rows of a context, and their width.
K, WC = 6, 5

# Single letters, then the words "red" and "two", a token each.
MERGES = (("r", "e"), ("re", "d</w>"), ("t", "w"), ("tw", "o</w>"))
VOCABULARY = Vocabulary(MERGES, K, 2 * 256 + len(MERGES) + 1)
TOKENS = VOCABULARY.end + 1

_ENCODE_DECODE = classes._ENCODE_DECODE

GRAPHS = {
    "transformer_low": f"""
    (float[rows,{K},{WC}] context, float[rows,{S},{C}] low_tokens, int64[rows,kept] visible,
     int64[rows,{K + L}] sources) => (float[rows,{S},{D}] pivots, float[rows,{S},{W}] condition) {{
        shown = MatMul(context, text_proj)
        projected = MatMul(low_tokens, embed)
        embedded = Add(projected, places)
        sequence = Concat <axis = 1> (shown, embedded)
        {_ENCODE_DECODE}
        pivots = Tanh(z)
        condition = MatMul(pivots, to_condition)
    }}""",
    "transformer_high": f"""
    (float[rows,{K},{WC}] context, float[rows,{S},{D}] pivots, float[rows,{N},{C}] tokens, int64[rows,kept] visible,
     int64[rows,{K + L}] sources) => (float[rows,{N},{W}] condition) {{
        shown = MatMul(context, text_proj)
        projected = MatMul(tokens, embed)
        embedded = Add(projected, places)
        sequence = Concat <axis = 1> (shown, pivots, embedded)
        {_ENCODE_DECODE}
        bounded = Tanh(z)
        condition = MatMul(bounded, to_condition)
    }}""",
    **{name: classes.GRAPHS[name] for name in ("mlp_head", "dit_head", "vae_decoder")},
    # A row takes what stands before it, as under a causal mask.
    "text_encoder": f"""
    (int64[prompts,{K}] tokens) => (float[prompts,{K},{WC}] context) {{
        words = Gather(vocabulary, tokens)
        so_far = CumSum(words, axis)
        placed = Add(so_far, rows_of_context)
        context = Tanh(placed)
    }}""",
}
# What edits need besides.
EDIT_GRAPHS = {
    "transformer_high_edit": GRAPHS["transformer_high"]
    .replace(f"float[rows,{S},{D}] pivots,", f"float[rows,{S},{D}] pivots, int64[rows,{S}] guides,")
    .replace("(shown, pivots, embedded)", "(shown, guided, embedded)")
    .replace(
        "shown = MatMul",
        """every_pivot = Reshape(pivots, flat_shape)
        every_guide = Concat <axis = 0> (every_pivot, placeholders)
        guided = Gather(every_guide, guides)
        shown = MatMul""",
    ),
    "vae_encoder": classes.EDIT_GRAPHS["vae_encoder"],
}


def _weights(name: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(len(name))
    first, places = (S, N) if name.startswith("transformer_high") else (0, S)
    return classes._weights(name) | {
        "start": np.array([K + first]),
        "end": np.array([K + first + places]),
        "axis": np.array(1),
        "text_proj": random.standard_normal((WC, D)).astype(np.float32),
        "vocabulary": random.standard_normal((TOKENS, WC)).astype(np.float32),
        "rows_of_context": random.standard_normal((K, WC)).astype(np.float32),
    }


def tiny_model(name: str, poison: float | None = None) -> onnx.ModelProto:
    """The component's graph; with `poison` all of its first weight holds that value."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {name} {(GRAPHS | EDIT_GRAPHS)[name]}')
    used = {key for node in model.graph.node for key in node.input}
    weights = {key: value for key, value in _weights(name).items() if key in used}
    if poison is not None:
        next(value for value in weights.values() if value.dtype == np.float32 and value.size > 1)[...] = poison
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def empty_context() -> np.ndarray:
    """What the tiny text encoder gives for the empty prompt: float32 (K, WC)."""
    tokens = np.full(K, VOCABULARY.padding)
    tokens[:2] = VOCABULARY.start, VOCABULARY.end
    weights = _weights("text_encoder")
    return np.tanh(weights["vocabulary"][tokens].cumsum(0) + weights["rows_of_context"]).astype(np.float32)


def write_text_bundle(
    folder: Path,
    *,
    encoder: bool = True,
    poison: Mapping[str, float] | None = None,
    max_batch: int = 64,
    editing: bool = False,
) -> Path:
    """Write the bundle; encoder: whether it has text_encoder and tokenizer, and so takes prompts."""
    folder.mkdir()
    names = [name for name in GRAPHS if encoder or name != "text_encoder"] + (list(EDIT_GRAPHS) if editing else [])
    models = {name: tiny_model(name, (poison or {}).get(name)) for name in names}
    content = empty_context().astype("<f4").tobytes()
    (folder / "empty-context.bin").write_bytes(content)
    model = {
        **{"width": D, "classes": 0, "buffer": K, "cond_scale": 2, "img_size": 16, "channels": C, "vae_stride": 4},
        **{"vae_scale": 0.25, "context": "text", "context_width": WC},
        "empty_context": {"file": "empty-context.bin", "sha256": hashlib.sha256(content).hexdigest()},
    }
    keys = {"schema_version": "4.0", "model": model, "sampling": SAMPLING}
    keys["components"] = save_components(folder, models, max_batch)
    if encoder:
        keys["components"]["text_encoder"]["profile"] = {"prompts": [1, max_batch, max_batch]}
        keys["tokenizer"] = write_vocabulary(VOCABULARY, folder)
    save_manifest(folder, max_batch, **keys)
    return folder
