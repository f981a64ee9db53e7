"""A tiny bundle of hand-written ONNX graphs with the real contracts: every input matters to every output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

# K, S, N, L, C, D, width of both conditions, classes.
K, S, N, L, C, D, W, CLASSES = 2, 4, 16, 20, 2, 3, 4, 5

SAMPLING = {
    "default": {
        "low_steps": 3,
        "high_steps": 2,
        "low_guidance": 1.5,
        "high_guidance": 2.0,
        "low_diffusion_steps": 5,
        "high_diffusion_steps": 4,
    },
    "plain": {"low_steps": 4, "high_steps": 1, "low_diffusion_steps": 3, "high_diffusion_steps": 3},
}

_ENCODE_DECODE = """
    flat = Reshape(sequence, flat_shape)
    seen = Gather(flat, visible)
    seen_mean = ReduceMean(seen, one)
    added = Add(seen, seen_mean)
    encoded = Tanh(added)
    encoded_rows = Reshape(encoded, flat_shape)
    table = Concat <axis = 0> (encoded_rows, mask_tokens)
    full = Gather(table, sources)
    full_mean = ReduceMean(full, one)
    mixed = Add(full, full_mean)
    z = Slice(mixed, start, end, one)
"""

_HIDDEN = """
    index = Cast <to = 1> (timestep)
    time = Div(index, last_timestep)
    from_state = MatMul(x, from_x)
    conditioned = Add(from_state, condition)
    timed = Add(conditioned, time)
    hidden = Tanh(timed)
"""
# As a trained head's, the noise predicted for a state of pure noise is that state; so latents stay near 1.
_PREDICT = """
    noise = MatMul(x, as_noise)
    fade = Sub(unit, time)
    learned = MatMul(mixed, to_prediction)
    faded = Mul(learned, fade)
    prediction = Add(noise, faded)
"""

GRAPHS = {
    "transformer_low": f"""
    (int64[rows] class_row, float[rows,{S},{C}] low_tokens, int64[rows,kept] visible, int64[rows,{K + L}] sources)
    => (float[rows,{S},{D}] pivots, float[rows,{S},{W}] condition) {{
        class = Gather(classes, class_row)
        context = Unsqueeze(class, one)
        projected = MatMul(low_tokens, embed)
        embedded = Add(projected, places)
        sequence = Concat <axis = 1> (context, context, embedded)
        {_ENCODE_DECODE}
        pivots = Tanh(z)
        condition = MatMul(pivots, to_condition)
    }}""",
    "transformer_high": f"""
    (int64[rows] class_row, float[rows,{S},{D}] pivots, float[rows,{N},{C}] tokens,
     int64[rows,kept] visible, int64[rows,{K + L}] sources) => (float[rows,{N},{W}] condition) {{
        class = Gather(classes, class_row)
        context = Unsqueeze(class, one)
        projected = MatMul(tokens, embed)
        embedded = Add(projected, places)
        sequence = Concat <axis = 1> (context, context, pivots, embedded)
        {_ENCODE_DECODE}
        bounded = Tanh(z)
        condition = MatMul(bounded, to_condition)
    }}""",
    "mlp_head": f"""
    (float[samples,{C}] x, int64[1] timestep, float[samples,{W}] condition)
    => (float[samples,{2 * C}] prediction) {{
        {_HIDDEN}
        mixed = Identity(hidden)
        {_PREDICT}
    }}""",
    "dit_head": f"""
    (float[rows,{N},{C}] x, int64[1] timestep, float[rows,{N},{W}] condition)
    => (float[rows,{N},{C}] prediction) {{
        {_HIDDEN}
        mean = ReduceMean(hidden, one)
        mixed = Add(hidden, mean)
        {_PREDICT}
    }}""",
    "vae_decoder": f"""
    (float[images,{C},height,width] latent) => (float[images,3,image_height,image_width] image) {{
        wide = ConvTranspose <kernel_shape = [4, 4], strides = [4, 4]> (latent, pixels)
        image = Tanh(wide)
    }}""",
}

# What edits need besides.
EDIT_GRAPHS = {
    "transformer_high_edit": f"""
    (int64[rows] class_row, float[rows,{S},{D}] pivots, int64[rows,{S}] guides, float[rows,{N},{C}] tokens,
     int64[rows,kept] visible, int64[rows,{K + L}] sources) => (float[rows,{N},{W}] condition) {{
        class = Gather(classes, class_row)
        context = Unsqueeze(class, one)
        projected = MatMul(tokens, embed)
        embedded = Add(projected, places)
        every_pivot = Reshape(pivots, flat_shape)
        every_guide = Concat <axis = 0> (every_pivot, placeholders)
        guided = Gather(every_guide, guides)
        sequence = Concat <axis = 1> (context, context, guided, embedded)
        {_ENCODE_DECODE}
        bounded = Tanh(z)
        condition = MatMul(bounded, to_condition)
    }}""",
    "vae_encoder": f"""
    (float[images,3,image_height,image_width] image) => (float[images,{C},height,width] latent) {{
        latent = Conv <kernel_shape = [4, 4], strides = [4, 4]> (image, patches)
    }}""",
}


# The DiT head in two parts, for held modulations: together they give what it gives.
HELD_GRAPHS = {
    "dit_head_modulations": f"""
    (int64[1] timestep, float[rows,{N},{W}] condition)
    => (float[rows,{N},{W}] shift, float[rows,{N},{C}] fade) {{
        index = Cast <to = 1> (timestep)
        time = Div(index, last_timestep)
        shift = Add(condition, time)
        early = Sub(unit, time)
        some = MatMul(condition, to_prediction)
        none = Sub(some, some)
        fade = Add(none, early)
    }}""",
    "dit_head_held": f"""
    (float[rows,{N},{C}] x, float[rows,{N},{W}] shift, float[rows,{N},{C}] fade)
    => (float[rows,{N},{C}] prediction) {{
        from_state = MatMul(x, from_x)
        shifted = Add(from_state, shift)
        hidden = Tanh(shifted)
        mean = ReduceMean(hidden, one)
        mixed = Add(hidden, mean)
        noise = MatMul(x, as_noise)
        learned = MatMul(mixed, to_prediction)
        faded = Mul(learned, fade)
        prediction = Add(noise, faded)
    }}""",
}


def _weights(name: str) -> dict[str, np.ndarray]:
    name = "dit_head" if name in HELD_GRAPHS else name
    random = np.random.default_rng(len(name))

    def normal(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) / 2).astype(np.float32)

    is_high = name.startswith("transformer_high")
    first, places = (S, N) if is_high else (0, S)
    channels = C if name == "dit_head" else 2 * C
    integers = {
        "one": np.array([1]),
        "flat_shape": np.array([-1, D]),
        "start": np.array([K + first]),
        "end": np.array([K + first + places]),
    }
    return {
        **{key: value.astype(np.int64) for key, value in integers.items()},
        "last_timestep": np.array([999], np.float32),
        "unit": np.array([1], np.float32),
        "as_noise": np.eye(C, channels, dtype=np.float32),
        "classes": normal(CLASSES + 1, D),
        "embed": normal(C, D),
        "places": normal(places, D),
        "mask_tokens": normal(L, D),
        "to_condition": normal(D, W),
        "from_x": normal(C, W),
        "to_prediction": normal(W, channels),
        "pixels": normal(C, 3, 4, 4) / 4,
        "placeholders": normal(S, D),
        "patches": normal(C, 3, 4, 4) / 8,
    }


def tiny_model(name: str, poison: float | None = None) -> onnx.ModelProto:
    """The component's graph; with `poison` its first weight holds that value."""
    graph = (GRAPHS | EDIT_GRAPHS | HELD_GRAPHS)[name]
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {name} {graph}')
    used = {key for node in model.graph.node for key in node.input}
    weights = {key: value for key, value in _weights(name).items() if key in used}
    if poison is not None:
        victim = next(value for value in weights.values() if value.dtype == np.float32 and value.size > 1)
        victim.flat[0] = poison
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in weights.items())
    onnx.checker.check_model(model, full_check=True)
    return model


def _tensors(values: Any) -> list[dict[str, Any]]:
    dtypes = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
    return [
        {
            "name": value.name,
            "dtype": dtypes[value.type.tensor_type.elem_type],
            "shape": [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim],
        }
        for value in values
    ]


def save_components(folder: Path, models: Mapping[str, onnx.ModelProto], max_batch: int) -> dict[str, Any]:
    """Write graphs into a bundle's folder; return their entries of its manifest."""
    components = {}
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")
        components[name] = {
            "file": f"{name}.onnx",
            "precision": "fp32",
            "inputs": _tensors(model.graph.input),
            "outputs": _tensors(model.graph.output),
            "profile": {"rows": [1, 2, 2 * max_batch]},
            "engine": {"backend": "onnxruntime", "file": f"{name}.onnx"},
        }
    return components


def save_manifest(folder: Path, max_batch: int, **keys: Any) -> None:
    """Write a bundle's manifest of its own keys, and of those that all have."""
    np.savez(folder / "selftest.npz", nothing=np.zeros(1))
    manifest = {
        "schema_version": "1.0",
        "himar_version": "0.1.0",
        "max_batch": max_batch,
        "backend": {"name": "onnxruntime", "version": "1.31.0", "compute_capability": None},
        "files": {
            path.relative_to(folder).as_posix(): {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
        "selftest": "selftest.npz",
        "provenance": {"note": "made by a test"},
        "a_key_of_the_future": 1,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest | keys))


def write_bundle(
    folder: Path,
    decoder: bool = True,
    poison: Mapping[str, float] | None = None,
    max_batch: int = 64,
    editing: bool = False,
    held: bool = False,
) -> Path:
    folder.mkdir()
    names = [name for name in GRAPHS if decoder or name != "vae_decoder"] + (list(EDIT_GRAPHS) if editing else [])
    names += list(HELD_GRAPHS) if held else []
    models = {name: tiny_model(name, (poison or {}).get(name)) for name in names}
    model = {
        **{"width": D, "classes": CLASSES, "buffer": K, "cond_scale": 2, "img_size": 16, "channels": C},
        **{"vae_stride": 4, "vae_scale": 0.25, "enc_depth": 1},
    }
    components = save_components(folder, models, max_batch)
    save_manifest(folder, max_batch, model=model, sampling=SAMPLING, components=components)
    return folder


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Write a tiny bundle of one's own: make_bundle(decoder=…, poison={component: value}, max_batch=…)."""
    return lambda name="bundle", **options: write_bundle(tmp_path / name, **options)


@pytest.fixture(scope="session")
def tiny_hmar_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle of the family hmar that no test changes."""
    from tests.runtime.tiny_hmar import write_hmar_bundle

    return write_hmar_bundle(tmp_path_factory.mktemp("tiny-hmar") / "bundle")


@pytest.fixture(scope="session")
def tiny_text_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle from text, which takes prompts, that no test changes."""
    from tests.runtime.tiny_text import write_text_bundle

    return write_text_bundle(tmp_path_factory.mktemp("tiny-text") / "bundle")


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle that no test changes."""
    return write_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def edit_manifest() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Change a bundle's manifest in place."""

    def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
        manifest = json.loads((bundle / "manifest.json").read_text())
        change(manifest)
        (bundle / "manifest.json").write_text(json.dumps(manifest))

    return edit
