"""Counter-based draws: what a number depends on, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import InputError, philox4x32
from himar_kernels.families.hmar import ImageDraws, PhiloxDraws

IMAGES = np.arange(3)


def test_a_uniform_is_word_zero_at_its_counter() -> None:
    uniforms = PhiloxDraws(2**40 + 7).uniforms(3, 2, np.array([5]), 40)
    assert uniforms.dtype == np.float32 and uniforms.shape == (1, 40)
    for cell in (0, 1, 39):
        words = philox4x32(np.array([cell << 16, 3 << 16 | 2, 5, 2 << 8], np.uint32), 2**40 + 7)
        assert float(uniforms[0, cell]) == (int(words[0]) >> 8) / 2**24


def test_gumbel_noise_is_at_its_counters() -> None:
    noise = PhiloxDraws(9).gumbel(2, IMAGES, 4, 6)
    words = philox4x32(np.array([3 << 16 | 1, 2 << 16, 1, 3 << 8], np.uint32), 9)
    expected = -np.log(-np.log(((int(words[1]) >> 8) + 0.5) / 2**24))
    assert noise.shape == (3, 4, 6)
    assert noise[1, 3, 5] == np.float32(expected)


def test_images_of_seeds_and_indices_of_their_own_are_those_of_each_alone() -> None:
    seeds, indices = [3, 2**64 - 1, 3], [0, 7, 1]
    together = ImageDraws(seeds, indices)
    for row, (seed, index) in enumerate(zip(seeds, indices, strict=True)):
        alone, at = PhiloxDraws(seed), np.array([index])
        assert np.array_equal(together.uniforms(3, 2, IMAGES, 9)[row], alone.uniforms(3, 2, at, 9)[0])
        assert np.array_equal(together.gumbel(1, IMAGES, 4, 6)[row], alone.gumbel(1, at, 4, 6)[0])


def test_an_image_does_not_depend_on_its_batch() -> None:
    draws = PhiloxDraws(1)
    every = draws.uniforms(4, 1, IMAGES, 25)
    assert np.array_equal(draws.uniforms(4, 1, np.array([2]), 25), every[2:])
    assert np.array_equal(draws.uniforms(4, 1, np.array([2, 0]), 25), every[[2, 0]])
    assert np.array_equal(draws.gumbel(1, IMAGES, 4, 10)[1:2], draws.gumbel(1, np.array([1]), 4, 10))


def test_seed_image_scale_step_and_cell_all_matter() -> None:
    seen = {
        tuple(PhiloxDraws(seed).uniforms(scale, step, np.array([image]), 3)[0])
        for seed in (0, 1, 2**32)
        for scale in (0, 1)
        for step in (0, 1)
        for image in (0, 1)
    }
    assert len(seen) == 24
    assert len(set(PhiloxDraws(0).uniforms(9, 0, np.array([0]), 256)[0])) > 250


def test_the_distributions_are_the_named_ones() -> None:
    uniforms = PhiloxDraws(3).uniforms(0, 0, np.arange(64), 1024)
    assert 0 <= uniforms.min() < 0.001 and 0.999 < uniforms.max() < 1
    assert abs(uniforms.mean() - 0.5) < 0.005 and abs(uniforms.var() - 1 / 12) < 0.002
    noise = PhiloxDraws(3).gumbel(0, np.arange(16), 16, 256)
    assert abs(noise.mean() - 0.5772) < 0.02 and abs(noise.var() - np.pi**2 / 6) < 0.05


def test_coordinates_that_do_not_fit_their_bits() -> None:
    draws = PhiloxDraws(0)
    with pytest.raises(InputError, match="scale 65536 to 65536 is asked of the draws; it must be 0 to 65535"):
        draws.uniforms(65536, 0, IMAGES, 1)
    with pytest.raises(InputError, match="image index -1 to -1"):
        draws.uniforms(0, 0, np.array([-1]), 1)
    with pytest.raises(InputError, match="cell 65536"):
        draws.uniforms(0, 0, IMAGES, 65537)
    with pytest.raises(InputError, match="seed is -1"):
        PhiloxDraws(-1)
