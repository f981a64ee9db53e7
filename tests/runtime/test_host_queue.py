"""The queue in host memory: calls run at once, recordings keep them, and places are found by their addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from himar_kernels.families.hi_mar import SamplingConfig
from himar_kernels.families.hi_mar.launches import latents
from himar_runtime import Pipeline
from himar_runtime.queue.host import HostDevice

GUIDED = SamplingConfig(3, 2, low_guidance=1.5, high_guidance=2.0, low_diffusion_steps=6, high_diffusion_steps=5)


def _doubling(view: Any, to: int, tokens: int, vae_scale: float, batch: int, n: int, channels: int) -> Any:
    target, source = view(to, (batch * n * channels,)), view(tokens, (batch * n * channels,))

    def work() -> None:
        target[:] = 2 * source

    return work


def test_a_recording_runs_nothing_and_its_replays_take_what_the_arrays_hold_then() -> None:
    device = HostDevice({"himar_latents": _doubling})
    source, target = device.allocate(16), device.allocate(16)
    assert source % 256 == target % 256 == 0
    found = np.empty(4, np.float32)
    device.clear(target, 16)
    replay = device.record(
        lambda: device.launch(latents(latents=target, tokens=source, vae_scale=1, batch=1, n=2, channels=2))
    )
    device.download(target, found)
    assert not found.any()
    for values in ([1, 2, 3, 4], [5, 6, 7, 8]):
        device.upload(source, np.array(values, np.float32))
        replay()
        device.download(target, found)
        assert found.tolist() == [2 * value for value in values]
    device.copy(source, target, 8)
    device.download(source, found)
    assert found.tolist() == [10, 12, 7, 8]


def test_an_address_of_no_buffer_is_refused() -> None:
    device = HostDevice({})
    address = device.allocate(16)
    with pytest.raises(ValueError, match="no buffer of this device lies at 0x10"):
        device.view(16, (4,))
    with pytest.raises(TypeError):
        device.view(address, (1000,))


def test_requests_of_other_sizes_between_leave_no_trace(bundle_path: Path) -> None:
    """Segments of three images that reveal two positions and of two that reveal three are not one another's."""
    used = Pipeline.load(bundle_path, threads=1)
    for labels in ([1], [2, 0, 3], [4, 1], [3], [2, 0, 3], [4, 1], [4, 1]):
        for sampling in (GUIDED, SamplingConfig(2, 3, 1.2, low_diffusion_steps=4, high_diffusion_steps=3)):
            found = used.generate(labels, seed=6, sampling=sampling)
            fresh = Pipeline.load(bundle_path, threads=1).generate(labels, seed=6, sampling=sampling)
            assert np.array_equal(found.latents, fresh.latents)
            assert np.array_equal(found.low_latents, fresh.low_latents)
