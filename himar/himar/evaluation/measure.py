"""Makes one measurement: images against a reference, in one extractor's features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .extractor import Extractor, Features, OnImages, extract
from .image_sets import ImageSet, holds_images, open_images
from .metrics import NEIGHBOURS, SPLITS, fit_gaussian, frechet_distance, inception_score, precision_recall
from .statistics_files import Statistics, has_statistics, read_statistics

OnStage = Callable[[str], OnImages | None]


@dataclass(frozen=True)
class Report:
    """What came out, and of what.

    None stands for what the reference does not allow: distances without one, sFID without spatial statistics,
    precision and recall without its images. turned, transparent: how many images were rotated by EXIF, or put on white;
    None for what was not read from files. `warnings` are sentences on how far the numbers can be trusted.
    """

    source: str
    images: int
    extractor: str
    extractor_sha256: str
    reference: str | None
    reference_images: int | None
    fid: float | None
    sfid: float | None
    inception_score: float
    inception_score_deviation: float
    precision: float | None
    recall: float | None
    neighbours: int
    splits: int
    warnings: tuple[str, ...]
    turned: int | None = None
    transparent: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Reference:
    """What images are held against; features are None where only statistics are known."""

    source: Path
    statistics: Statistics
    features: Features | None
    size: tuple[int, int] | None


def statistics_of(features: Features) -> Statistics:
    """Fit both Gaussians. Raises InputError below two images."""
    return Statistics(fit_gaussian(features.pool), fit_gaussian(features.spatial))


def check_reference(
    source: Path, extractor: Extractor, on_images: OnImages | None = None, crop: int | None = None
) -> ImageSet | None:
    """Raise InputError as `open_reference` would, as far as can be told before any feature is computed.

    Every file of a folder is read, `on_images` told of it; crop: see `open_images`. Returns the images, None where
    there are statistics alone.
    """
    if source.is_file() and source.suffix == ".npz" and has_statistics(source):
        read_statistics(source, extractor.sha256)
        if not holds_images(source):
            return None
    images = open_images(source, crop)
    images.check(on_images)
    return images


def open_reference(
    source: Path, extractor: Extractor, batch: int, on_stage: OnStage | None = None, crop: int | None = None
) -> Reference:
    """Read a statistics file, with ADM's images for precision and recall if it has them, or measure a folder or `.npz`.

    Statistics in a file are used rather than those of its images, which are only some of them; crop: see `open_images`.
    Raises InputError.
    """
    given = None
    if source.is_file() and source.suffix == ".npz" and has_statistics(source):
        given = read_statistics(source, extractor.sha256)
        if not holds_images(source):
            return Reference(source, given, None, None)
    images = open_images(source, crop)
    features = _features(images, extractor, batch, on_stage, "reference")
    return Reference(source, given or statistics_of(features), features, images.size)


def measure(
    images: ImageSet,
    extractor: Extractor,
    reference: Reference | None = None,
    *,
    k: int = NEIGHBOURS,
    splits: int = SPLITS,
    batch: int = 64,
    device: str = "cpu",
    on_stage: OnStage | None = None,
) -> tuple[Report, Features]:
    """Measure images and return the report with their features.

    Args:
        images: what to measure.
        extractor: whose features are compared; the reference must be of the same.
        reference: what to hold them against; without it only the inception score comes out.
        k: neighbour that sets a ball's radius in precision and recall.
        splits: parts of the inception score.
        batch: images per run of the extractor.
        device: where neighbours are searched.
        on_stage: told "images" and "neighbours" when that begins; may return a callback of (done, all).

    Raises InputError for too few images, other sizes of features, or features that are not finite.
    """
    features = _features(images, extractor, batch, on_stage, "images")
    score, deviation = inception_score(features.probabilities, splits)
    fid = sfid = precision = recall = None
    if reference is not None:
        statistics = statistics_of(features)
        fid = frechet_distance(reference.statistics.pool, statistics.pool)
        if reference.statistics.spatial is not None and statistics.spatial is not None:
            sfid = frechet_distance(reference.statistics.spatial, statistics.spatial)
        if reference.features is not None:
            on_rows = on_stage("neighbours") if on_stage else None
            precision, recall = precision_recall(reference.features.pool, features.pool, k, device, on_rows)
    report = Report(
        source=str(images.source),
        images=images.count,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        reference=str(reference.source) if reference else None,
        reference_images=reference.statistics.pool.count if reference else None,
        fid=fid,
        sfid=sfid,
        inception_score=score,
        inception_score_deviation=deviation,
        precision=precision,
        recall=recall,
        neighbours=k,
        splits=splits,
        warnings=tuple(_warnings(images, features, extractor, reference, splits)),
    )
    return report, features


def _features(images: ImageSet, extractor: Extractor, batch: int, on_stage: OnStage | None, stage: str) -> Features:
    return extract(extractor, images.batches(batch), images.count, on_stage(stage) if on_stage else None)


def _warnings(
    images: ImageSet, features: Features, extractor: Extractor, reference: Reference | None, splits: int
) -> list[str]:
    found = []
    if not getattr(extractor, "published", True):
        found.append("the Inception weights are not the published ones, so no number can be compared with papers'")
    classes = features.probabilities.shape[1]
    if images.count < splits * classes:
        found.append(
            f"the inception score is taken over parts of {images.count // splits} images, fewer than the extractor's "
            f"{classes} classes: it is biased downwards"
        )
    if reference is None:
        return found
    width = max(features.pool.shape[1], features.spatial.shape[1])
    for name, count in (("measured", images.count), ("reference", reference.statistics.pool.count)):
        if count is not None and count <= width:
            found.append(
                f"the {name} set has {count} images, no more than the features' {width} dimensions: "
                f"FID and sFID are biased upwards"
            )
    if reference.size is not None and reference.size != images.size:
        found.append(
            f"the images are {images.size[0]}×{images.size[1]} and the reference's "
            f"{reference.size[0]}×{reference.size[1]} pixels: what differs may be the resizing"
        )
    return found
