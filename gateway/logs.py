"""Logs: one JSON object a line.

Nothing that a user typed and no request's query string is logged anywhere: a
query may hold `token=`. So the access logs of the libraries stay off.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TextIO

import orjson

_QUIET = {
    "aiohttp.access": logging.CRITICAL,  # its lines hold whole request targets, and /metrics counts requests
    "websockets": logging.WARNING,  # at debug it writes every frame
    "asyncio": logging.WARNING,
    "aiobotocore": logging.WARNING,  # at debug they write what they sign, and where credentials come from
    "botocore": logging.WARNING,
}
"""Loggers of libraries, and the level from which they are heard, at least."""

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every log record has; anything else on it came from `extra`."""


class JsonFormatter(logging.Formatter):
    """A record as one line: ts (RFC 3339, UTC), level, logger, message, given fields, those of `extra`, exception."""

    def __init__(self, fields: dict[str, object]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _OWN and name not in fields}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate, as in the name of a file; the slower encoder escapes it
            return json.dumps(fields, default=str)


def set_up(level: str, stream: TextIO, **fields: object) -> None:
    """Sends the logs of the whole process to `stream`, from `level` (one of LOG_LEVELS) on, with these fields."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(fields))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name, at_least in _QUIET.items():
        logging.getLogger(name).setLevel(at_least)
