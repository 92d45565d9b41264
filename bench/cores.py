"""Who runs where: a server with its databases has the first core and the generator the last, where there are two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def cores() -> list[int]:
    """Those that this process may use; none where nothing can be pinned."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def servers_core() -> Iterator[None]:
    """What is started meanwhile has the first core."""
    all_of_them = cores()
    with _on(all_of_them[:1]):
        yield


@contextmanager
def generators_core() -> Iterator[None]:
    """What is started meanwhile has the cores that servers do not have."""
    all_of_them = cores()
    with _on(all_of_them[1:] or all_of_them):
        yield


@contextmanager
def _on(chosen: list[int]) -> Iterator[None]:
    before = cores()
    if chosen:
        os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)
