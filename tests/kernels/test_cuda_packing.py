"""Latents and pixels made on a device must be NumPy's, or the same seed gives files that differ."""

from __future__ import annotations

import numpy as np
import pytest

from himar_kernels import to_uint8
from himar_kernels.families.hi_mar import describe_fault, launches


def latents(workspace, batch: int, n: int, channels: int) -> None:
    rng = np.random.default_rng([batch, n, channels])
    tokens = rng.normal(size=(batch, n, channels)).astype(np.float32)
    out = workspace.empty((batch, channels, n))
    workspace.run(
        launches.latents(
            latents=out, tokens=workspace.put(tokens), vae_scale=0.2325, batch=batch, n=n, channels=channels
        )
    )
    assert np.array_equal(workspace.get(out), tokens.transpose(0, 2, 1) / np.float32(0.2325))


@pytest.mark.parametrize(("batch", "n", "channels"), [(1, 1, 1), (3, 49, 17), (2, 64, 16), (5, 25, 3)])
def test_latents_are_transposed_tokens_without_the_scale(workspace, batch, n, channels):
    latents(workspace, batch, n, channels)


def test_latents_of_a_large_batch(large_workspace):
    latents(large_workspace, 128, 1024, 16)


def packed(workspace, images: np.ndarray, shift: int = 0) -> tuple[np.ndarray, int]:
    batch, _, area = images.shape
    pixels, fault = workspace.empty((batch, area, 3), np.uint8, shift), workspace.fault()
    address = workspace.put(images, shift)
    workspace.run(launches.pack(pixels=pixels, images=address, fault=fault, batch=batch, area=area))
    return workspace.get(pixels), int(workspace.get(fault))


@pytest.mark.parametrize(("batch", "area", "shift"), [(1, 1, 0), (3, 49, 0), (2, 64, 0), (2, 64, 4), (4, 1023, 0)])
def test_pixels_are_rounded_and_laid_out_as_numpy_does(workspace, batch, area, shift):
    images = np.random.default_rng(area).uniform(-1.3, 1.3, (batch, 3, area)).astype(np.float32)
    pixels, fault = packed(workspace, images, shift)
    assert fault == 0
    assert np.array_equal(pixels, to_uint8(images[..., None])[:, :, 0])


def test_every_rounding_boundary(workspace):
    halves = (np.arange(-2, 514) / 255 - 1).astype(np.float32)  # 127.5·(x + 1) is a whole number or half of one
    images = np.concatenate([halves, np.nextafter(halves, -9), np.nextafter(halves, 9)])[None, None].repeat(3, axis=1)
    pixels, fault = packed(workspace, images)
    assert fault == 0
    assert np.array_equal(pixels, to_uint8(images[..., None])[:, :, 0])


def test_pixels_of_a_large_batch(large_workspace):
    images = np.random.default_rng(0).normal(size=(16, 3, 128 * 128)).astype(np.float32)
    pixels, fault = packed(large_workspace, images)
    assert fault == 0
    assert np.array_equal(pixels, to_uint8(images[..., None])[:, :, 0])


@pytest.mark.parametrize(("where", "value"), [(0, np.nan), (48, np.inf), (20, -np.inf)])
def test_an_image_that_is_not_finite_is_a_fault_of_the_decoder(workspace, where, value):
    images = np.zeros((2, 3, 49), np.float32)
    images[1, 2, where] = value
    pixels, fault = packed(workspace, images)
    assert describe_fault(fault) == ("vae_decoder", 0)
    assert (pixels[0] == 128).all()
