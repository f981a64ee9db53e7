"""Write the fuzzers' seeds anew from a real bundle: write_seeds.py BUNDLE (layout of a folder: fuzz_bundle.cpp)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from himar_kernels.text.vocabulary import clip_ids

CORPUS = Path(__file__).parent / "corpus"
SEPARATOR = "\x1f"


def small(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest without what no reader looks at, so that a fuzzer's changes hit what one does."""
    kept = {key: value for key, value in manifest.items() if key not in ("provenance", "verification", "precision")}
    for component in kept["components"].values():
        component["parts"] = component.get("parts", [])[:1]
    return kept | {"provenance": {}}


def folder(manifest: dict[str, Any], **extra: str) -> str:
    """A folder whose files hold their names. extra: KIND_NAME=content, with __ for "." in names."""
    files = {name: {"sha256": f"@sha256 {name}@", "bytes": f"@bytes {name}@"} for name in manifest["files"]}
    text = re.sub(r'"(@bytes [^"]*@)"', r"\1", json.dumps(manifest | {"files": files}))
    entries = {name: ("f", name) for name in manifest["files"]}
    for key, content in extra.items():
        kind, name = key.replace("__", ".").split("_", 1)
        entries[name] = (kind, content)
    return text + "".join(f"{SEPARATOR}{kind} {name}\n{content}" for name, (kind, content) in entries.items())


def one_component(manifest: dict[str, Any]) -> dict[str, Any]:
    """The smallest manifest that still has one of everything."""
    head = manifest["components"]["mlp_head"]
    names = {head["file"], head["engine"]["file"], manifest["selftest"]}
    files = {name: entry for name, entry in manifest["files"].items() if name in names}
    return manifest | {"components": {"mlp_head": head}, "files": files}


def for_gpus(manifest: dict[str, Any]) -> dict[str, Any]:
    """As if it were built for TensorRT, with every way to say for which GPUs."""
    backend = {
        "name": "tensorrt",
        "version": "11.4.0",
        "compute_capability": "9.0",
        "compute_capabilities": ["8.0", "9.0"],
        "least_compute_capability": "8.0",
        "version_compatible": True,
    }
    return manifest | {"backend": backend}


def with_solvers(manifest: dict[str, Any]) -> dict[str, Any]:
    """With solvers in the default setting and in one that stands apart."""
    default = {"low_steps": 4, "low_solver": "ddim", "high_solver": "dpm++"}
    further = {"fast": {"high_steps": 2, "high_solver": "ddim", "temperature": 0.9}}
    return manifest | {"schema_version": "2.0", "sampling": {"default": default}, "solver_sampling": further}


def with_forecasts(manifest: dict[str, Any]) -> dict[str, Any]:
    """With chains that leave evaluations out, in the default setting and in one that stands apart."""
    default = {"low_steps": 2, "low_forecast": 4, "high_forecast": 3, "forecast_order": 2, "guidance_interval": 2}
    ends = {"high_forecast": 8, "forecast_first": 6, "forecast_last": 2, "least_guidance": 1.2}
    lists = {"high_steps": 2, "high_diffusion_counts": [20, 9], "high_guidances": [1, 2.5]}
    further = {"eighth": ends, "listed": lists}
    return manifest | {"schema_version": "5.0", "sampling": {"default": default}, "forecast_sampling": further}


def with_memory(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with figures of its engines' memory, on a CPU and on a GPU."""
    entry = {"loaded": 5_000_000, "images": [1, 4], "runs": [1_000_000, 4_000_000], "most": 64}
    components = dict.fromkeys(manifest["components"], entry)
    gpu = {"by": "a GPU", "backend": "onnxruntime", "once": 70_000_000, "components": components}
    return {**manifest, "memory": {"by": "a CPU", "components": components, "gpu": gpu}}


def of_phases(manifest: dict[str, Any], **phases: Any) -> dict[str, Any]:
    """Of a variant of the model."""
    return manifest | {"schema_version": "1.1", "model": manifest["model"] | phases}


def from_text(manifest: dict[str, Any]) -> dict[str, Any]:
    """Of a model from text."""
    named = {"file": "mlp_head.onnx", "sha256": manifest["files"]["mlp_head.onnx"]["sha256"]}
    text = {"classes": 0, "context": "text", "context_width": 5, "empty_context": named}
    tokenizer = {
        **{"vocabulary": named["file"], "merges": named["file"], "length": manifest["model"]["buffer"]},
        **{"sha256": {"vocabulary": named["sha256"], "merges": named["sha256"]}},
        **{"start": 515, "end": 516, "padding": 516, "repairs_text": False},
    }
    return manifest | {"schema_version": "4.0", "model": manifest["model"] | text, "tokenizer": tokenizer}


def of_hmar(manifest: dict[str, Any]) -> dict[str, Any]:
    """Of the family hmar."""
    shapes = {"embedding": [11, 2], "weights": [4, 2, 2, 3, 3], "biases": [4, 2]}
    model = {
        **{"family": "hmar", "patch_nums": [1, 2, 3], "width": 4, "depth": 3, "heads": 2, "tail": 2, "classes": 5},
        **{"vocab": 11, "latent_channels": 2, "vae_stride": 4, "masked": True},
        "codebook": {
            name: {"file": "mlp_head.onnx", "offset": 0, "dtype": "float32", "shape": shape}
            for name, shape in shapes.items()
        },
    }
    settings = {"guidance": 1.5, "top_k": 7, "top_p": 0.9, "schedule": [[1], [1, 3]], "mask_guidance": 1e-6}
    sampling = {"masked": settings, "var": {"all_scales": True}, "smooth": {"smooth": True}}
    return manifest | {"schema_version": "3.0", "model": model, "sampling": sampling}


def write(name: str, seeds: Mapping[str, str]) -> None:
    """Write a fuzzer's seeds, each into a file."""
    target = CORPUS / name
    target.mkdir(parents=True, exist_ok=True)
    for seed, text in seeds.items():
        (target / seed).write_bytes(text.encode("utf-8", "surrogateescape"))


def texts() -> dict[str, str]:
    """Prompts, and files of a tokenizer's folder, each behind a line that names it (fuzz_text.cpp)."""
    merges = [["r", "e"], ["re", "d</w>"]]
    tokens = clip_ids([(left, right) for left, right in merges])
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": tokens, "merges": merges}
    text = {"context_length": 77, "tokenizer_kwargs": {"clean": "lower"}}
    return {
        "caption": "text\nA red two, it's 12 of 3!",
        "unicode": "text\nÉ e\u0301 İ ΣΑΣ 中文 \U0001f600 a\u0323\u0301 \u1100\u1161 \u00a0\u3000 \x00\x1c",
        "long": "text\n" + "aaaa" * 40,
        "start-token": "text\na <|startoftext|> b",
        "not-utf8": "text\na \udcff b",
        "merges": "merges.txt\n#version: 0.2\nr e\nre d</w>\n",
        "merges-of-three": "merges.txt\nr e d\n",
        "vocabulary": "vocab.json\n" + json.dumps(tokens),
        "vocabulary-of-another": "vocab.json\n" + json.dumps(tokens | {"red</w>": 9}),
        "tokenizer": "tokenizer.json\n" + json.dumps({"model": model, "added_tokens": [{"content": "<|endoftext|>"}]}),
        "tokenizer-config": "tokenizer_config.json\n" + json.dumps({"pad_token": "!", "model_max_length": 12}),
        "added": "tokenizer_config.json\n" + json.dumps({"added_tokens_decoder": {"1": {"content": "[PAD]"}}}),
        "config": "config.json\n" + json.dumps({"text_config": {"max_position_embeddings": 9}}),
        "open-clip": "open_clip_config.json\n" + json.dumps({"model_cfg": {"text_cfg": text}}),
    }


def main(bundle: Path) -> None:
    """All fuzzers' seeds."""
    real = json.loads((bundle / "manifest.json").read_text())
    manifest = small(json.loads(json.dumps(real)))
    one = one_component(manifest)
    at_blob = folder(one, l_mlp_head__onnx="../../blobs/x", b_x="x").replace(" mlp_head.onnx@", " x@")
    moved = json.loads(json.dumps(one).replace('"mlp_head.onnx"', '"deep/er/mlp_head.onnx"'))
    write("text", texts())
    write(
        "manifest",
        {
            "real": json.dumps(real),
            "small": json.dumps(manifest),
            "one": json.dumps(one),
            "gpu": json.dumps(for_gpus(one)),
            "solvers": json.dumps(with_solvers(one)),
            "forecasts": json.dumps(with_forecasts(one)),
            "memory": json.dumps(with_memory(manifest)),
            "single-scale": json.dumps(of_phases(one, pivots="none", cond_scale=0, high_head="mlp")),
            "visual": json.dumps(of_phases(one, pivots="visual", low_head="dit", high_head="mlp")),
            "hmar": json.dumps(of_hmar(one)),
            "text": json.dumps(from_text(one)),
        },
    )
    write(
        "bundle",
        {
            "good": folder(manifest),
            "one": folder(one),
            "deep": folder(moved),
            "link-inside": folder(one, l_mlp_head__onnx="real.onnx", f_real__onnx="x"),
            "link-outside": folder(one, l_mlp_head__onnx="../outside"),
            "link-absolute": folder(one, l_mlp_head__onnx="/etc/passwd"),
            "link-circle": folder(one, l_mlp_head__onnx="mlp_head.onnx"),
            "link-folder": folder(moved, l_deep="..", f_mlp_head__onnx="x"),
            "link-blob": at_blob,
            "link-blob-changed": folder(one, l_mlp_head__onnx="../../blobs/x", b_x="x"),
            "link-refs": at_blob.replace("../../blobs/x", "../../blobs/../../outside"),
            "link-manifest": folder(one, l_manifest__json="../outside"),
            "pipe": folder(one, p_mlp_head__onnx=""),
            "pipe-manifest": folder(one, p_manifest__json=""),
        },
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
