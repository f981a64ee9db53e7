"""Writes a model of Triton's Python backend: config.pbtxt, 1/model.py, and the bundle or its path."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from himar_kernels import InputError
from himar_kernels.families.registry import VAE_DECODER
from himar_kernels.shared.files import new_folder, require_writable_folder
from himar_runtime.bundle.bundle import Bundle
from himar_runtime.bundle.manifest import Manifest
from himar_runtime.triton.rows import LABEL, shown_input

_MODEL = '''"""A himar bundle in Triton's Python backend; config.pbtxt beside this folder says which, and how."""

from himar_runtime.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_COPY = "bundle"


@dataclass(frozen=True)
class TritonModel:
    """How Triton runs a bundle.

    Attributes:
        name: of the model.
        lanes: instances, each a process with its own copy of the weights; on GPUs so many on each.
        device: "cpu", "cuda" for every GPU that the server sees, or "cuda:N".
        threads: CPU threads of an instance; None for the CPUs that it may use.
        stream: decoupled: unfinished images come before an image.
        queue_delay: milliseconds that a request waits at most for others to join it.
        link: leave the bundle where it is.
    """

    name: str = "himar"
    lanes: int = 1
    device: str = "cpu"
    threads: int | None = None
    stream: bool = False
    queue_delay: float = 0.0
    link: bool = False


def write_model(path: Path, repository: Path, model: TritonModel) -> Path:
    """Write the model of a bundle into a repository, which is made if it is missing, and return its folder.

    Raises BundleError for a bundle that cannot be opened, InputError for one without a decoder, for a name that the
    repository has, and where nothing can be written.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if VAE_DECODER not in manifest.components:
        raise InputError(f"{path} has no VAE decoder, so it produces latents, not images; build it again with --vae.")
    folder = repository / model.name
    if folder.exists():
        raise InputError(f"{folder} exists already; remove it, or choose another --name or --out.")
    config = config_text(manifest, model, str(bundle.root) if model.link else _COPY)
    require_writable_folder(repository)
    made = not repository.exists()
    repository.mkdir(parents=True, exist_ok=True)
    try:
        with new_folder(folder) as unfinished:
            version = unfinished / "1"
            version.mkdir()
            (unfinished / "config.pbtxt").write_text(config, encoding="utf-8")
            (version / "model.py").write_text(_MODEL, encoding="utf-8")
            if not model.link:
                shutil.copytree(bundle.root, version / _COPY)
    except BaseException:
        if made:
            repository.rmdir()
        raise
    return folder


def config_text(manifest: Manifest, model: TritonModel, bundle: str) -> str:
    """Return config.pbtxt; bundle: its absolute path, or one in the version's folder."""
    shown = shown_input(manifest)
    inputs = [
        (shown, "TYPE_INT64" if shown == LABEL else "TYPE_STRING"),
        ("seed", "TYPE_UINT64"),
        ("index", "TYPE_INT64"),
        ("sampling", "TYPE_STRING"),
        ("guidance", "TYPE_FP32"),
        *([("partial_images", "TYPE_INT32")] if model.stream else []),
    ]
    outputs = [("image", "TYPE_UINT8", "-1, -1, 3"), ("recipe", "TYPE_STRING", "1")]
    outputs += [("partial", "TYPE_INT32", "1")] if model.stream else []
    parameters = {"bundle": bundle, "threads": str(model.threads or 0)}
    microseconds = round(model.queue_delay * 1000)
    kind, _, number = model.device.partition(":")
    where = "KIND_CPU" if kind == "cpu" else f"KIND_GPU gpus: [ {number} ]" if number else "KIND_GPU"
    lines = [
        f'name: "{model.name}"',
        'backend: "python"',
        f"max_batch_size: {manifest.max_batch}",
        *(
            f'input {{ name: "{name}" data_type: {dtype} dims: [ 1 ]{"" if name == shown else " optional: true"} }}'
            for name, dtype in inputs
        ),
        *(f'output {{ name: "{name}" data_type: {dtype} dims: [ {dims} ] }}' for name, dtype, dims in outputs),
        f"instance_group {{ count: {model.lanes} kind: {where} }}",
        f"dynamic_batching {{ max_queue_delay_microseconds: {microseconds} }}",
        *(
            f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value, ensure_ascii=False)} }} }}'
            for key, value in parameters.items()
        ),
        *(["model_transaction_policy { decoupled: true }"] if model.stream else []),
    ]
    return "\n".join(lines) + "\n"
