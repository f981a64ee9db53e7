"""What a service calls: load a bundle once, generate images many times, clone it for more lanes."""

from __future__ import annotations

import importlib.metadata
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from himar_kernels import Draws, InputError, PhiloxDraws, check_labels
from himar_kernels.families.hi_mar import SamplingConfig, Step
from himar_kernels.families.hi_mar.sampling import SamplingChanges, choose_sampling

from .bundle.bundle import Bundle
from .decode import to_latents
from .engines.engine import Device
from .engines.networks import Networks, load_networks
from .families.hi_mar.loop import Request
from .preview import Preview
from .recipe import Recipe
from .request import choose_draws, image_indices, require_phases
from .result import Progress, Result
from .runner import Generated, Runner, choose_runner

log = logging.getLogger(__name__)

OnStep = Callable[[Progress], bool | None]


class Pipeline:
    """A bundle's engines, ready to generate. One request at a time; `clone` gives more lanes."""

    def __init__(self, bundle: Bundle, engines: Networks | Runner) -> None:
        """Take an opened bundle and its engines, which get the loop that suits them, or a loop that runs them."""
        self.bundle = bundle
        self._runner = choose_runner(bundle, engines) if isinstance(engines, Networks) else engines
        self._lock = threading.RLock()
        self._generating = False

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu", threads: int | None = None) -> Pipeline:
        """Open and check the bundle at `path` and load its engines.

        Args:
            device: "cpu", "cuda" or "cuda:N".
            threads: CPU threads that a call of an engine uses; None takes `default_threads` of
                himar_kernels.shared.cpu_threads.

        Raises:
            BundleError: the bundle is missing, damaged or of a newer schema.
            EngineError: the device or the backend is not available here, or an engine does not load.
            InputError: `threads` is not a number of threads.
        """
        where = Device.parse(device)
        bundle = Bundle.open(path)
        start = time.perf_counter()
        networks = load_networks(bundle, where, threads)
        log.info("loaded %s on %s in %.1f s", bundle.root, where, time.perf_counter() - start)
        return cls(bundle, networks)

    def clone(self) -> Pipeline:
        """Return another lane for another thread: it shares the weights and has its own buffers."""
        return Pipeline(self.bundle, self._runner.clone())

    def generate(
        self,
        labels: Sequence[int] | NDArray[np.int64],
        *,
        seed: int | None = None,
        draws: Draws | None = None,
        sampling: str | SamplingConfig | None = None,
        guidance: float | None = None,
        first_index: int = 0,
        on_step: OnStep | None = None,
        **changes: Unpack[SamplingChanges],
    ) -> Result:
        """Generate one image per label. Concurrent calls on one pipeline wait for each other.

        Args:
            labels: class numbers, any count; more than the bundle's max_batch are run in chunks.
            seed: 0 … 2^64-1; None is 0. An image depends on its seed, index and label only.
            draws: source of randomness in place of a seed.
            sampling: a setting's name in the bundle, or settings of your own; None is the bundle's default.
            guidance: guidance scale of both phases; 1.0 disables guidance.
            first_index: image index of the first label.
            on_step: called after every autoregressive step, with a preview on request; returning False cancels.
            changes: single values in place of the settings' (himar_kernels.families.hi_mar.sampling.SamplingChanges):
                low_guidance and high_guidance, which override `guidance`; low_steps, high_steps; low_diffusion_steps,
                high_diffusion_steps; guidance_schedule; temperature; low_solver, high_solver. A model of a single
                scale has no phase low and refuses low_… .

        Raises:
            InputError: an argument is out of range; nothing has run.
            EngineError: an engine failed or returned values that are not finite.
        """
        model = self.bundle.manifest.model
        checked = check_labels(labels, model.classes)
        settings = choose_sampling(self.bundle.manifest.sampling, sampling, guidance, changes)
        require_phases(model, settings, changes)
        images = image_indices(len(checked), first_index)
        request = Request(checked, images, settings, choose_draws(seed, draws))
        with self._lock:
            if self._generating:
                raise InputError("generate was called from its own on_step; call it on a clone() instead.")
            self._generating = True
            try:
                return self._generate(request, on_step)
            finally:
                self._generating = False

    def _generate(self, request: Request, on_step: OnStep | None) -> Result:
        start = time.perf_counter()
        chunks = split(request, self.bundle.manifest.max_batch)
        model, sampling = self.bundle.manifest.model, request.sampling
        total = len(chunks) * (sampling.high_steps + (0 if model.single_scale else sampling.low_steps))
        done = itertools.count(1)
        finished: list[Generated] = []
        for chunk in chunks:

            def should_continue(step: Step, preview: Preview, images: int = len(chunk.labels)) -> bool:
                assert on_step is not None
                answer = on_step(Progress(step.phase, step.index, next(done), total, images, preview))
                return answer is None or bool(answer)

            generated = self._runner.run(chunk, None if on_step is None else should_continue)
            if generated is None:
                break
            finished.append(generated)
        result = self._result(request, finished)
        log.info("%s: %d images in %.2f s", result.status, len(result.labels), time.perf_counter() - start)
        return result

    def _result(self, request: Request, finished: list[Generated]) -> Result:
        """Join the finished chunks; the empty arrays give the shapes when there are none."""
        model = self.bundle.manifest.model
        no_low = np.zeros((0, model.low_positions, model.channels), np.float32)
        no_high = np.zeros((0, model.high_positions, model.channels), np.float32)
        no_pixels = np.zeros((0, model.img_size, model.img_size, 3), np.uint8)
        high = np.concatenate([no_high, *(part.high for part in finished)])
        low = np.concatenate([no_low, *(part.low for part in finished)])
        pixels = [part.pixels for part in finished if part.pixels is not None]
        count = len(high)
        return Result(
            images=np.concatenate([no_pixels, *pixels]) if "vae_decoder" in self.bundle.manifest.components else None,
            latents=to_latents(high, model.vae_scale),
            low_latents=to_latents(low, model.vae_scale),
            labels=request.labels[:count],
            recipes=self._recipes(request, count),
            status="complete" if count == len(request.labels) else "cancelled",
        )

    def _recipes(self, request: Request, count: int) -> tuple[Recipe, ...]:
        seed = request.draws.seed if isinstance(request.draws, PhiloxDraws) else None
        version = himar_version()
        return tuple(
            Recipe(seed, int(index), int(label), request.sampling, self.bundle.id, version)
            for index, label in zip(request.images[:count], request.labels[:count], strict=True)
        )


def himar_version() -> str:
    """Return the installed version of himar."""
    try:
        return importlib.metadata.version("himar")
    except importlib.metadata.PackageNotFoundError:  # the folders were copied, not installed
        return "unknown"


def split(request: Request, most: int) -> list[Request]:
    """Cut a request into chunks of at most `most` images, as equal as can be."""
    parts = range(-(-len(request.labels) // most))
    labels = np.array_split(request.labels, len(parts))
    images = np.array_split(request.images, len(parts))
    return [replace(request, labels=labels[part], images=images[part]) for part in parts]
