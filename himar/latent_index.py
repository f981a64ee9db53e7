"""The index of a folder of cached latents: what it holds, made by which VAE from which images."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from himar_kernels import HimarError, InputError
from himar_kernels.files import write_json

from .file_hash import file_sha256
from .image_folder import Skipped

INDEX_FILE = "index.json"
SCHEMA = (1, 0)
DTYPES = ("float16", "float32")

_SHARD_NAME = re.compile(r"latents-\d{5,}\.safetensors")


class CacheError(HimarError):
    """A folder of cached latents is missing, unfinished, damaged, or of another VAE, size or image list."""


@dataclass(frozen=True)
class Shard:
    """One file: its name (None when none of its images could be read), images in it, and its sha256."""

    file: str | None
    count: int
    sha256: str | None


@dataclass(frozen=True)
class CacheIndex:
    """What `index.json` says.

    vae_sha256: of the VAE's file; img_size: side of the crop in pixels (the low scale is its half); channels and
    stride: of the VAE; dtype: of the stored moments; shard_size: listed images per shard; images: length of the
    image list and fingerprint: its hash (`ImageList.fingerprint`); source: where the list came from;
    shards: those written so far, shard i for the listed images i·shard_size …; skipped: files left out.
    """

    vae_sha256: str
    img_size: int
    channels: int
    stride: int
    dtype: Literal["float16", "float32"]
    shard_size: int
    source: str
    images: int
    fingerprint: str
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def wanted_shards(self) -> int:
        """Number of shards of the finished cache."""
        return -(-self.images // self.shard_size)

    @property
    def complete(self) -> bool:
        """Whether every shard is written."""
        return len(self.shards) == self.wanted_shards

    @property
    def count(self) -> int:
        """Images in the shards written so far."""
        return sum(shard.count for shard in self.shards)

    @property
    def sides(self) -> tuple[int, int]:
        """Sides of the high and the low latent grid."""
        return self.img_size // self.stride, self.img_size // 2 // self.stride

    def with_shard(self, shard: Shard, skipped: tuple[Skipped, ...]) -> CacheIndex:
        """Return the index after one more shard."""
        return replace(self, shards=(*self.shards, shard), skipped=(*self.skipped, *skipped))


def read_index(folder: Path) -> CacheIndex:
    """Read a cache's index, finished or not. Raises CacheError."""
    path = folder / INDEX_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        major = int(str(values.pop("schema")).split(".")[0])
    except FileNotFoundError as error:
        raise CacheError(f"{folder} holds no {INDEX_FILE}; make the cache with himar cache-latents.") from error
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CacheError(f"{path} is damaged; delete the folder and make the cache again.") from error
    if major > SCHEMA[0]:
        raise CacheError(f"{path} has schema {major}, newer than {SCHEMA[0]}; use a newer himar.")
    try:
        return _checked(values)
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{path} is damaged ({error}); delete the folder and make the cache again.") from error


def write_index(folder: Path, index: CacheIndex) -> None:
    """Write `index.json` in one move. Raises CacheError."""
    content = {"schema": ".".join(map(str, SCHEMA)), **asdict(index)}
    write_json(folder / INDEX_FILE, content, CacheError)


def require_same(folder: Path, index: CacheIndex, **wanted: Any) -> None:
    """Raise CacheError unless the index has every wanted value; None means that any will do."""
    for name, value in wanted.items():
        found = getattr(index, name)
        if value is not None and found != value:
            raise CacheError(
                f"{folder} was made with {name.replace('_', ' ')} {found}, not {value}; "
                f"give what it was made with or choose another folder."
            )


def damaged_shards(folder: Path, index: CacheIndex) -> list[str]:
    """Hash every shard and return one sentence for each that is missing or changed."""
    problems = []
    for shard in index.shards:
        if shard.file is None:
            continue
        try:
            found = file_sha256(folder / shard.file)
        except InputError as error:
            problems.append(str(error))
            continue
        if found != shard.sha256:
            problems.append(f"{shard.file} has sha256 {found[:12]}…, but the index says {(shard.sha256 or '')[:12]}….")
    return problems


def _checked(values: dict[str, Any]) -> CacheIndex:
    known = {name: values[name] for name in CacheIndex.__dataclass_fields__}
    shards = tuple(Shard(shard["file"], int(shard["count"]), shard["sha256"]) for shard in known["shards"])
    skipped = tuple(Skipped(str(entry["path"]), str(entry["reason"])) for entry in known["skipped"])
    class_names = tuple(map(str, known["class_names"]))
    index = CacheIndex(**{**known, "shards": shards, "skipped": skipped, "class_names": class_names})
    for name in ("img_size", "channels", "stride", "shard_size", "images"):
        if not isinstance(known[name], int) or known[name] < 1:
            raise ValueError(f"{name} is {known[name]!r}")
    if index.dtype not in DTYPES or len(shards) > index.wanted_shards:
        raise ValueError(f"dtype {index.dtype!r}, {len(shards)} of {index.wanted_shards} shards")
    for shard in shards:
        if type(shard.count) is not int or shard.count < (0 if shard.file is None else 1):
            raise ValueError(f"count of shard {shard.file!r} is {shard.count}")
        if shard.file is not None and not _SHARD_NAME.fullmatch(shard.file):
            raise ValueError(f"shard file {shard.file!r}")
    return index
