"""The same seed must give the same image everywhere: draws depend on their coordinates only."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from himar_kernels import ImageDraws, InputError, PhiloxDraws, philox4x32
from himar_kernels.arithmetic.draws import image_origins
from himar_kernels.families.hi_mar import Phase

# Known-answer vectors published with Random123 (kat_vectors, philox4x32-10): counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def _words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter: str, key: str, answer: str) -> None:
    low, high = _words(key)
    words = philox4x32(np.array([_words(counter)] * 3, np.uint32), low | high << 32)
    assert words.dtype == np.uint32
    assert words.tolist() == [_words(answer)] * 3


def _normal_by_hand(seed: int, phase: int, step: int, k: int, image: int, position: int, channel: int) -> float:
    counter = np.array([position << 16 | channel >> 2, step << 16 | k, image, phase], np.uint32)
    words = [int(word) for word in philox4x32(counter, seed)]
    pair = channel >> 1 & 1
    radius = math.sqrt(-2 * math.log(((words[2 * pair] >> 8) + 1) * 2.0**-24))
    angle = 2 * math.pi * ((words[2 * pair + 1] >> 8) * 2.0**-24)
    return radius * (math.sin(angle) if channel & 1 else math.cos(angle))


SEEDS, INDICES = [7, 2**64 - 1, 7, 0, 2**32], [0, 5, 1, 0, 2**32 - 1]


def test_images_of_seeds_and_indices_of_their_own_are_those_of_each_alone() -> None:
    together, images = ImageDraws(SEEDS, INDICES), np.arange(5)
    positions = np.array([[0, 3, 9], [1, 2, 3], [9, 8, 7], [4, 5, 6], [0, 1, 2]])
    order = together.order("low", 20, images)
    noise = together.noise("high", 3, [4, 2], images, positions, 6)
    for row, (seed, index) in enumerate(zip(SEEDS, INDICES, strict=True)):
        alone, at, place = PhiloxDraws(seed), np.array([index]), positions[row : row + 1]
        assert np.array_equal(order[row : row + 1], alone.order("low", 20, at))
        assert np.array_equal(noise[:, row : row + 1], alone.noise("high", 3, [4, 2], at, place, 6))
    last = np.array([4, 1])  # a chunk of them
    assert np.array_equal(
        together.initial_noise("low", 0, last, positions[last], 5),
        np.concatenate([
            PhiloxDraws(SEEDS[row]).initial_noise("low", 0, np.array([INDICES[row]]), positions[row : row + 1], 5)
            for row in last
        ]),
    )  # fmt: skip


def test_blocks_of_many_images_take_each_one_s_seed() -> None:
    seeds = list(range(100, 160))
    positions = np.tile(np.arange(256), (60, 1))
    found = ImageDraws(seeds, [3] * 60).noise("high", 0, [9, 8, 7], np.arange(60), positions, 16)
    for row in (0, 31, 59):
        alone = PhiloxDraws(seeds[row]).noise("high", 0, [9, 8, 7], np.array([3]), positions[:1], 16)
        assert np.array_equal(found[:, row : row + 1], alone)


def test_seeds_of_images_are_checked() -> None:
    with pytest.raises(InputError, match="seed is -1; it must be a whole number"):
        ImageDraws([1, -1], [0, 0])
    with pytest.raises(InputError, match="2 seeds and 1 image indices are given; give each image both"):
        ImageDraws([1, 2], [0])
    with pytest.raises(InputError, match=r"image index is 4294967296; it must be a whole number from 0 to 2\^32-1"):
        ImageDraws([1, 2], [0, 2**32])
    with pytest.raises(InputError, match="image index is True; it must be a whole number"):
        ImageDraws([1], [True])


def test_origins_say_where_the_kernels_draw_each_image_from() -> None:
    found = image_origins(ImageDraws(SEEDS, INDICES), np.array([3, 0]))
    assert found.tolist() == [(SEEDS[3], INDICES[3]), (SEEDS[0], INDICES[0])]
    assert image_origins(PhiloxDraws(2**64 - 1), np.array([2**32 - 1])).tolist() == [(2**64 - 1, 2**32 - 1)]
    assert image_origins(object(), np.array([5, 2])).tolist() == [(0, 5), (0, 2)]


@given(
    seed=st.integers(0, 2**64 - 1),
    high=st.booleans(),
    step=st.integers(0, 300),
    k=st.integers(0, 999),
    image=st.integers(0, 2**32 - 1),
    position=st.integers(0, 65535),
    channel=st.integers(0, 20),
)
def test_a_normal_is_the_documented_function_of_its_coordinates(
    seed: int, high: bool, step: int, k: int, image: int, position: int, channel: int
) -> None:
    draws = PhiloxDraws(seed)
    phase: Phase = "high" if high else "low"
    where = (np.array([image]), np.array([[position]]), channel + 1)
    expected = _normal_by_hand(seed, int(high), step, k, image, position, channel)
    assert abs(draws.noise(phase, step, [k], *where)[0, 0, 0, channel] - expected) < 1e-6
    expected = _normal_by_hand(seed, int(high), step, 0xFFFF, image, position, channel)
    assert abs(draws.initial_noise(phase, step, *where)[0, 0, channel] - expected) < 1e-6


def test_draws_do_not_depend_on_batch_blocks_or_positions_asked_together() -> None:
    draws = PhiloxDraws(2**63 + 5)
    images = np.arange(40)
    positions = np.tile(np.arange(256), (40, 1))
    together = draws.noise("high", 2, [9, 8, 7], images, positions, 16)
    assert together.shape == (3, 40, 256, 16)
    assert together.dtype == np.float32
    one = draws.noise("high", 2, [8], images[31:32], positions[31:32, 100:103], 16)
    assert np.array_equal(one[0, 0], together[1, 31, 100:103])
    assert np.array_equal(draws.noise("high", 2, [8], images, positions, 3), together[1:2, ..., :3])
    assert np.array_equal(draws.order("low", 64, images)[7:9], draws.order("low", 64, images[7:9]))


def test_orders_are_permutations_that_differ() -> None:
    orders = np.concatenate([PhiloxDraws(3).order(phase, 256, np.arange(20)) for phase in ("low", "high")])
    assert np.array_equal(np.sort(orders, axis=1), np.tile(np.arange(256), (40, 1)))
    assert len({tuple(order) for order in orders}) == 40


def test_orders_are_uniform() -> None:
    orders = PhiloxDraws(1).order("high", 8, np.arange(20000))
    counts = np.stack([np.bincount(orders[:, place], minlength=8) for place in range(8)])
    assert np.abs(counts / 20000 - 1 / 8).max() < 0.011  # 4.7 standard deviations of 64 counts


def test_normals_are_standard_and_uncorrelated() -> None:
    noise = PhiloxDraws(11).noise("high", 0, range(60), np.arange(4), np.tile(np.arange(256), (4, 1)), 16)
    values = noise.astype(np.float64)
    error = 5 / math.sqrt(values.size)
    assert abs(values.mean()) < error
    assert abs((values**2).mean() - 1) < error * math.sqrt(2)
    assert abs((values**3).mean()) < error * math.sqrt(15)
    assert abs((values**4).mean() - 3) < error * math.sqrt(96)
    for axis in range(4):  # neighbours along diffusion step, image, position, channel
        ahead = np.roll(values, 1, axis)
        assert abs((values * ahead).mean()) < error


def test_kinds_phases_steps_and_seeds_give_different_numbers() -> None:
    where = (np.array([0]), np.array([[0]]), 4)
    draws = PhiloxDraws(0)
    firsts = [
        draws.noise("low", 0, [0], *where)[0, 0, 0, 0],
        draws.noise("high", 0, [0], *where)[0, 0, 0, 0],
        draws.noise("low", 1, [0], *where)[0, 0, 0, 0],
        draws.noise("low", 0, [1], *where)[0, 0, 0, 0],
        draws.initial_noise("low", 0, *where)[0, 0, 0],
        PhiloxDraws(1).noise("low", 0, [0], *where)[0, 0, 0, 0],
        PhiloxDraws(2**32).noise("low", 0, [0], *where)[0, 0, 0, 0],
    ]
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "7", None])
def test_a_seed_outside_64_bits_is_refused(seed: object) -> None:
    with pytest.raises(InputError, match=r"seed is .* from 0 to 2\^64-1"):
        PhiloxDraws(seed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "k", "image", "position", "channels", "named"),
    [
        (65536, 0, 0, 0, 16, "step"),
        (0, 65535, 0, 0, 16, "chain indices"),
        (0, 0, 2**32, 0, 16, "image index"),
        (0, 0, -1, 0, 16, "image index"),
        (0, 0, 0, 65536, 16, "position"),
        (0, 0, 0, 0, 2**18 + 1, "channel"),
    ],
)
def test_coordinates_that_would_overflow_the_counter_are_refused(
    step: int, k: int, image: int, position: int, channels: int, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        PhiloxDraws(0).noise("low", step, [k], np.array([image]), np.array([[position]]), channels)
