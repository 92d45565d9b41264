"""How slow a body may come: its deadline is total, and grows with what has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from protocol.errors import ChatError
from rest.pace import paced
from rest.settings import RestSettings
from tests.rest.stand_in import INFO


def settings(**changes: Any) -> RestSettings:
    """Few bytes a second, and little time."""
    usual: dict[str, Any] = {"version": "1", "public_url": "", "info": INFO, "body_deadline": 1.5}
    return RestSettings(**usual | {"slowest_transfer": 10} | changes)


async def pieces(count: int, size: int, seconds: float) -> AsyncIterator[bytes]:
    """A body."""
    for _ in range(count):
        await asyncio.sleep(seconds)
        yield bytes(size)


async def test_bytes_earn_time() -> None:
    """What comes fast enough may take longer than the deadline, as often as it likes."""
    taken = [len(piece) async for piece in paced(pieces(6, 1_000, 0.3), settings())]
    assert taken == [1_000] * 6


@pytest.mark.parametrize("size", [0, 1])
async def test_a_byte_at_a_time_earns_little(size: int) -> None:
    """What comes more slowly is cut, however steadily it comes."""
    with pytest.raises(ChatError, match="REQUEST_TIMEOUT"):
        async for _ in paced(pieces(1_000, size, 0.2), settings(slowest_transfer=1_000)):
            pass


async def test_our_own_time_does_not_count() -> None:
    """A client does not pay for a disk that is slow."""
    count = 0
    async for _ in paced(pieces(4, 1, 0.0), settings()):
        await asyncio.sleep(0.5)
        count += 1
    assert count == 4
