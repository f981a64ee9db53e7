"""Damaged images of every format that Pillow writes, through the caching of latents and the readers of evaluate.

    python -m tests.himar.fuzz_images --files 9000

Prints what came of them as JSON. It fails when a file raises anything but a refusal, ends the process, or takes more
time or memory than the limits below. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from himar.data.cache import CacheSettings, cache_latents
from himar.data.crop import UnreadableImageError, check_image, read_picture
from himar.data.folder import list_images
from himar.evaluation.image_sets import ImageSet
from himar_kernels import InputError

VAE = Path(__file__).parents[2] / "himar" / "himar" / "weights" / "digits-vae.safetensors"
SECONDS, MEBIBYTES, BATCH = 60.0, 4096, 300
"""Most that one file may take, that all of a batch may, and files of a batch."""

_MODES = ("RGB", "L", "P", "1", "RGBA", "CMYK", "LA", "I;16")
_OPTIONS: dict[str, list[dict[str, object]]] = {
    "TIFF": [{"compression": name} for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")],
    "JPEG": [{}, {"progressive": True}],
    "PNG": [{}, {"compress_level": 0}, {"interlace": 1}],
    "WEBP": [{}, {"lossless": True}],
    "JPEG2000": [{}, {"irreversible": True}],
}


def whole_files(random: np.random.Generator) -> dict[str, list[bytes]]:
    """Return images of 40 × 36 pixels by format, as files, in every mode that the format takes."""
    Image.init()
    noise = Image.fromarray(random.integers(0, 256, (9, 10, 3), dtype=np.uint8)).resize((40, 36))
    exif = Image.Exif()
    exif[274] = 6
    files: dict[str, list[bytes]] = {}
    for kind in sorted(Image.SAVE):
        for mode in _MODES:
            for options in _OPTIONS.get(kind, [{}]):
                picture = noise.convert("L").convert(mode) if mode == "I;16" else noise.convert(mode)
                buffer = io.BytesIO()
                try:
                    picture.save(buffer, kind, exif=exif, **options)
                except Exception:  # the format has no such mode
                    continue
                files.setdefault(kind, []).append(buffer.getvalue())
    return files


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Return a file with one to three faults: cut short, bytes changed, cleared, removed, repeated or set to 255."""
    content = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        length = max(1, len(content))
        # Headers are short and decide most: half of the faults are there.
        place = int(random.integers(0, min(length, 64) if random.random() < 0.5 else length))
        size = int(random.integers(1, 9))
        fault = int(random.integers(0, 7))
        if fault == 0:
            del content[place:]
        elif fault == 1:
            content[place : place + 1] = bytes([content[place] ^ (1 << int(random.integers(0, 8)))]) if content else b""
        elif fault == 2:
            content[place : place + size] = random.bytes(len(content[place : place + size]))
        elif fault == 3:
            content[place : place + size] = bytes(len(content[place : place + size]))
        elif fault == 4:
            content[place : place + size] = b"\xff" * len(content[place : place + size])
        elif fault == 5:
            del content[place : place + size]
        else:
            content[place:place] = content[place : place + 8 * size]
    return bytes(content)


def write_files(folder: Path, numbers: range, seed: int) -> Counter[str]:
    """Write one damaged file per number, in a class folder per format; returns how many of each."""
    sources = whole_files(np.random.default_rng(seed))
    kinds = sorted(sources)
    counts: Counter[str] = Counter()
    for number in numbers:
        random = np.random.default_rng([seed, number])
        kind = kinds[number % len(kinds)]
        source = sources[kind][int(random.integers(0, len(sources[kind])))]
        # One in eight wears the name of another format.
        ending = "jpg" if random.random() < 0.125 else kind.lower()
        path = folder / kind / f"{number:06d}.{ending if ending in _NAMES else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged(source, random))
        counts[kind] += 1
    return counts


_NAMES = {"avif", "bmp", "gif", "ico", "jpeg", "jpg", "png", "ppm", "tga", "tiff", "webp", "pcx", "sgi", "dds", "qoi"}


def try_files(folder: Path, out: Path) -> dict[str, object]:
    """Cache the latents of a folder and read it as evaluate does; return what came of it.

    Raises whatever is not a refusal, and AssertionError where both disagree or a file takes too long.
    """
    images = list_images(folder)
    slowest, readable, reasons = 0.0, 0, Counter[str]()
    paths = tuple(images.path(index) for index in range(len(images.names)))
    for path in paths:
        start = time.perf_counter()
        try:
            picture = read_picture(path, 32)
            assert picture.pixels.shape == (32, 32, 3) and picture.pixels.dtype == np.uint8
            readable += 1
        except UnreadableImageError as error:
            assert str(error) and "\n" not in str(error) and str(folder) not in str(error), error
            reasons[" ".join(str(error).split()[:3])] += 1
        try:
            check_image(path)
            read_picture(path)
        except UnreadableImageError:
            pass
        seconds = time.perf_counter() - start
        assert seconds < SECONDS, f"{path} took {seconds:.0f} s"
        slowest = max(slowest, seconds)
    try:
        index = cache_latents(images, VAE, out, CacheSettings(img_size=32, shard_size=128, readers=2))
        assert index.count == readable, f"{index.count} images were cached, {readable} can be read"
    except InputError as error:
        assert "can be read" in str(error) and readable == 0, error
    try:
        ImageSet(folder, len(paths), (36, 40), paths).check()
    except InputError as error:
        assert "cannot be read" in str(error), error
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    assert peak < MEBIBYTES, f"the peak was {peak} MiB"
    return {
        "files": len(paths),
        "readable": readable,
        "slowest_seconds": slowest,
        "peak_mib": peak,
        "reasons": dict(reasons),
    }


def run(files: int, seed: int) -> Iterator[tuple[Counter[str], dict[str, object]]]:
    """Try damaged files in batches, each in a process of its own; yield what came of every batch."""
    for first in range(0, files, BATCH):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "images"
            counts = write_files(folder, range(first, min(first + BATCH, files)), seed)
            command = [sys.executable, __file__, "--try", str(folder), "--out", str(Path(place) / "cache")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
            if done.returncode:
                raise SystemExit(f"files {first} … of seed {seed} ended with {done.returncode}:\n{done.stderr[-3000:]}")
            yield counts, json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--try", dest="folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.folder:
        print(json.dumps(try_files(asked.folder, asked.out)))
        return
    kinds, reasons = Counter[str](), Counter[str]()
    total = {"files": 0, "readable": 0, "slowest_seconds": 0.0, "peak_mib": 0}
    for counts, found in run(asked.files, asked.seed):
        kinds += counts
        reasons += Counter(found.pop("reasons"))
        for name, value in found.items():
            total[name] = max(total[name], value) if name in ("slowest_seconds", "peak_mib") else total[name] + value
        print(f"{sum(kinds.values())} of {asked.files} written, {total['files']} read", file=sys.stderr)
    print(json.dumps({"seed": asked.seed, **total, "formats": dict(kinds), "reasons": dict(reasons.most_common(12))}))


if __name__ == "__main__":
    main()
