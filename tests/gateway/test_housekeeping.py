"""Background jobs run until the process ends, and cannot keep it from ending."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import housekeeping
from gateway.housekeeping import Housekeeping
from protocol.errors import ChatError


def _away() -> None:
    raise ChatError("SERVICE_UNAVAILABLE")


SERVICES: Any = SimpleNamespace(database=SimpleNamespace(transaction=_away))


@pytest.mark.parametrize("deaf_to", [0, 1, 1_000])
async def test_a_job_that_does_not_hear_a_cancel(deaf_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told again, and when that is not enough, the process goes on without it."""
    monkeypatch.setattr(housekeeping, "CANCEL_SECONDS", 0.05)
    heard: list[int] = []
    enough = asyncio.Event()

    async def job() -> None:
        while len(heard) <= deaf_to and not enough.is_set():
            try:
                await enough.wait()
            except asyncio.CancelledError:
                heard.append(1)
        raise asyncio.CancelledError

    async with asyncio.timeout(10):
        async with Housekeeping((job,), SERVICES):
            await asyncio.sleep(0)
    assert len(heard) == min(deaf_to + 1, housekeeping.CANCELS)
    enough.set()
    await asyncio.sleep(0)
