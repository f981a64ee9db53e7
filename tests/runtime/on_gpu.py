"""What tests on a GPU share: the backends that are installed, counted calls of CUDA's, four lanes at once."""

from __future__ import annotations

import importlib.util
import threading
from typing import Any

import onnxruntime

from himar_runtime import Pipeline

INSTALLED = {
    "onnxruntime": "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    "tensorrt": importlib.util.find_spec("tensorrt") is not None,
    "tensorrt-rtx": importlib.util.find_spec("tensorrt_rtx") is not None,
}


class Counting:
    """CUDA's runtime API, noting which calls were made."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self.calls: list[str] = []

    def __getattr__(self, name: str):
        value = getattr(self._api, name)
        if not callable(value) or isinstance(value, type):
            return value
        self.calls.append(name)
        return value


def from_four_threads(pipeline: Pipeline, times: int = 5, **settings: Any) -> list[Any]:
    """Return the last result of each of four clones, which generate three images of one label some times at once."""
    found: list[Any] = [None] * 4

    def lane(number: int) -> None:
        clone = pipeline.clone()
        for _ in range(times):
            found[number] = clone.generate([number] * 3, seed=9, **settings)

    threads = [threading.Thread(target=lane, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
