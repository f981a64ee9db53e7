"""What Triton's Python backend gives a model, as far as ours uses it: stands in for triton_python_backend_utils.

test_server.py runs the same model in a real server, where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonModelException(Exception):  # noqa: N818  (its name in Triton)
    pass


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class Tensor:
    def __init__(self, name: str, values: np.ndarray) -> None:
        assert values.flags.c_contiguous
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._values


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor]
    error: TritonError | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        assert self.error is None, self.error.message()
        return next(tensor.as_numpy() for tensor in self.output_tensors if tensor.name() == name)


@dataclass
class Request:
    """A request, and in a decoupled model what was sent for it."""

    tensors: dict[str, Tensor]
    cancelled_after: int | None = None
    sent: list[InferenceResponse] = field(default_factory=list)
    finished: bool = False
    asked: int = 0

    def is_cancelled(self) -> bool:
        self.asked += 1
        return self.cancelled_after is not None and self.asked > self.cancelled_after

    def get_response_sender(self) -> Request:
        return self

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        assert not self.finished
        self.sent.append(response)
        self.finished = flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return request.tensors.get(name)


_DTYPES = {
    "label": np.int64, "prompt": np.object_, "seed": np.uint64, "index": np.int64, "sampling": np.object_,
    "guidance": np.float32, "partial_images": np.int32,
}  # fmt: skip


def request(cancelled_after: int | None = None, **columns: list) -> Request:
    """A request of these columns, a row for each image."""
    tensors = {name: Tensor(name, np.array(values, _DTYPES[name]).reshape(-1, 1)) for name, values in columns.items()}
    return Request(tensors, cancelled_after)
