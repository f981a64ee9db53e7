"""Takes a multipart form apart; python-multipart reads its bytes."""

from __future__ import annotations

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from himar_kernels import InputError


def parse_form(body: bytes, content_type: str) -> dict[str, list[bytes]]:
    """Return what the parts of each name hold, in their order.

    content_type: the header. Raises InputError for what is no whole multipart form.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InputError(f"the body is no whole multipart form: Content-Type is {content_type!r}, without a boundary.")
    parts = _Parts()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.add_name,
                "on_header_value": parts.add_value,
                "on_header_end": parts.end_header,
                "on_part_data": parts.add_data,
                "on_part_end": parts.end,
                "on_end": parts.end_all,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InputError(f"the body is no whole multipart form: {error}; send one.") from error
    if not parts.ended:
        raise InputError("the body is no whole multipart form: its last boundary is missing; send all of it.")
    return parts.found


class _Parts:
    """Collects the parts while the parser calls.

    found: contents by name; ended: the last boundary was met.
    """

    def __init__(self) -> None:
        self.found: dict[str, list[bytes]] = {}
        self.ended = False
        self.begin()

    def begin(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value, self._data = bytearray(), bytearray(), bytearray()

    def add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def add_data(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def end(self) -> None:
        name = parse_options_header(self._headers.get(b"content-disposition", b""))[1].get(b"name")
        if not name:
            raise InputError("the body is no whole multipart form: a part has no name; give each one.")
        self.found.setdefault(name.decode("utf-8", "replace"), []).append(bytes(self._data))

    def end_all(self) -> None:
        self.ended = True
