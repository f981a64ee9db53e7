"""Draws as torch makes them on a device: NumPy's words exactly, its normals to float32's rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import himar
from himar.families.hi_mar.device_draws import DeviceDraws, _philox_words, draws_on
from himar.images import to_pixels
from himar_kernels import InputError, PhiloxDraws
from himar_kernels.arithmetic.philox import philox4x32
from himar_kernels.families.hi_mar.recording import RecordedDraws
from tests.closeness import RUN, assert_near, assert_rounded

CPU = torch.device("cpu")
IMAGES = np.array([0, 3, 2**32 - 1])
POSITIONS = np.array([[0, 5, 65535], [1, 2, 3], [9, 8, 7]])


def test_words_are_philox() -> None:
    rng = np.random.default_rng(0)
    counter = rng.integers(0, 2**32, (64, 4), dtype=np.uint64).astype(np.uint32)
    counter[0], counter[1] = 0, 2**32 - 1
    for key in (0, 7, 2**64 - 1):
        words = _philox_words([torch.from_numpy(counter[:, word].astype(np.int64)) for word in range(4)], key)
        np.testing.assert_array_equal(torch.stack(words, -1).numpy().astype(np.uint32), philox4x32(counter, key))


def _require_same(found: torch.Tensor, wanted: np.ndarray) -> None:
    assert found.dtype == torch.float32 and tuple(found.shape) == wanted.shape
    assert_rounded(found, wanted, 2)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("channels", [1, 4, 6, 16])
def test_noise_is_the_hosts(device: str, channels: int) -> None:
    host, here = PhiloxDraws(2**63 + 5), DeviceDraws(2**63 + 5, torch.device(device))
    for phase in ("low", "high"):
        place = (phase, 3, IMAGES, POSITIONS, channels)
        _require_same(here.initial_noise(*place), host.initial_noise(*place))
        place = (phase, 3, range(40, 0, -1), IMAGES, POSITIONS, channels)
        _require_same(here.noise(*place), host.noise(*place))
        np.testing.assert_array_equal(here.order(phase, 9, IMAGES), host.order(phase, 9, IMAGES))


def test_coordinates_are_checked_as_on_the_host() -> None:
    with pytest.raises(InputError, match="position 0 to 65536 is requested from the draws"):
        DeviceDraws(1, CPU).noise("low", 0, [1], np.array([0]), np.array([[0, 65536]]), 4)


def test_only_philox_moves_and_only_to_a_gpu() -> None:
    philox, cuda = PhiloxDraws(5), torch.device("cuda", 0)
    assert draws_on(philox, CPU) is philox
    moved = draws_on(philox, cuda)
    assert isinstance(moved, DeviceDraws) and (moved.seed, moved.device) == (5, cuda)
    assert draws_on(moved, cuda) is moved
    recorded = object.__new__(RecordedDraws)
    assert draws_on(recorded, cuda) is recorded


def test_a_generation_takes_noise_that_is_there_already(model) -> None:
    """The sampler on the CPU with draws that come as tensors, as they do on a GPU."""
    tiny = himar.load_checkpoint(model).eval()
    host, here = (himar.generate(tiny, [0, 1], draws=draws(3)) for draws in (PhiloxDraws, _on_cpu))
    assert_near(here, host, RUN)


def _on_cpu(seed: int) -> DeviceDraws:
    return DeviceDraws(seed, CPU)


@pytest.mark.gpu
def test_pixels_made_on_a_gpu_are_the_hosts() -> None:
    images = 1.2 * torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(to_pixels(images.cuda()), to_pixels(images))
