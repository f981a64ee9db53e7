"""Reads and writes the index of a folder of cached latents: what it holds, by which VAE, from which images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from himar_kernels import HimarError, InputError
from himar_kernels.shared.files import file_sha256, write_json

from .tree import Skipped

INDEX_FILE = "index.json"
Kind = Literal["latents", "codes", "captioned"]
SCHEMAS: Mapping[Kind, tuple[int, int]] = {"latents": (1, 1), "codes": (2, 0), "captioned": (3, 0)}
"""What an index says of itself; versions before codes read 1.x alone, those before captions 2.x, and refuse others."""
HELD: Mapping[Kind, str] = {
    "latents": "latents of a KL VAE, which Hi-MAR trains on",
    "codes": "codes of a multi-scale tokenizer, which HMAR trains on",
    "captioned": "latents of a KL VAE with contexts of captions, which Hi-MAR trains on from text",
}
_ADDED: Mapping[str, Any] = {"turned": None, "transparent": None, "unreadable_classes": ()}
"""Keys since 1.1, and what their absence means."""
_OF_CODES: Mapping[str, Any] = {"kind": "latents", "patch_nums": (), "crops": 0}
"""Keys of a cache of codes, and what they are for latents."""
_OF_CAPTIONS: Mapping[str, Any] = {"kind": "latents", "text_sha256": "", "context": ()}
"""Keys of a cache with captions, and what they are for others."""
DTYPES: Mapping[Kind, tuple[str, ...]] = {
    "latents": ("float16", "float32"),
    "codes": ("int16", "int32"),
    "captioned": ("float16", "float32"),
}

_SHARD_NAME = re.compile(r"(latents|codes|captioned)-\d{5,}\.safetensors")


class CacheError(HimarError):
    """A folder of cached latents is missing, unfinished, damaged, or of another VAE, size or image list."""


@dataclass(frozen=True)
class Shard:
    """One file: its name (None when none of its images could be read), images in it, and its sha256."""

    file: str | None
    count: int
    sha256: str | None


@dataclass(frozen=True)
class ShardRecord:
    """What the index will say of a finished shard; it stands in a file of its own until it does.

    skipped: its images that could not be read; turned, transparent: how many of the others were so.
    """

    shard: Shard
    skipped: tuple[Skipped, ...] = ()
    turned: int = 0
    transparent: int = 0


@dataclass(frozen=True)
class CacheIndex:
    """What `index.json` says.

    vae_sha256: of the VAE's file; img_size: side of the crop in pixels (the low scale is its half); channels and
    stride: of the VAE; dtype: of the stored moments or codes; shard_size: listed images per shard; images: length
    of the image list and fingerprint: its hash (`ImageList.fingerprint`); source: where the list came from;
    class_names: of the class numbers, in their order; shards: those written so far, shard i for the listed images
    i·shard_size …; skipped: files left out; turned: images that their EXIF orientation turned; transparent: images laid
    on white. None of both: begun by a version that did neither. unreadable_classes: those without an image, named when
    the cache is complete. kind: what it holds; of codes also patch_nums: sides of their scales, and crops: random
    crops of each image, 0 for the one in the middle alone; with captions text_sha256: of the text tower and its
    tokenizer, and context: (K, W) of their contexts.
    """

    vae_sha256: str
    img_size: int
    channels: int
    stride: int
    dtype: Literal["float16", "float32", "int16", "int32"]
    shard_size: int
    source: str
    images: int
    fingerprint: str
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    turned: int | None = None
    transparent: int | None = None
    unreadable_classes: tuple[str, ...] = ()
    kind: Kind = "latents"
    patch_nums: tuple[int, ...] = ()
    crops: int = 0
    text_sha256: str = ""
    context: tuple[int, ...] = ()

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

    def with_shard(self, record: ShardRecord) -> CacheIndex:
        """Return the index after one more shard."""
        return replace(
            self,
            shards=(*self.shards, record.shard),
            skipped=(*self.skipped, *record.skipped),
            turned=None if self.turned is None else self.turned + record.turned,
            transparent=None if self.transparent is None else self.transparent + record.transparent,
        )


def shard_name(number: int, kind: Kind = "latents") -> str:
    """Return the name of a shard's file."""
    return f"{kind}-{number:05d}.safetensors"


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
    newest = SCHEMAS.get(values.get("kind", "latents"), SCHEMAS["latents"])[0]
    if major > newest:
        raise CacheError(f"{path} has schema {major}, newer than {newest}; use a newer himar.")
    try:
        return _checked(values)
    except (KeyError, TypeError, ValueError) as error:
        raise CacheError(f"{path} is damaged ({error}); delete the folder and make the cache again.") from error


def write_index(folder: Path, index: CacheIndex) -> None:
    """Write `index.json` in one move. Raises CacheError."""
    of_kinds = {"codes": _OF_CODES, "captioned": _OF_CAPTIONS}
    left_out = {name for each in of_kinds.values() for name in each} - of_kinds.get(index.kind, {}).keys()
    values = {name: value for name, value in asdict(index).items() if name not in left_out}
    content = {"schema": ".".join(map(str, SCHEMAS[index.kind])), **values}
    write_json(folder / INDEX_FILE, content, CacheError)


def write_record(folder: Path, number: int, record: ShardRecord, kind: Kind = "latents") -> None:
    """Write what is known of a finished shard, in one move. Raises CacheError."""
    write_json(_record(folder, number, kind), asdict(record), CacheError)


def read_record(folder: Path, number: int, kind: Kind = "latents") -> ShardRecord | None:
    """Return what is known of a finished shard that the index does not have yet, None where it is not finished."""
    try:
        values = json.loads(_record(folder, number, kind).read_text(encoding="utf-8"))
        shard, skipped = Shard(**values["shard"]), tuple(Skipped(**entry) for entry in values["skipped"])
        record = ShardRecord(shard, skipped, int(values["turned"]), int(values["transparent"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if shard.file is None or (folder / shard.file).is_file() else None


def remove_records(folder: Path, numbers: Iterable[int], kind: Kind = "latents") -> None:
    """Remove the records of shards that the index has."""
    for number in numbers:
        _record(folder, number, kind).unlink(missing_ok=True)


def _record(folder: Path, number: int, kind: Kind) -> Path:
    return (folder / shard_name(number, kind)).with_suffix(".json")


def require_kind(folder: Path, index: CacheIndex, kind: Kind) -> None:
    """Raise CacheError for a cache of something else."""
    if index.kind != kind:
        raise CacheError(
            f"{folder} holds {HELD[index.kind]}; here it takes {HELD[kind].split(',')[0]}: choose another folder, or "
            f"cache the images anew for this model."
        )


def require_same(folder: Path, index: CacheIndex, **wanted: Any) -> None:
    """Raise CacheError unless the index has every wanted value; None allows any."""
    for name, value in wanted.items():
        found = getattr(index, name)
        if value is not None and found != value and name == "fingerprint":
            raise CacheError(
                f"{folder} was made from other images (fingerprint {found[:12]}…, now {value[:12]}…): files were "
                f"added, removed or renamed since, or classes are in another order; choose another folder."
            )
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
    added = {name: values.get(name, absent) for name, absent in {**_ADDED, **_OF_CODES, **_OF_CAPTIONS}.items()}
    known = {**{name: values[name] for name in CacheIndex.__dataclass_fields__ if name not in added}, **added}
    known["unreadable_classes"] = tuple(map(str, known["unreadable_classes"]))
    if known["kind"] not in DTYPES:
        raise ValueError(f"kind is {known['kind']!r}")
    known["patch_nums"] = tuple(known["patch_nums"])
    if not all(type(side) is int and side > 0 for side in known["patch_nums"]):
        raise ValueError(f"patch_nums is {known['patch_nums']!r}")
    if type(known["crops"]) is not int or known["crops"] < 0:
        raise ValueError(f"crops is {known['crops']!r}")
    known["text_sha256"], known["context"] = str(known["text_sha256"]), tuple(known["context"])
    of_captions = (2, True) if known["kind"] == "captioned" else (0, False)
    if (len(known["context"]), bool(known["text_sha256"])) != of_captions or not all(
        type(size) is int and size > 0 for size in known["context"]
    ):
        raise ValueError(f"context is {known['context']!r} by {known['text_sha256']!r:.20}")
    for name in ("turned", "transparent"):
        if known[name] is not None and (type(known[name]) is not int or known[name] < 0):
            raise ValueError(f"{name} is {known[name]!r}")
    shards = tuple(Shard(shard["file"], int(shard["count"]), shard["sha256"]) for shard in known["shards"])
    skipped = tuple(Skipped(str(entry["path"]), str(entry["reason"])) for entry in known["skipped"])
    class_names = tuple(map(str, known["class_names"]))
    index = CacheIndex(**{**known, "shards": shards, "skipped": skipped, "class_names": class_names})
    for name in ("img_size", "channels", "stride", "shard_size", "images"):
        if not isinstance(known[name], int) or known[name] < 1:
            raise ValueError(f"{name} is {known[name]!r}")
    if index.dtype not in DTYPES[index.kind] or len(shards) > index.wanted_shards:
        raise ValueError(f"dtype {index.dtype!r}, {len(shards)} of {index.wanted_shards} shards")
    for shard in shards:
        if type(shard.count) is not int or shard.count < (0 if shard.file is None else 1):
            raise ValueError(f"count of shard {shard.file!r} is {shard.count}")
        if shard.file is not None and not _SHARD_NAME.fullmatch(shard.file):
            raise ValueError(f"shard file {shard.file!r}")
    return index
