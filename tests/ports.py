"""Ports for servers of tests, several of which run at once in several processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

FIRST, LAST = 12_000, 32_000
"""Below the range from which systems take ports for outgoing connections, so that one is still free at a restart."""
PROCESSES = 16
"""Test processes that have ports of their own; more would share them."""


def _in_turn() -> Iterator[int]:
    """This process' ports, round and round: what was given is not given again soon, whether it is in use yet or not.

    It begins anywhere among them, since another run of the tests may be going on.
    """
    share = (LAST - FIRST) // PROCESSES
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % PROCESSES
    for place in count(os.getpid() * 7):
        yield FIRST + process * share + place % share


_ports = _in_turn()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now, and that no other test is given."""
    for port in _ports:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("ports never end")
