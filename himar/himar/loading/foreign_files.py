"""Recognises from their first bytes files that are not checkpoints, and says what to do instead."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

_HEAD = 512
_UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "a GGUF file of llama.cpp"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
)
_PACKED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "packed with gzip"),
    (b"BZh", "packed with bzip2"),
    (b"\xfd7zXZ", "packed with xz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd"),
)
_ENDINGS = {
    ".onnx": "an ONNX graph",
    ".msgpack": "a Flax file",
    ".h5": "a Keras file",
    ".pb": "a TensorFlow graph",
    ".index": "a part of a TensorFlow checkpoint",
    ".gguf": "a GGUF file of llama.cpp",
    ".engine": "an engine of TensorRT",
    ".plan": "an engine of TensorRT",
}
_READ = "himar reads PyTorch checkpoints (.pth, .pt, .ckpt, .bin) and .safetensors"


def is_safetensors(head: bytes) -> bool:
    """Whether a file's first bytes are those of safetensors: a length, then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32


def what_it_is(path: Path) -> str | None:
    """Return why a file is not a checkpoint and what to do, as one sentence, or None where it may be one.

    Raises OSError when it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if path.suffix in _UNFINISHED:
        return f"{path} is an unfinished download, {size} bytes of it; fetch it again."
    if not size:
        return f"{path} is damaged or cut short: it is empty, as a download that never began leaves it; fetch it again."
    if not head.strip(b"\0"):
        return f"{path} is damaged or cut short: it begins with zeros; fetch it again."
    return _text(path, head, size) or _binary(path, head)


def _text(path: Path, head: bytes, size: int) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs"):
        wanted = re.search(rb"size (\d+)", head)
        of = f" to a file of {wanted[1].decode()} bytes" if wanted else ""
        return f"{path} is a Git LFS pointer{of}, not the weights; run git lfs pull in its folder."
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<error", b"<!--")):
        return f"{path} is a web page ({size} bytes of HTML or XML), not the weights; fetch the file itself, logged in."
    if start.startswith((b"{", b"[")) and not is_safetensors(head):
        return f"{path} is a JSON file or a server's answer, not weights; give the file or folder that it describes."
    return None


def _binary(path: Path, head: bytes) -> str | None:
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return f"{path} is {what}, not a checkpoint; {_READ}."
    packed = next((what for magic, what in _PACKED if head.startswith(magic)), None)
    if packed or head[257:262] == b"ustar":
        return f"{path} is {packed or 'a tar archive'}; unpack it and give the weights in it."
    if head.startswith(b"PK"):
        return _archive(path)
    if is_safetensors(head) or head.startswith(b"\x80"):
        return None
    if path.suffix in _ENDINGS or ".data-" in path.name:
        return f"{path} is {_ENDINGS.get(path.suffix, 'a part of a TensorFlow checkpoint')}; {_READ}."
    return f"{path} is damaged or cut short, or not a checkpoint: its first bytes are {head[:8]!r}; {_READ}."


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # A damaged archive raises anything.
        return f"{path} is damaged or cut short: a zip archive without its end, as a stopped download leaves it; " + (
            "fetch it again."
        )
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return f"{path} is a NumPy archive (.npz), not a checkpoint; write its arrays as safetensors. {_READ}."
    inside = next((name for name in names if name.endswith((".pth", ".pt", ".ckpt", ".safetensors"))), None)
    if inside:
        return f"{path} is a zip archive with {inside!r} in it; unpack it and give that file."
    return f"{path} is a zip archive of other things ({', '.join(names[:3]) or 'nothing'}), not a checkpoint; {_READ}."
