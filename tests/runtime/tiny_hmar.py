"""A tiny HMAR bundle of hand-written ONNX graphs with the real contracts: every input matters to every output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from tests.runtime.conftest import save_components, save_manifest

# Sides, cells of all, width C, blocks of trunk and tail, codes V of Cv channels, classes.
SIDES, L, C, BASE, TAIL, V, CV, CLASSES = (1, 2, 3), 14, 4, 1, 2, 11, 2, 5
SAMPLING: dict[str, Any] = {
    "default": {"guidance": 1.5, "top_k": 7, "top_p": 0.9, "schedule": [[1], [1, 3], [1, 1, 2, 5]]},
    "plain": {"guidance": 0.0, "top_k": 0, "top_p": 1.0},
}

_BLOCKS = """
    of_blocks = ReduceMean <keepdims = 0> (vectors, blocks_axes)
    modulation = Unsqueeze(of_blocks, one)
"""
_EMBEDDED = """
    embedded = MatMul(words, embed)
    placed = Gather(places, cells)
    started = Add(embedded, start)
    tokens = Add(started, placed)
"""
# Cells attend to all that came before, of which a first scale has none.
_ATTENDED = """
    every_key = Concat <axis = 2> (keys, own_keys)
    every_value = Concat <axis = 2> (values, own_values)
    every = Mul(every_key, every_value)
    seen = ReduceMean <keepdims = 0> (every, blocks_axes)
    memory = Unsqueeze(seen, one)
"""
_LOGITS = """
    of_head = ReduceMean (head, one)
    headed = Add(mixed, of_head)
    bounded = Tanh(headed)
    logits = MatMul(bounded, to_logits)
"""
_PAST = f"float[rows,{{blocks}},past,{C}] keys, float[rows,{{blocks}},past,{C}] values"
_OWN = f"float[rows,{{blocks}},cells,{C}] own_keys, float[rows,{{blocks}},cells,{C}] own_values"
_TAIL = f"float[rows,cells,{C}] x, float[rows,2,{C}] head, float[rows,{TAIL},6,{C}] vectors"


_ONE_TAIL = f"""
    ({_TAIL}) => (float[rows,cells,{V}] logits) {{
        {_BLOCKS}
        mean = ReduceMean (x, one)
        around = Add(x, mean)
        mixed = Add(around, modulation)
        {_LOGITS}
    }}"""


def _conditions(masked: bool) -> str:
    also = f", float[rows,{TAIL},6,{C}] masked_tail, float[rows,2,{C}] masked_tail_head" if masked else ""
    made = "masked_tail = Gather(of_masked, class_row) masked_tail_head = Gather(of_masked_head, class_row)"
    return f"""
    (int64[rows] class_row)
    => (float[rows,{C}] cond, float[rows,{BASE},6,{C}] trunk, float[rows,{TAIL},6,{C}] next_scale_tail,
        float[rows,2,{C}] next_scale_tail_head{also}) {{
        cond = Gather(classes, class_row)
        trunk = Gather(of_trunk, class_row)
        next_scale_tail = Gather(of_tail, class_row)
        next_scale_tail_head = Gather(of_tail_head, class_row)
        {made if masked else ""}
    }}"""


GRAPHS = {
    "conditions": _conditions(masked=True),
    "trunk": f"""
    (float[rows,cells,{CV}] words, float[rows,cells] masked, int64[cells] cells, float[rows,1,{C}] start,
     float[rows,{BASE},6,{C}] vectors) => (float[rows,cells,{C}] x) {{
        {_EMBEDDED}
        {_BLOCKS}
        hidden = Unsqueeze(masked, two)
        unknown = Mul(hidden, mask_embed)
        shown = Add(tokens, unknown)
        mean = ReduceMean (shown, one)
        mixed = Add(shown, mean)
        modulated = Add(mixed, modulation)
        x = Tanh(modulated)
    }}""",
    "next_scale_tail": _ONE_TAIL,
    "masked_tail": _ONE_TAIL,
    "var_trunk": f"""
    (float[rows,cells,{CV}] words, int64[cells] cells, float[rows,1,{C}] start, float[rows,{BASE},6,{C}] vectors,
     {_PAST.format(blocks=BASE)}) => (float[rows,cells,{C}] x, {_OWN.format(blocks=BASE)}) {{
        {_EMBEDDED}
        {_BLOCKS}
        own_keys = Unsqueeze(tokens, one)
        own_values = Tanh(own_keys)
        {_ATTENDED}
        mixed = Add(tokens, memory)
        modulated = Add(mixed, modulation)
        x = Tanh(modulated)
    }}""",
    "var_tail": f"""
    ({_TAIL}, {_PAST.format(blocks=TAIL)}) => (float[rows,cells,{V}] logits, {_OWN.format(blocks=TAIL)}) {{
        {_BLOCKS}
        first = Unsqueeze(x, one)
        second = Tanh(first)
        own_keys = Concat <axis = 1> (first, second)
        own_values = Concat <axis = 1> (second, first)
        {_ATTENDED}
        around = Add(x, memory)
        mixed = Add(around, modulation)
        {_LOGITS}
    }}""",
    "vae_decoder": f"""
    (float[images,{CV},3,3] latent) => (float[images,3,12,12] image) {{
        wide = ConvTranspose <kernel_shape = [4, 4], strides = [4, 4]> (latent, pixels)
        image = Tanh(wide)
    }}""",
    # A cell sees half of its neighbours too.
    "vae_encoder": f"""
    (float[images,3,12,12] image) => (float[images,{CV},3,3] latent) {{
        latent = Conv <kernel_shape = [8, 8], strides = [4, 4], pads = [2, 2, 2, 2]> (image, patches)
    }}""",
}


def _weights(name: str) -> dict[str, np.ndarray]:
    random = np.random.default_rng(len(name))

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    rows = CLASSES + 1
    return {
        **{"one": np.array([1]), "two": np.array([2]), "blocks_axes": np.array([1, 2])},
        **{"classes": normal(rows, C), "of_trunk": normal(rows, BASE, 6, C), "of_tail": normal(rows, TAIL, 6, C)},
        **{"of_masked": normal(rows, TAIL, 6, C), "of_tail_head": normal(rows, 2, C)},
        **{"of_masked_head": normal(rows, 2, C), "embed": normal(CV, C) / 4, "places": normal(L, C) / 2},
        **{"mask_embed": normal(1, 1, C), "to_logits": 2 * normal(C, V), "pixels": normal(CV, 3, 4, 4) / 4},
        "patches": normal(CV, 3, 8, 8) / 8,
    }


def tiny_model(name: str, poison: float | None = None, masked: bool = True) -> onnx.ModelProto:
    """The component's graph; with `poison` the first of its weights holds that value for every row and cell."""
    graph = GRAPHS[name] if masked or name != "conditions" else _conditions(masked=False)
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {name} {graph}')
    used = {key for node in model.graph.node for key in node.input}
    weights = {key: value for key, value in _weights(name).items() if key in used}
    if poison is not None:
        victim = next(value for value in weights.values() if value.dtype == np.float32 and value.size > 1)
        victim[...] = poison
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def write_hmar_bundle(
    folder: Path,
    *,
    masked: bool = True,
    var: bool = True,
    encoder: bool = True,
    poison: Mapping[str, float] | None = None,
    max_batch: int = 3,
) -> Path:
    """Write the bundle; masked, var, encoder: whether it has the masked network, all scales in view, and edits."""
    folder.mkdir()
    left_out = [*([] if masked else ["masked_tail"]), *([] if var else ["var_trunk", "var_tail"])]
    left_out += [] if encoder else ["vae_encoder"]
    models = {name: tiny_model(name, (poison or {}).get(name), masked) for name in GRAPHS if name not in left_out}
    random = np.random.default_rng(0)
    arrays = {
        "embedding": random.standard_normal((V, CV)),
        "weights": random.standard_normal((4, CV, CV, 3, 3)) / 4,
        "biases": random.standard_normal((4, CV)) / 8,
    }
    codebook, data = {}, b"\0" * 8
    for name, array in arrays.items():
        codebook[name] = {
            "file": "weights.bin", "offset": len(data), "dtype": "float32", "shape": list(array.shape)
        }  # fmt: skip
        data += array.astype(np.float32).tobytes()
    (folder / "weights.bin").write_bytes(data)
    model = {
        **{"family": "hmar", "patch_nums": list(SIDES), "width": C, "depth": BASE + TAIL, "heads": 2, "tail": TAIL},
        **{"classes": CLASSES, "vocab": V, "latent_channels": CV, "vae_stride": 4, "masked": masked},
        "codebook": codebook,
    }
    sampling = SAMPLING if masked else {"plain": SAMPLING["plain"]}
    components = save_components(folder, models, max_batch)
    save_manifest(folder, max_batch, schema_version="3.0", model=model, sampling=sampling, components=components)
    return folder
