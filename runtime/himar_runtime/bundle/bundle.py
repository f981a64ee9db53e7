"""Opens a bundle: reads its manifest and hashes its files, all at once or each before it is read.

A bundle's files lie in its folder. In the Hub's local cache, `models--OWNER--NAME/snapshots/REVISION/`, every file is a
link to `models--OWNER--NAME/blobs/`, so links to files there are followed too. All other links out are refused.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import BundleError
from himar_kernels.shared.files import file_sha256

from .manifest import MANIFEST_NAME, Manifest, inside, parse_manifest

log = logging.getLogger(__name__)

_HUB_REPOSITORY = re.compile("(models|datasets|spaces)--.+")


@dataclass(frozen=True)
class Bundle:
    """A folder whose manifest was read and whose files were checked.

    Attributes:
        root: the folder, resolved.
        manifest: what it says.
        id: sha256 of the manifest. The manifest holds every file's hash, so the id names the whole bundle.
        unread: files whose hash was not compared yet; it is before they are read.
    """

    root: Path
    manifest: Manifest
    id: str
    unread: set[str] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path, hash_when_read: bool = False) -> Bundle:
        """Read the manifest at `path` and verify the size and hash of every file it names.

        hash_when_read: compare a file's hash before it is read, so that files which nobody reads cost nothing.

        Raises BundleError: no folder or manifest, a newer schema, a path that leads out of the bundle, a
        missing or changed file.
        """
        root = Path(path)
        if not root.is_dir():
            raise BundleError(f"{root} is not a folder; give a bundle that `himar-export build` wrote.")
        root = root.resolve()
        source = root / MANIFEST_NAME
        _require_inside(root, MANIFEST_NAME)  # it may be a link, too
        if not source.is_file():
            raise BundleError(
                f"{root} has no {MANIFEST_NAME}, so it is not a bundle; make one with `himar-export build`."
            )
        try:
            text = source.read_bytes()
        except OSError as error:
            raise BundleError(f"{source} cannot be read: {error.strerror}.") from error
        bundle = cls(root, parse_manifest(text, str(source)), hashlib.sha256(text).hexdigest())
        bundle._verify_sizes()
        bundle.unread.update(bundle.manifest.files)
        if not hash_when_read:
            bundle.check(bundle.manifest.files)
        log.info("opened bundle %s (%d files)", root, len(bundle.manifest.files))
        return bundle

    def path(self, relative: str) -> Path:
        """Return the path of a file of the bundle to read it; BundleError if it leads outside or is damaged."""
        path = self.place(relative)
        self.check((relative,) if relative in self.manifest.files else self.manifest.files)  # by another spelling
        return path

    def place(self, relative: str) -> Path:
        """Return the path of a file that is not read yet; BundleError if it leads outside, also by way of a link.

        It is the path by the bundle's own names: a graph looks for its weights beside itself by theirs, which the
        targets of links need not have.
        """
        _require_inside(self.root, inside(relative, str(self.root / MANIFEST_NAME)))
        return self.root / relative

    def array(self, entry: Mapping[str, Any]) -> NDArray[Any]:
        """Return the array that an entry {file, offset, dtype, shape} points at; BundleError where there is none."""
        try:
            shape, dtype = tuple(map(int, entry["shape"])), np.dtype(entry["dtype"])
            with self.path(entry["file"]).open("rb") as file:
                file.seek(entry["offset"])
                return np.fromfile(file, dtype, math.prod(shape)).reshape(shape)
        except (KeyError, TypeError, ValueError, OSError, OverflowError) as error:
            raise BundleError(
                f"{self.root / MANIFEST_NAME} points at an array that is not there ({error}); build the bundle again."
            ) from error

    def floats(self, entry: Mapping[str, Any], shape: tuple[int, ...], key: str) -> NDArray[np.float32]:
        """Return the float32 array of a file that an entry {file, sha256} names: raw values, little-endian.

        key: the entry's in the manifest. Raises BundleError when the file is not the one whose hash was checked, or of
        another size.
        """
        source = self.root / MANIFEST_NAME
        name, found = entry["file"], self.manifest.files.get(entry["file"])
        if found is None:
            raise BundleError(f"{source} names {name}, but gives no hash for it; build the bundle again.")
        if found.sha256 != entry["sha256"]:
            raise BundleError(
                f"{source}: {key}.sha256 is not the sha256 of {name}; copy the bundle again or rebuild it."
            )
        if found.bytes != 4 * math.prod(shape):
            raise BundleError(
                f"{name} in {self.root} has {found.bytes} bytes, but {key} of shape {shape} takes "
                f"{4 * math.prod(shape)}; build the bundle again."
            )
        return np.fromfile(self.path(name), "<f4").astype(np.float32).reshape(shape)

    def check(self, names: Iterable[str]) -> None:
        """Compare the hashes of files that are about to be read, unless they were; BundleError where one differs."""
        for relative in names:
            if relative not in self.unread:
                continue
            if file_sha256(self.place(relative), BundleError) != self.manifest.files[relative].sha256:
                raise BundleError(
                    f"{relative} in {self.root} does not have the manifest's sha256: it is damaged; "
                    f"copy the bundle again or rebuild it."
                )
            self.unread.discard(relative)

    def _verify_sizes(self) -> None:
        for relative, entry in self.manifest.files.items():
            path = self.place(relative)
            if not path.is_file():
                raise BundleError(f"{self.root} lacks its file {relative}; copy the bundle again.")
            size = path.stat().st_size
            if size != entry.bytes:
                raise BundleError(
                    f"{relative} in {self.root} has {size} bytes where the manifest says {entry.bytes}; "
                    f"copy the bundle again or rebuild it."
                )


def _require_inside(root: Path, relative: str) -> None:
    """Raise BundleError if `relative` leads, links resolved, neither into a folder nor to a blob of its Hub cache."""
    try:
        resolved = (root / relative).resolve()
    except (OSError, RuntimeError) as error:  # until Python 3.12 links in a circle are a RuntimeError
        raise BundleError(f"{relative} in {root} cannot be opened: {os.strerror(errno.ELOOP)}.") from error
    if not resolved.is_relative_to(root) and resolved.parent != _blobs(root):
        raise BundleError(
            f"{relative} in {root} is a link that leads out of the bundle; refusing to load it: copy the bundle with "
            f"real files (cp -rL), or download it again with local_dir."
        )


def _blobs(root: Path) -> Path | None:
    """Return the folder of the files that a snapshot in the Hub's cache links to; None for any other folder."""
    for folder in root.parents:
        if folder.name == "snapshots" and _HUB_REPOSITORY.fullmatch(folder.parent.name):
            return folder.parent / "blobs"
    return None
