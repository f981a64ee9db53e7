"""Damaged and foreign files under the names of checkpoints, made from seeds; and objects that would betray a reader."""

import gzip
import io
import json
import pickle
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save


class Canary:
    """Unpickling this calls a function with arguments."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def torch_bytes(content, **options) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for name, data in files.items():
            target.writestr(name, data)
    return stream.getvalue()


def canaries(target: Path) -> Iterator[object]:
    """Yield objects whose unpickling would make `target`, by many ways into the interpreter."""
    import os
    import shutil
    import subprocess

    code = f"open({str(target)!r}, 'w').close()"
    yield Canary(os.system, f"touch {target}")
    yield Canary(subprocess.check_call, ["touch", str(target)])
    yield Canary(exec, code)
    yield Canary(eval, code)
    yield Canary(open, str(target), "w")
    yield Canary(Path.touch, target)
    yield Canary(shutil.copy, __file__, str(target))
    yield Canary(np.save, str(target), [0])
    yield Canary(torch.save, 0, str(target))
    yield Canary(__import__, "this")
    yield Canary(torch.hub.load, "a/b", "c")


def foreign_files(state: dict[str, torch.Tensor], target: Path) -> Iterator[tuple[str, bytes, str]]:
    """Yield (file name, bytes, what the refusal must say). `state` is a sound model's; `target` no canary may make."""
    page = b"<!DOCTYPE html><html><title>Sign in</title></html>"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 978312345\n"
    error = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
    array = io.BytesIO()
    np.savez(array, w=np.zeros(3))
    tar = bytearray(1024)
    tar[257:262] = b"ustar"
    texts = {
        "page": (page, "web page"), "spaces": (b"\n \n" + page.lower(), "web page"), "xml": (error, "web page"),
        "mark": (b"\xef\xbb\xbf" + page, "web page"), "lfs": (pointer, "Git LFS pointer to a file of 978312345 bytes"),
        "json": (b'{"heads": 12}', "JSON"), "list": (b"[1, 2]", "JSON"), "text": (b"Not Found", "not a checkpoint"),
        "empty": (b"", "empty"), "zeros": (bytes(4096), "zeros"), "gguf": (b"GGUF" + bytes(64), "GGUF"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"), "gzip": (gzip.compress(page), "gzip"),
        "npy": (b"\x93NUMPY" + bytes(64), "NumPy"), "npz": (array.getvalue(), "NumPy archive"),
        "tar": (bytes(tar), "tar archive"), "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "PNG"),
        "zip": (archive({"notes.txt": b"hello"}), "zip archive of other things"),
        "zipped": (archive({"a/model.pth": b"x"}), "unpack it"), "nothing": (archive({}), "zip archive"),
        "keras": (archive({"config.json": b"{}", "model.weights.h5": b""}), "zip archive of other things"),
        "pdf": (b"%PDF-1.7" + bytes(64), "PDF"), "zstd": (b"\x28\xb5\x2f\xfd" + bytes(64), "zstd"),
        "elf": (b"\x7fELF" + bytes(64), "program"), "bz2": (b"BZh91AY" + bytes(64), "bzip2"),
    }  # fmt: skip
    for name, (data, said) in texts.items():
        for ending in (".pth", ".ckpt", ".safetensors"):
            yield f"{name}{ending}", data, said
    whole = torch_bytes({"model_ema": state})
    for ending in (".incomplete", ".part", ".crdownload"):
        yield f"model.pth{ending}", whole[: len(whole) // 2], "unfinished download"
    yield "graph.onnx", b"\x08\x08\x12\x07pytorch", "ONNX"
    yield "model.ckpt.data-00000-of-00001", b"\x08\x08\x12\x07abcdef", "TensorFlow"

    for number, canary in enumerate(canaries(target)):
        yield f"canary-{number}.pth", torch_bytes({"model_ema": state, "args": canary}), "himar strip"
        old = torch_bytes({"model_ema": canary}, _use_new_zipfile_serialization=False)
        yield f"canary-{number}-old.pth", old, "himar strip"
        yield f"canary-{number}-plain.pth", pickle.dumps({"model_ema": canary}), "torch.save"
        yield f"canary-{number}-2.pth", pickle.dumps({"model_ema": canary}, protocol=2), "torch.save"

    script = torch.jit.script(torch.nn.Linear(2, 2))
    stream = io.BytesIO()
    torch.jit.save(script, stream)
    yield "script.pt", stream.getvalue(), "TorchScript"

    sound = save(state)
    length = int.from_bytes(sound[:8], "little")
    header = json.loads(sound[8 : 8 + length])
    yield "twice.safetensors", sound + sound[-100:], "damaged"
    for name, changed in {
        "offsets": {**header, "class_emb.weight": {**header["class_emb.weight"], "data_offsets": [0, 10**9]}},
        "dtype": {**header, "class_emb.weight": {**header["class_emb.weight"], "dtype": "Q7"}},
        "shape": {**header, "class_emb.weight": {**header["class_emb.weight"], "shape": [10**12, 10**12]}},
        "negative": {**header, "class_emb.weight": {**header["class_emb.weight"], "shape": [-1, 3]}},
        "list": [1, 2],
    }.items():
        text = json.dumps(changed).encode()
        yield f"header-{name}.safetensors", len(text).to_bytes(8, "little") + text + sound[8 + length :], "damaged"

    content = {
        "numbers": {"model_ema": 3}, "none": {"model_ema": None}, "empty": {"model_ema": {}}, "list": [torch.zeros(1)],
        "tensor": torch.zeros(3), "nothing": {}, "text": {"model_ema": "a"}, "inner": {"model_ema": {"a": {"b": 3}}},
        "other": {"model_ema": {"conv.weight": torch.zeros(3)}}, "optimizer": {"optimizer": {"state": {0: state}}},
        "averages": {"ema": {"decay": 0.9, "shadow_params": [torch.zeros(3), torch.zeros(4)]}},
        "two": {"generator": state, "student": state}, "averages-2": {"ema_a": state, "ema_b": state},
        "meta": {"model_ema": {name: value.to("meta") for name, value in state.items()}},
        "sparse": {"model_ema": {**state, "mask_token": torch.zeros(1, 8, 32).to_sparse()}},
        "ints": {"model_ema": {name: value.to(torch.int8) for name, value in state.items()}},
        "complex": {"model_ema": {name: value.to(torch.complex64) for name, value in state.items()}},
        "nan": {"model_ema": {name: value * torch.nan for name, value in state.items()}},
        "objects": {"model_ema": {name: np.array([None], object) for name in state}},
    }  # fmt: skip
    for name, value in content.items():
        yield f"content-{name}.pth", torch_bytes(value), ""
    itself: dict[str, object] = {}
    itself["model_ema"] = itself
    yield "itself.pth", torch_bytes(itself), ""

    # Damage by chance: cut anywhere; bytes changed where they must show, in the pickle and in the archive's directory.
    random_ = random.Random(14)
    old = torch_bytes({"model_ema": state}, _use_new_zipfile_serialization=False)
    for kind, data in {"zip.pth": whole, "old.pth": old, "s.safetensors": sound}.items():
        for number in range(12):
            yield f"cut-{number}-{kind}", data[: random_.randrange(1, len(data) - 1)], ""
    for number in range(40):
        data, span = (whole, len(whole)) if number % 2 else (old, 2000)
        broken = bytearray(data)
        start = random_.randrange(0, 400) if number % 4 else max(0, span - 400)
        broken[start : start + 60] = random_.randbytes(60)
        yield f"changed-{number}.pth", bytes(broken), ""
