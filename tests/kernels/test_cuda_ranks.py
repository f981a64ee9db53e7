"""Orders and normals on a device must be those of NumPy bit for bit, or a seed gives another image there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from himar_kernels import ImageDraws, PhiloxDraws
from himar_kernels.arithmetic.draws import IMAGE_ORIGIN
from himar_kernels.families.hi_mar import Phase, launches

NORMALS = 1e-6  # how far a normal may be from NumPy's: it is drawn by itself, nothing is added up
EDGE_SEEDS = [0, 2**32 - 1, 2**32, 2**63 + 5, 2**64 - 1]


def ranks_on_device(workspace, draws: PhiloxDraws | ImageDraws, phase: Phase, n: int, images: np.ndarray) -> np.ndarray:
    ranks = workspace.empty((len(images), n), np.uint32)
    workspace.run(
        launches.ranks(
            ranks=ranks,
            origins=workspace.origins(draws, images),
            phase=0 if phase == "low" else 1,
            batch=len(images),
            n=n,
        )
    )
    return workspace.get(ranks)


def check_ranks(workspace, draws: PhiloxDraws | ImageDraws, phase: Phase, n: int, images: np.ndarray) -> np.ndarray:
    ranks = ranks_on_device(workspace, draws, phase, n, images)
    assert np.array_equal(ranks, np.argsort(draws.order(phase, n, images), axis=1))
    return ranks


@pytest.mark.parametrize("phase", ["low", "high"])
@pytest.mark.parametrize(("batch", "n"), [(1, 1), (3, 2), (3, 64), (2, 257)])
def test_ranks_are_where_the_order_puts_each_position(workspace, phase, batch, n):
    check_ranks(workspace, PhiloxDraws(7), phase, n, np.arange(5, 5 + batch))


@pytest.mark.parametrize("seed", EDGE_SEEDS)
def test_every_bit_of_seed_and_image_index_counts(workspace, seed):
    check_ranks(workspace, PhiloxDraws(seed), "low", 33, np.array([0, 2**31, 2**32 - 2, 2**32 - 1]))


def test_each_image_of_a_batch_has_a_seed_and_an_index_of_its_own(workspace):
    draws = ImageDraws(EDGE_SEEDS, [3, 3, 2**32 - 1, 0, 3])
    check_ranks(workspace, draws, "high", 33, np.arange(5))
    check_ranks(workspace, draws, "high", 33, np.array([4, 1]))  # a chunk of them


def test_equal_keys_are_ordered_by_position(workspace):
    image, ties = np.array([29480]), [262, 977]  # two keys of this image are equal under seed 12
    ranks = check_ranks(workspace, PhiloxDraws(12), "low", 1000, image)
    assert ranks[0, ties[1]] == ranks[0, ties[0]] + 1


@pytest.mark.parametrize(("batch", "n"), [(128, 256), (16, 1024), (1, 5000), (2, 8193)])
def test_large_batches_and_many_positions(large_workspace, batch, n):
    check_ranks(large_workspace, PhiloxDraws(2**40 + 3), "high", n, np.arange(batch))


def normals_of(words: str) -> list[float]:
    """Box-Muller of a Philox block by hand."""
    values = []
    random = [int(word, 16) for word in words.split()]
    for pair in (0, 2):
        radius = math.sqrt(-2 * math.log(((random[pair] >> 8) + 1) * 2.0**-24))
        angle = 2 * math.pi * ((random[pair + 1] >> 8) * 2.0**-24)
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return values


# Known-answer vectors published with Random123 (kat_vectors, philox4x32-10), as the coordinates whose counter and key
# they are: seed, phase, step, k, image, position, quad of channels, words. The vector at counter 0 would be noise at
# k = 0, where no kernel draws any.
KNOWN_ANSWERS = [
    (2**64 - 1, 0xFFFFFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFF, 0xFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        0x299F31D0A4093822, 0x03707344, 0x85A3, 0x08D3, 0x13198A2E, 0x243F, 0x6A88,
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("seed", "phase", "step", "k", "image", "position", "quad", "words"), KNOWN_ANSWERS)
def test_normals_are_those_of_the_published_philox_vectors(
    workspace, seed, phase, step, k, image, position, quad, words
):
    """One reverse step whose tables pass nothing but the noise: any k can be asked of it."""
    channels, steps = 4 * quad + 4, k + 1
    state = workspace.state(phase=phase, step=step, masked=1, revealed=1, chain_length=steps, k=k, temperature=1)
    common = {
        "timestep": workspace.empty((1,), np.int64),
        "state": state,
        "timesteps": workspace.put(np.arange(steps)),
        "origins": workspace.put(np.array([(seed, image)], IMAGE_ORIGIN)),
        "revealed": workspace.put(np.array([[position]], np.uint32)),
        "batch": 1,
        "halves": 1,
        "r": 1,
        "C": channels,
    }
    x = workspace.put(np.zeros((1, channels), np.float32))
    if k == 0xFFFF:  # the initial noise's
        workspace.run(launches.start_low(x=x, **common))
    else:
        workspace.run(
            launches.mlp_step(
                x=x,
                low_tokens=workspace.empty((2, 1, channels)),
                chain=workspace.put(np.zeros((steps, 8), np.float32)),
                prediction=workspace.put(np.zeros((1, 2 * channels), np.float32)),
                fault=workspace.fault(),
                S=1,
                **common,
            )
        )
    assert np.abs(workspace.get(x)[0, -4:] - normals_of(words)).max() < NORMALS
