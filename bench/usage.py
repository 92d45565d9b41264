"""What processes use, by the kernel's own account. Linux only: elsewhere there are no such figures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Usage(NamedTuple):
    """CPU seconds since the start, of a server with its workers, and of its databases with their processes."""

    server: float
    postgres: float = 0.0
    redis: float = 0.0

    def since(self, earlier: Usage) -> Usage:
        """What was used in between."""
        return Usage(*(now - before for now, before in zip(self, earlier, strict=True)))


class Memory(NamedTuple):
    """Bytes of one process: resident, and resident with shared pages counted in part."""

    rss: int
    pss: int


def available() -> bool:
    """Whether this system has such figures, and tells whose child a process is."""
    return all((PROC / "thread-self" / name).exists() for name in ("smaps_rollup", "children"))


def waited() -> float:
    """Seconds for which this thread could have run, but its core was another's; 0 where the kernel does not tell."""
    try:
        return int((PROC / "thread-self" / "schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def read_usage(parley: int, postmaster: int | None) -> Usage:
    """The CPU of all so far."""
    nodes, valkey = [parley, *workers_of(parley)], valkey_of(parley)
    return Usage(
        sum(_cpu(_stat(node)) for node in nodes),
        cpu_of_tree(postmaster) if postmaster else 0.0,
        _cpu(_stat(valkey)) if valkey else 0.0,
    )


def cpu_of_tree(root: int) -> float:
    """CPU seconds of a process and of all below it; what one has used that ends is its parent's."""
    seconds = 0.0
    for pid in (root, *_below(root)):
        with suppress(OSError):  # it has ended meanwhile
            seconds += _cpu(_stat(pid), reaped=True)
    return seconds


def workers_of(parley: int) -> list[int]:
    """The processes that a Parley with workers has started for them; none without."""
    return [child for child in _children(parley) if "worker" in _arguments(child)]


def valkey_of(parley: int) -> int | None:
    """The Valkey that a Parley with workers has started."""
    found = [child for child in _children(parley) if "valkey-server" in _arguments(child)[0]]  # it renames itself
    return found[0] if found else None


def _arguments(pid: int) -> list[str]:
    try:
        return (PROC / str(pid) / "cmdline").read_text().split("\0")
    except OSError:  # it has ended meanwhile
        return [""]


def _stat(pid: int | str) -> list[str]:
    """Fields 3 and on of proc(5)'s stat: those behind the name, which may hold spaces."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _cpu(stat: list[str], *, reaped: bool = False) -> float:
    """User and system time; with `reaped` also that of children which have ended."""
    ticks = sum(map(int, stat[11 : 15 if reaped else 13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _below(root: int) -> Iterator[int]:
    """All descendants."""
    for child in _children(root):
        yield child
        yield from _below(child)


def _children(root: int) -> list[int]:
    """Those of all its threads, as the kernel lists them: going through every process there is takes milliseconds."""
    found: list[int] = []
    with suppress(OSError):  # it has ended meanwhile
        for thread in (PROC / str(root) / "task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def read_memory(pid: int) -> Memory:
    """What a process has in memory now."""
    sizes = {}
    for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        sizes[name] = int(rest.split()[0]) * 1024
    return Memory(sizes["Rss"], sizes["Pss"])
