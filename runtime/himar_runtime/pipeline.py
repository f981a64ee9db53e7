"""Defines what a service calls: load a bundle once, generate images many times, clone it for more lanes."""

from __future__ import annotations

import importlib.metadata
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himar_kernels import InputError, check_labels
from himar_kernels.arithmetic.editing import check_edit
from himar_kernels.families.registry import VAE_DECODER

from .bundle.bundle import Bundle
from .engines.engine import Device
from .engines.networks import Networks, load_networks, open_bundle
from .families.family import ModelSizes, Sampling, require_editing, runtime_family
from .memory.room import require_room, require_room_for_lane
from .prompts import Prompts
from .recipe import EditedFrom, Recipe
from .request import NO_CLASS, Request, chunks, image_indices
from .result import PreviewSource, Progress, Result
from .runner import Generated, Runner, StepDone
from .texts import Texts, check_contexts

log = logging.getLogger(__name__)

OnStep = Callable[[Progress], bool | None]


class Pipeline:
    """A bundle's engines, ready to generate. One request at a time; `clone` gives more lanes."""

    def __init__(
        self,
        bundle: Bundle,
        engines: Networks | Runner,
        prompts: Prompts | None = None,
        device: Device | None = None,
    ) -> None:
        """Take an opened bundle and its engines, which get the loop that suits them, or a loop that runs them.

        prompts: the bundle's tokenizer where another lane has it already. device: where its engines run, whose memory
        `clone` looks at; None looks at none.
        """
        self._device = device
        self.bundle = bundle
        self._prompts = prompts or Prompts(bundle)
        self._family = runtime_family(bundle.manifest.family)
        self._runner = self._family.runner(bundle, engines) if isinstance(engines, Networks) else engines
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
            EngineError: the device or the backend is not available here, an engine does not load, or the memory that
                is left is clearly too little for it (docs/memory.md).
            InputError: `threads` is not a number of threads.
        """
        where = Device.parse(device)
        bundle = open_bundle(path, where)
        require_room(bundle, where)
        start = time.perf_counter()
        networks = load_networks(bundle, where, threads)
        log.info("loaded %s on %s in %.1f s", bundle.root, where, time.perf_counter() - start)
        return cls(bundle, networks, device=where)

    def clone(self) -> Pipeline:
        """Return another lane for another thread: it shares the weights and has its own buffers.

        Raises EngineError where the memory that is left is clearly too little for its runs.
        """
        if self._device is not None:
            require_room_for_lane(self.bundle, self._device)
        return Pipeline(self.bundle, self._runner.clone(), self._prompts, self._device)

    def generate(
        self,
        labels: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        prompts: Sequence[str] | None = None,
        contexts: NDArray[np.float32] | Sequence[NDArray[np.float32]] | None = None,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        draws: Any = None,
        sampling: str | Sampling | None = None,
        guidance: float | None = None,
        first_index: int = 0,
        on_step: OnStep | None = None,
        **changes: Any,
    ) -> Result:
        """Generate one image per label, prompt or context. Concurrent calls on one pipeline wait for each other.

        Exactly one of labels, prompts and contexts is given: labels to a model of classes, one of the others to a model
        from text. Any count of them; more than the bundle's max_batch are run in chunks.

        Args:
            labels: class numbers.
            prompts: texts. `Result.truncated` tells which were too long for the model and lost their end.
            contexts: float32 (B, K, W), what the model's text tower gives for texts (docs/text.md).
            seed: 0 … 2^64-1; None is 0. An image depends on its seed, index and label (prompt, context) only.
            seeds: in place of a seed, one for each image; each image is then the one of its seed at first_index, as a
                request for it alone makes it.
            draws: source of randomness in place of seeds; of hi_mar himar_kernels.Draws.
            sampling: a setting's name in the bundle, or settings of your own; None is the bundle's default.
            guidance: guidance scale of the whole run, in the family's counting; of hi_mar, where 1.0 disables guidance,
                of both phases.
            first_index: image index of the first image.
            on_step: called after every autoregressive step, with a preview on request; returning False cancels.
            changes: single values in place of the settings', by the names of the family's own: of hi_mar those of
                himar_kernels.families.hi_mar.sampling.SamplingChanges. None leaves a value.

        Raises:
            InputError: an argument is out of range; nothing has run.
            EngineError: an engine failed or returned values that are not finite.
        """
        manifest = self.bundle.manifest
        model: ModelSizes = manifest.model
        self._require_one(labels=labels, prompts=prompts, contexts=contexts)
        texts = None
        if labels is not None:
            checked = check_labels(labels, model.classes)
        else:
            texts = self._texts(prompts, contexts, model)
            checked = np.full(len(texts), NO_CLASS)
        settings = self._family.choose_sampling(model, manifest.sampling, sampling, guidance, changes)
        if seeds is not None:
            if seed is not None or draws is not None:
                raise InputError(f"both seeds and {'seed' if draws is None else 'draws'} are given; give one of them.")
            if len(seeds) != len(checked):
                raise InputError(f"{len(seeds)} seeds are given for {len(checked)} images; give one for each.")
            draws = self._family.image_draws(seeds, [int(image_indices(1, first_index)[0])] * len(seeds))
            first_index = 0  # the draws know each image's own
        images = image_indices(len(checked), first_index)
        request = Request(checked, images, settings, self._draws(seed, draws), texts=texts)
        return self._run(request, on_step)

    def _texts(self, prompts: Sequence[str] | None, contexts: object, model: ModelSizes) -> Texts:
        if prompts is not None:
            return self._prompts.texts(prompts)
        assert model.context_shape is not None
        return check_contexts(contexts, model.context_shape)

    def _require_one(self, **given: object) -> None:
        """Raise InputError unless one of labels, prompts and contexts is given, and one that the model takes."""
        names = [name for name, value in given.items() if value is not None]
        shape = self.bundle.manifest.model.context_shape
        takes = "labels" if shape is None else ", or ".join(name for name in given if name != "labels")
        if len(names) != 1:
            found = f"{' and '.join(names)} are" if names else "nothing is"
            raise InputError(f"{found} given to say what to generate; give {takes}, as this bundle's model takes them.")
        if (shape is None) != (names == ["labels"]):
            kind = "of classes" if shape is None else "from text"
            raise InputError(f"{names[0]} are given, but this bundle's model makes images {kind}; give {takes}.")

    def edit(
        self,
        images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8],
        masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_],
        labels: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        prompts: Sequence[str] | None = None,
        dilation: int | None = None,
        feather: int = 0,
        seed: int | None = None,
        draws: Any = None,
        sampling: str | Sampling | None = None,
        guidance: float | None = None,
        first_index: int = 0,
        on_step: OnStep | None = None,
        **changes: Any,
    ) -> Result:
        """Draw a part of each image anew and leave the rest as it is, pixel by pixel (docs/editing.md).

        Args:
            images: RGB pixels uint8 (B, P, P, 3) with P the model's img_size, or a list of such images.
            masks: bool, True where pixels are drawn anew: one (P, P) for each image, or one for all.
            labels: the class that each image is to show, drawn with guidance; with neither classes nor prompts what
                fits the rest is drawn, without guidance. `Result.labels` is then -1.
            prompts: of a model from text, in place of labels; its bundle needs its text tower.
            dilation: of hi_mar, how many rings of cells around a mask's are drawn too; None is the family's default.
                Where pixels of theirs lie outside the mask they stay as they are.
            feather: pixels inside a mask's border over which what is drawn is blended in; 0 pastes it.
            seed: as for `generate`; an image depends on its seed, index, label (prompt), image, mask and these options.
            draws, sampling, guidance, first_index, on_step, changes: as for `generate`.

        Raises:
            InputError: an argument is out of range, images, masks and labels do not fit, the model's family cannot
                edit, or the bundle has no encoder; nothing has run.
            EngineError: an engine failed or returned values that are not finite.
        """
        manifest = self.bundle.manifest
        model: ModelSizes = manifest.model
        shown = labels is not None or prompts is not None
        if shown:
            self._require_one(labels=labels, prompts=prompts)
        settings = self._family.edit_sampling(model, manifest.sampling, sampling, guidance, changes, shown)
        rings = self._family.dilation(dilation)
        require_editing(manifest, str(self.bundle.root))
        texts = None if prompts is None else self._prompts.texts(prompts)
        checked = None if labels is None else check_labels(labels, model.classes)
        edit = check_edit(
            images, masks, model.img_size, prompts if checked is None else checked, dilation=rings, feather=feather
        )
        every = np.full(len(edit), NO_CLASS) if checked is None else checked
        indices = image_indices(len(edit), first_index)
        return self._run(Request(every, indices, settings, self._draws(seed, draws), edit, texts), on_step)

    def _run(self, request: Request[Any, Any], on_step: OnStep | None) -> Result:
        with self._lock:
            if self._generating:
                raise InputError("the pipeline was called from its own on_step; call it on a clone() instead.")
            self._generating = True
            try:
                return self._generate(request, on_step)
            finally:
                self._generating = False

    def _draws(self, seed: int | None, draws: Any) -> Any:
        """Return the draws given, or those of the seed (None: 0); InputError when both are given."""
        if draws is None:
            return self._family.draws(0 if seed is None else seed)
        if seed is not None:
            raise InputError(f"both seed {seed} and draws are given; draws would ignore the seed: give one of them.")
        return draws

    def _generate(self, request: Request[Any, Any], on_step: OnStep | None) -> Result:
        start = time.perf_counter()
        model, edit = self.bundle.manifest.model, request.edit
        kinds = [None] * len(request) if edit is None else self._family.edit_kinds(model, edit)
        parts = chunks(kinds, self.bundle.manifest.max_batch)
        requests = [request[part] for part in parts]
        total = sum(self._family.steps(model, chunk.sampling, chunk.edit) for chunk in requests)
        done = itertools.count(1)
        finished: list[Generated] = []
        watch = Stopwatch()
        for chunk in requests:

            def should_continue(step: StepDone, preview: PreviewSource, images: int = len(chunk)) -> bool:
                assert on_step is not None
                watch.lap(step.phase)
                answer = on_step(Progress(step.phase, step.index, next(done), total, images, preview))
                watch.skip()
                return answer is None or bool(answer)

            generated = self._runner.run(chunk, None if on_step is None else should_continue)
            if generated is None:
                break
            watch.lap("decode")
            finished.append(generated)
        result = self._result(request, parts, finished, {} if on_step is None else watch.seconds)
        log.info("%s: %d images in %.2f s", result.status, len(result.labels), time.perf_counter() - start)
        return result

    def _result(
        self,
        request: Request[Any, Any],
        parts: Sequence[NDArray[np.int64]],
        finished: list[Generated],
        seconds: Mapping[str, float],
    ) -> Result:
        """Join the finished chunks in the request's order; the empty arrays give the shapes when there are none.

        parts: the places of each chunk's images.
        """
        none = self._family.no_images(self.bundle.manifest.model)
        places = np.concatenate([np.zeros(0, np.int64), *parts[: len(finished)]])
        order = np.argsort(places)

        def joined(empty: NDArray[Any], arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
            whole = np.concatenate([empty, *arrays])
            return whole if np.array_equal(places, np.arange(len(places))) else whole[order]

        made = request[places[order]]
        images = None
        if VAE_DECODER in self.bundle.manifest.components:
            assert none.pixels is not None
            images = joined(none.pixels, (part.pixels for part in finished if part.pixels is not None))
        return Result(
            images=images,
            latents=joined(none.latents, (part.latents for part in finished)),
            labels=made.labels,
            recipes=self._recipes(made),
            status="complete" if len(made) == len(request) else "cancelled",
            arrays={
                name: joined(empty, (part.arrays[name] for part in finished)) for name, empty in none.arrays.items()
            },
            truncated=() if request.texts is None else request.texts.truncated,
            seconds=seconds,
        )

    def _recipes(self, request: Request[Any, Any]) -> tuple[Recipe, ...]:
        count, edit = len(request), request.edit
        seeds, indices = _origins(request)
        family, version = self.bundle.manifest.family, himar_version()
        edits: list[EditedFrom | None] = [None] * count
        if edit is not None:
            edits = [EditedFrom(image, mask, edit.dilation, edit.feather) for image, mask in edit.hashes()]
        texts = Texts() if request.texts is None else request.texts
        prompts, contexts = texts.prompts or [None] * count, texts.hashes() or [None] * count
        return tuple(
            Recipe(
                seed,
                index,
                None if label == NO_CLASS else int(label),
                request.sampling,
                self.bundle.id,
                version,
                family,
                edited,
                prompt,
                context,
            )
            for seed, index, label, edited, prompt, context in zip(
                seeds, indices, request.labels, edits, prompts, contexts, strict=True
            )
        )


def _origins(request: Request[Any, Any]) -> tuple[list[int | None], list[int]]:
    """Return the seed (None of other draws) and the image index of each of a request's images."""
    images = request.images
    if not hasattr(request.draws, "origins"):
        return [None] * len(images), images.tolist()
    seeds, indices = request.draws.origins(images)
    return [seeds] * len(images) if isinstance(seeds, int) else seeds.tolist(), indices.tolist()


class Stopwatch:
    """Adds up the time between events by what it was spent on.

    Attributes:
        seconds: of each name, in the order in which they were first met.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last event to a name's."""
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def skip(self) -> None:
        """Leave out the time since the last event."""
        self._since = time.perf_counter()


def himar_version() -> str:
    """Return the installed version of himar."""
    try:
        return importlib.metadata.version("himar")
    except importlib.metadata.PackageNotFoundError:  # the folders were copied, not installed
        return "unknown"
