"""Taking values out of a JSON object by key and type, with errors that say where and what is wrong."""

from __future__ import annotations

from typing import Any, TypeVar

from himar_kernels import BundleError

_T = TypeVar("_T")


class Reader:
    """A JSON object whose values are taken by key and type; errors say where in which file."""

    def __init__(self, values: object, source: str, path: str) -> None:
        if not isinstance(values, dict):
            raise BundleError(f"{source}: {path or 'the manifest'} must be a JSON object; build the bundle again.")
        self.values: dict[str, Any] = values
        self.source = source
        self.path = path

    def get(self, key: str, kind: type[_T]) -> _T:
        """Return a value of the wanted JSON type; an int will do for a float."""
        if key not in self.values:
            raise BundleError(f"{self.source} lacks {self._at(key)}; build the bundle again.")
        value = self.values[key]
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BundleError(f"{self.source}: {self._at(key)} is {value!r}; it must be of type {kind.__name__}.")
        return value

    def positive(self, key: str) -> int:
        """Return a whole number of at least 1."""
        value = self.get(key, int)
        if value < 1:
            raise BundleError(f"{self.source}: {self._at(key)} is {value}; it must be at least 1.")
        return value

    def reader(self, key: str) -> Reader:
        """Return the object at `key`."""
        return Reader(self.get(key, dict), self.source, self._at(key))

    def readers(self) -> list[tuple[str, Reader]]:
        """Return every value, each an object, with its key."""
        return [(key, self.reader(key)) for key in self.values]

    def items(self, key: str) -> list[Reader]:
        """Return the objects of the list at `key`."""
        items = self.get(key, list)
        return [Reader(item, self.source, f"{self._at(key)}[{i}]") for i, item in enumerate(items)]

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key
