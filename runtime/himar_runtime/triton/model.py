"""Answers requests inside Triton's Python backend: an instance is a process with a pipeline of its own.

What Triton's batcher hands over together runs in one call of the engines, row by row the image that it is alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from numpy.typing import NDArray

from himar_kernels import HimarError

from ..families.family import partial_steps, runtime_family
from ..pipeline import Pipeline
from ..result import Progress, Result
from .rows import Row, read_rows

IMAGE, RECIPE, PARTIAL = "image", "recipe", "partial"
FINISHED = -1
"""Of `partial`: this is the image itself. Unfinished ones count from 0."""

log = logging.getLogger(__name__)


@dataclass
class Call:
    """A request of Triton's under way.

    Attributes:
        request: Triton's.
        sender: of its responses in a decoupled model, None in others.
        rows: the images that it asks for.
        made: of each row the pixels uint8 (H, W, 3) and the recipe's JSON, once they are there.
        failure: why there are none: a TritonError.
        shown: unfinished images so far.
    """

    request: Any
    sender: Any
    rows: list[Row] = field(default_factory=list)
    made: dict[int, tuple[NDArray[np.uint8], str]] = field(default_factory=dict)
    failure: Any = None
    shown: int = 0

    @property
    def cancelled(self) -> bool:
        """Whether its client has cancelled it."""
        return bool((self.request if self.sender is None else self.sender).is_cancelled())

    def response(self, pixels: NDArray[np.uint8], recipes: list[str], partial: int = FINISHED) -> Any:
        """Return pixels uint8 (B, H, W, 3) and their recipes, none of unfinished ones, as Triton wants them."""
        texts = np.array([[recipe.encode()] for recipe in recipes or [""] * len(pixels)], np.object_)
        tensors = [triton.Tensor(IMAGE, np.ascontiguousarray(pixels)), triton.Tensor(RECIPE, texts)]
        if self.sender is not None:
            tensors.append(triton.Tensor(PARTIAL, np.full((len(pixels), 1), partial, np.int32)))
        return triton.InferenceResponse(output_tensors=tensors)

    def outcome(self) -> Any:
        """Return the last response: all images in order, or the failure."""
        if self.failure is not None:
            return triton.InferenceResponse(output_tensors=[], error=self.failure)
        made = [self.made[place] for place in range(len(self.rows))]
        return self.response(np.stack([pixels for pixels, _ in made]), [recipe for _, recipe in made])


Part = tuple[Call, int]
"""A row of a call, by its number."""


class TritonPythonModel:
    """What Triton calls: one instance for each lane."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the bundle that the configuration names. Raises TritonModelException with himar's sentence."""
        config = json.loads(args["model_config"])
        parameters = {name: entry["string_value"] for name, entry in config["parameters"].items()}
        # A path in the repository, or an absolute one.
        bundle = Path(args["model_repository"]) / args["model_version"] / parameters["bundle"]
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        threads = int(parameters["threads"])
        try:
            self._pipeline = Pipeline.load(bundle, device=device, threads=threads or None)
        except HimarError as error:
            raise triton.TritonModelException(str(error)) from error
        self._manifest = self._pipeline.bundle.manifest
        self._family = runtime_family(self._manifest.family)
        self._inputs = [entry["name"] for entry in config["input"]]
        self._decoupled = config.get("model_transaction_policy", {}).get("decoupled", False)

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer every request; a bad one gets an error of its own, and the others their images."""
        calls = [Call(request, request.get_response_sender() if self._decoupled else None) for request in requests]
        for call in calls:
            self._read(call)
        for parts in _alike(calls):
            self._make(parts)
        if not self._decoupled:
            return [call.outcome() for call in calls]
        for call in calls:
            call.sender.send(call.outcome(), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None

    def _read(self, call: Call) -> None:
        found = ((name, triton.get_input_tensor_by_name(call.request, name)) for name in self._inputs)
        try:
            call.rows = read_rows(
                {name: tensor.as_numpy() for name, tensor in found if tensor is not None}, self._manifest
            )
        except HimarError as error:
            call.failure = triton.TritonError(str(error), triton.TritonError.INVALID_ARG)

    def _make(self, parts: list[Part]) -> None:
        """Make rows of the same settings. If that fails, each request's alone: it fails for its own rows only."""
        calls = list({id(call): call for call, _ in parts}.values())
        try:
            result = self._generate(parts, calls)
        except Exception as error:
            if len(calls) == 1:
                calls[0].failure = _failure(error)
                return
            log.warning("a call with %d requests failed (%s); each runs again alone", len(calls), error)
            for call in calls:
                self._make([part for part in parts if part[0] is call])
            return
        if result.status == "cancelled":
            for call in calls:
                call.failure = triton.TritonError("the request was cancelled.", triton.TritonError.CANCELLED)
            return
        assert result.images is not None  # himar-export triton refused a bundle without a decoder
        for (call, place), pixels, recipe in zip(parts, result.images, result.recipes, strict=True):
            call.made[place] = pixels, json.dumps(recipe.to_dict())

    def _generate(self, parts: list[Part], calls: list[Call]) -> Result:
        rows = [call.rows[place] for call, place in parts]
        sampling = rows[0].sampling
        steps = {
            most: partial_steps(self._family, self._manifest.model, sampling, most)
            for most in {row.partial_images for row in rows}
        }

        def on_step(step: Progress) -> bool:
            for place, (call, _) in enumerate(parts):
                if step.done in steps[rows[place].partial_images] and not call.cancelled:
                    _show(call, step.of(place, 1))
            return not all([call.cancelled for call in calls])

        labels, prompts = [row.label for row in rows], [row.prompt for row in rows]
        return self._pipeline.generate(
            None if labels[0] is None else np.array(labels, np.int64),
            prompts=None if prompts[0] is None else [prompt or "" for prompt in prompts],
            draws=self._family.image_draws([row.seed for row in rows], [row.index for row in rows]),
            sampling=sampling,
            on_step=on_step,
        )


def _alike(calls: Iterable[Call]) -> list[list[Part]]:
    """Return the rows of all calls, those with the same settings together."""
    groups: list[list[Part]] = []
    for call in calls:
        for place, row in enumerate(call.rows):
            for group in groups:
                first, number = group[0]
                if first.rows[number].sampling == row.sampling:
                    group.append((call, place))
                    break
            else:
                groups.append([(call, place)])
    return groups


def _show(call: Call, step: Progress) -> None:
    """Send an unfinished image, where the decoder can make one."""
    try:
        pixels = step.so_far()
    except HimarError as error:
        log.info("no partial image of step %d: %s", step.done, error)
        return
    call.sender.send(call.response(pixels, [], call.shown))
    call.shown += 1


def _failure(error: Exception) -> Any:
    if isinstance(error, HimarError):
        return triton.TritonError(str(error), triton.TritonError.INTERNAL)
    log.error("a request failed unexpectedly", exc_info=error)
    sentence = f"the request failed with an unexpected {type(error).__name__}; see the server's log."
    return triton.TritonError(sentence, triton.TritonError.INTERNAL)
