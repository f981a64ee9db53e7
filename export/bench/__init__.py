"""`himar-export bench`: whole generations, engines against the eager model, on the CPU.

With the VAE both sides go from labels to images, without it from labels to tokens. The same weights, labels, seed,
steps and number of threads; the outputs are compared first and nothing is timed if they differ; the two sides'
repetitions are interleaved, so that drift of the machine hits both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from himar.checkpoints import load_checkpoint
from himar.sampler import generate
from himar_kernels import ConfigError, InputError, PhiloxDraws, VerificationError, to_uint8
from himar_runtime import Bundle, Device, Pipeline, load_networks
from himar_runtime.decode import to_latents
from himar_runtime.loop import Request, run_two_phase

from ..assemble import load_fitting_vae
from ..compare import compare
from ..verify import run_limits

SEED = 7


@dataclass(frozen=True)
class BenchRow:
    """Seconds of every repetition of one batch size, and how far the two sides' latents are apart."""

    batch: int
    relative_l2: float
    eager: tuple[float, ...]
    engines: tuple[float, ...]

    @property
    def speedup(self) -> float:
        """Median eager time by median engine time."""
        return statistics.median(self.eager) / statistics.median(self.engines)


def run_bench(
    bundle: Path,
    checkpoint: Path,
    config: str | None,
    vae: Path | None,
    weights: str | None,
    batches: tuple[int, ...],
    repeats: int,
    advance: Callable[[str, float], None],
) -> list[BenchRow]:
    """Time both sides at each batch size.

    Raises ConfigError when the checkpoint's model is not the bundle's, VerificationError when the latents differ.
    """
    threads = torch.get_num_threads()
    opened = Bundle.open(bundle)
    networks = load_networks(opened, Device.parse("cpu"), threads)
    pipeline = Pipeline(opened, networks)
    manifest = opened.manifest
    model = load_checkpoint(checkpoint, config, weights=weights)
    sizes = {key: value for key, value in model.config.to_dict().items() if key != "sampling"}
    if sizes != dict(manifest.raw["model"]):
        raise ConfigError(
            f"{checkpoint} is not the model of {bundle}: their sizes differ; give the one it was built from."
        )
    sampling = next(iter(manifest.sampling.values()))
    _, limit = run_limits(opened, sampling)
    decoder = load_fitting_vae(vae, model)
    if decoder is not None and "vae_decoder" not in manifest.components:
        raise ConfigError(f"{bundle} has no VAE decoder to compare with {vae}; leave --vae out.")

    def eager(labels: list[int]) -> NDArray[np.float32]:
        latents = generate(model, labels, draws=PhiloxDraws(SEED), sampling=sampling)
        if decoder is not None:
            with torch.inference_mode():
                to_uint8(decoder.decode(latents).numpy())
        return latents.numpy()

    def engines(labels: list[int]) -> NDArray[np.float32]:
        if decoder is not None:
            return pipeline.generate(labels, seed=SEED, sampling=sampling).latents
        request = Request(np.array(labels), np.arange(len(labels)), sampling, PhiloxDraws(SEED))
        tokens = run_two_phase(networks, manifest.model, request, lambda step, low: True)
        assert tokens is not None
        return to_latents(tokens.high, manifest.model.vae_scale)

    rows = []
    for number, batch in enumerate(batches):
        if batch > manifest.max_batch:
            raise InputError(f"batch {batch} is beyond the bundle's max_batch {manifest.max_batch}; choose less.")
        labels = [i % manifest.model.classes for i in range(batch)]
        advance(f"batch {batch}: comparing", number / len(batches))
        check = compare(f"batch {batch}: latents", engines(labels), eager(labels), limit)
        if check.passed is not True:
            raise VerificationError(
                f"at batch {batch} the engines' latents differ from eager's by {check.relative_l2:.2e} "
                f"(limit {limit}), so there is nothing to time; was the bundle built from {checkpoint}?"
            )
        times: dict[str, list[float]] = {"eager": [], "engines": []}
        for repeat in range(repeats):
            advance(f"batch {batch}: run {repeat + 1} of {repeats}", (number + repeat / repeats) / len(batches))
            for name, side in (("eager", eager), ("engines", engines)):
                start = time.perf_counter()
                side(labels)
                times[name].append(time.perf_counter() - start)
        rows.append(BenchRow(batch, check.relative_l2, tuple(times["eager"]), tuple(times["engines"])))
    return rows
