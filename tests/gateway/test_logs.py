import io
import json
import logging
import warnings

import pytest

from gateway import logs


@pytest.fixture
def lines(own_logging: None) -> io.StringIO:
    """Where the process logs to, at level info."""
    stream = io.StringIO()
    logs.set_up("info", stream)
    return stream


def test_one_object_a_line(lines: io.StringIO) -> None:
    """A record is one line of JSON, with its time in UTC and the fields given as `extra`."""
    logging.getLogger("parley.test").info("took %d s\nin all", 3, extra={"route": "/users/me", "status": 200})
    (line,) = lines.getvalue().splitlines()
    entry = json.loads(line)
    assert entry.pop("ts").endswith("+00:00")
    assert entry == {
        "level": "info",
        "logger": "parley.test",
        "message": "took 3 s\nin all",
        "route": "/users/me",
        "status": 200,
    }


def test_exceptions_have_their_traceback(lines: io.StringIO) -> None:
    """An exception is in the same line, traceback and all."""
    try:
        raise KeyError("lost")
    except KeyError:
        logging.getLogger("parley.test").exception("failed")
    (line,) = lines.getvalue().splitlines()
    assert "KeyError: 'lost'" in json.loads(line)["exception"]
    assert "test_logs.py" in json.loads(line)["exception"]


def test_anything_can_be_a_field(lines: io.StringIO) -> None:
    """A field that JSON does not know is written as text; a log call never fails for it."""
    logging.getLogger("parley.test").info("x", extra={"thing": object, "keyed": {1: "a"}, "cut": "\ud800"})
    entry = json.loads(lines.getvalue())
    assert entry["thing"] == "<class 'object'>"
    assert entry["keyed"] == {"1": "a"}


def test_extra_cannot_forge(lines: io.StringIO) -> None:
    """A field named like one of the line's own does not replace it."""
    logging.getLogger("parley.test").info("x", extra={"level": "error", "logger": "other", "ts": "never"})
    entry = json.loads(lines.getvalue())
    assert (entry["level"], entry["logger"]) == ("info", "parley.test")


def test_level(lines: io.StringIO) -> None:
    """What is below the level is not written."""
    logging.getLogger("parley.test").debug("x")
    assert lines.getvalue() == ""


@pytest.mark.parametrize("logger", ["aiohttp.access", "websockets.server", "websockets.protocol"])
def test_no_query_strings(lines: io.StringIO, logger: str) -> None:
    """The libraries' own lines, which hold request targets and frames, are not written even at debug."""
    logs.set_up("debug", lines)
    logging.getLogger(logger).info('"GET /ws?token=secret HTTP/1.1" 101')
    logging.getLogger(logger).debug("< TEXT secret")
    assert lines.getvalue() == ""


def test_warnings_are_logged(lines: io.StringIO) -> None:
    """A Python warning is a line like any other."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.set_up("info", lines)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "old" in json.loads(lines.getvalue())["message"]
