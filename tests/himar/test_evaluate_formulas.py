"""FID, inception score, precision and recall: the numbers of trusted libraries on the same features."""

import numpy as np
import pytest
import scipy.linalg
from closeness import assert_near
from sklearn.neighbors import NearestNeighbors

import himar.evaluation.frechet as frechet
from himar.evaluation.extractor import Features, extract
from himar.evaluation.frechet import Gaussian, fit_gaussian, frechet_distance
from himar.evaluation.inception_score import inception_score
from himar.evaluation.neighbours import precision_recall
from himar_kernels import InputError


def features(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return (random.normal(size=(count, width)) @ mixing + shift).astype(np.float32)


def by_scipy(first: np.ndarray, second: np.ndarray) -> float:
    a, b = (part.astype(np.float64) for part in (first, second))
    covariances = [np.atleast_2d(np.cov(part, rowvar=False)) for part in (a, b)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    difference = a.mean(0) - b.mean(0)
    return difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * np.real(root))


@pytest.mark.parametrize("width", [1, 7, 64])
def test_frechet_distance_is_scipys(width):
    first, second = features(300, width, 0), features(200, width, 1, shift=0.3)
    ours = frechet_distance(fit_gaussian(first), fit_gaussian(second))
    assert ours == pytest.approx(by_scipy(first, second), rel=1e-9)
    assert ours == pytest.approx(frechet_distance(fit_gaussian(second), fit_gaussian(first)), rel=1e-9)


def test_gaussians_do_not_depend_on_how_the_features_are_blocked():
    part = features(100, 5, 0) + 1000
    whole, blocked = fit_gaussian(part), fit_gaussian(part, block=7)
    assert_near(whole.covariance, np.cov(part.astype(np.float64), rowvar=False), 1e-10)
    assert_near(blocked.covariance, whole.covariance, 1e-12)


def test_commuting_covariances_have_the_closed_form():
    a, b = np.array([4.0, 9.0, 0.0]), np.array([1.0, 25.0, 2.0])
    first, second = Gaussian(np.zeros(3), np.diag(a)), Gaussian(np.array([1.0, 0, 2]), np.diag(b))
    assert frechet_distance(first, second) == pytest.approx(5 + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum(), rel=1e-12)


def test_fewer_images_than_dimensions_still_give_zero_against_itself():
    # Square roots of rounded eigenvalues would leave about 1e-6 of the trace for every lost dimension.
    gaussian = fit_gaussian(features(20, 200, 0))
    assert frechet_distance(gaussian, gaussian) < 1e-9 * np.trace(gaussian.covariance)


def test_singular_values_that_do_not_converge_are_replaced(monkeypatch):
    pair = fit_gaussian(features(300, 16, 0)), fit_gaussian(features(300, 16, 1, 0.2))
    usual = frechet_distance(*pair)

    def fails(*arguments, **options):
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(frechet.np.linalg, "svd", fails)
    assert frechet_distance(*pair) == pytest.approx(usual, rel=1e-8)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_precision_and_recall_are_those_of_sklearns_neighbours(k):
    real, generated = features(230, 8, 0), features(170, 8, 1, shift=0.8)

    def covered(points: np.ndarray, centres: np.ndarray) -> float:
        index = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(centres.astype(np.float64))
        radii = index.kneighbors(centres.astype(np.float64))[0][:, k]
        everyone = NearestNeighbors(n_neighbors=len(centres), algorithm="brute").fit(centres.astype(np.float64))
        distances, order = everyone.kneighbors(points.astype(np.float64))
        return float((distances <= radii[order]).any(axis=1).mean())

    rows = []
    precision, recall = precision_recall(real, generated, k, on_rows=lambda done, every: rows.append((done, every)))
    assert rows[-1] == (800, 800)
    assert (precision, recall) == (covered(generated, real), covered(real, generated))
    assert 0.05 < precision < 1


def test_precision_of_half_copies_and_half_strangers_is_one_half():
    real = features(100, 4, 0)
    assert precision_recall(real, real) == (1.0, 1.0)
    far = np.concatenate([real[:50], real[50:] + 1000])
    precision, recall = precision_recall(real, far)
    assert precision == 0.5
    assert recall >= 0.5


def test_copies_of_one_image_lie_in_each_others_balls():
    # All radii are 0: only exact zeros among the distances count.
    same = np.repeat(features(1, 64, 0), 6, axis=0)
    assert precision_recall(same, same) == (1.0, 1.0)
    assert precision_recall(same, same + np.float32(0.01)) == (0.0, 0.0)


def test_inception_score_is_the_plain_formula():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(12, 0.3), size=503).astype(np.float32)
    score, deviation = inception_score(probabilities)
    order = np.random.Generator(np.random.PCG64(0)).permutation(503)
    scores = []
    for part in np.array_split(order, 10):
        rows = [[float(p) for p in probabilities[i]] for i in part]
        marginal = [sum(row[c] for row in rows) / len(rows) for c in range(12)]
        kl = [sum(p * np.log(p / q) for p, q in zip(row, marginal, strict=True) if p > 0) for row in rows]
        scores.append(np.exp(sum(kl) / len(kl)))
    assert score == pytest.approx(np.mean(scores), rel=1e-12)
    assert deviation == pytest.approx(np.std(scores), rel=1e-12)


def test_inception_score_of_sure_and_even_classes_is_their_number_whatever_the_order():
    sure = np.eye(5, dtype=np.float32)[np.repeat(np.arange(5), 400)]
    score, _ = inception_score(sure)
    assert 4.9 < score <= 5  # a folder sorted by class would give 1 in consecutive parts
    assert inception_score(np.full((50, 5), 0.2))[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: precision_recall(features(3, 4, 0), features(9, 4, 1), 3), "k is 3, but the reference set has 3"),
        (lambda: precision_recall(features(9, 4, 0), features(2, 4, 1), 2), "k is 2, but the measured set has 2"),
        (lambda: precision_recall(features(9, 4, 0), features(9, 5, 1)), "4 dimensions and the other of 5|5.*of 4"),
        (lambda: frechet_distance(fit_gaussian(features(9, 4, 0)), fit_gaussian(features(9, 5, 1))), "4 dimensions"),
        (lambda: fit_gaussian(features(1, 4, 0)), "at least 2"),
        (lambda: fit_gaussian(np.full((3, 2), np.nan)), "not finite"),
        (lambda: Gaussian(np.zeros(3), np.zeros((2, 2))), r"\(3,\) came with a covariance of shape \(2, 2\)"),
        (lambda: inception_score(np.ones((9, 3)) / 3), "at least 10"),
    ],
)
def test_what_cannot_be_computed_is_refused(call, named):
    with pytest.raises(InputError, match=named):
        call()


class Broken:
    name, sha256 = "broken", "0"

    def __call__(self, images: np.ndarray) -> Features:
        pool = images[:, 0, 0].astype(np.float32)
        pool[images[:, 0, 0] == 7] = np.nan
        return Features(pool, pool * 0, pool * 0)


def test_features_that_are_not_finite_name_the_image():
    images = np.zeros((10, 2, 2, 3), np.uint8)
    images[7] = 7
    with pytest.raises(InputError, match="pool features of image 7 are not finite"):
        extract(Broken(), np.split(images, 5), 10)
