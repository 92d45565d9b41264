"""What a node hears costs no more for the channels that it hears already, and who waits for one is told."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from storage import subscriber
from storage.subscriber import Subscriber

MANY = 1_000


class Channel(bytes):
    """Counts how often it is looked up anywhere."""

    looked_up = 0

    def __hash__(self) -> int:
        Channel.looked_up += 1
        return super().__hash__()


class Server:
    """Confirms what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def subscribe(self, *channels: bytes) -> None:
        """From now on these are heard."""
        self.asked += channels

    async def unsubscribe(self, *channels: bytes) -> None:
        """These are not."""

    async def get_message(self, timeout: float) -> dict[str, Any]:
        """The next confirmation."""
        if not self.asked:
            raise ConnectionError
        return {"type": "subscribe", "channel": self.asked.pop(0)}


def made() -> tuple[Subscriber, list[str]]:
    """A subscriber without a Redis, and what it tells."""
    told: list[str] = []
    return Subscriber(cast("Any", None), lambda channel, data: None, lambda: told.append("restored")), told


async def test_cost() -> None:
    """One more channel among many, and the way back after a break, cost no more than a few look-ups a channel."""
    made_, told = made()
    server = Server()
    for number in range(MANY):
        made_.add(Channel(b"%d" % number))
    await made_._ask(server)
    Channel.looked_up = 0
    with pytest.raises(ConnectionError):
        await made_._read(server, restored=True)
    assert told == ["restored"]
    assert Channel.looked_up < 20 * MANY
    Channel.looked_up = 0
    made_.add(Channel(b"one more"))
    await made_._ask(server)
    assert server.asked == [b"one more"]
    assert Channel.looked_up < 20


async def test_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has waited long enough for a channel goes on without it; who came later is still told when it is heard."""
    made_, _ = made()
    made_._note({"type": "subscribe", "channel": b"other"})
    made_.add(b"late")
    monkeypatch.setattr(subscriber, "HEARD_SECONDS", 60.0)
    patient = asyncio.create_task(made_.heard([b"late"]))
    await asyncio.sleep(0)
    monkeypatch.setattr(subscriber, "HEARD_SECONDS", 0.01)
    await made_.heard([b"late"])
    assert not patient.done()
    made_._note({"type": "subscribe", "channel": b"late"})
    await asyncio.wait_for(patient, 10)
