"""Writes the program's log on stderr: a line for each request for images, and everybody's warnings; as text or JSON."""

from __future__ import annotations

import json
import logging
import time

REQUESTS = logging.getLogger("himar_runtime.service.requests")
"""Takes the requests' lines; `extra={"request": {…}}` holds what a line of JSON says of one."""


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: a request's values, or level, logger and message of another."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        values = {"time": self.formatTime(record)}
        request = getattr(record, "request", None)
        if request is not None:
            return json.dumps({**values, **request})
        values |= {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            values["traceback"] = self.formatException(record.exc_info)
        return json.dumps(values)


def log_to_stderr(as_json: bool = False) -> None:
    """Write the log to stderr, each line with its time (UTC). For a program's start."""
    formatter = JsonLines() if as_json else logging.Formatter("%(asctime)s %(message)s")
    formatter.converter = time.gmtime
    formatter.default_time_format, formatter.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    REQUESTS.setLevel(logging.INFO)
