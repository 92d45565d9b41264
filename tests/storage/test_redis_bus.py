"""The bus between nodes, on a real Redis: what is told is heard, and what happens to Redis is survived."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from crypto.cluster import ClusterKeys
from protocol.events import MessageReceived, UserLeft
from protocol.models import Message
from storage.events import CommittedEvent
from storage.hints import SignInEnded
from storage.redis_bus import RedisBus, room_channel
from storage.redis_client import connect
from tests.valkey import Valkey

KEYS = ClusterKeys([("m1", bytes(32))])
ROOM = uuid4()
ANN = uuid4()


def event(seq: int, room: UUID = ROOM) -> CommittedEvent:
    """A message that was committed."""
    message = Message(
        id=uuid4(),
        chatroom_id=room,
        seq=seq,
        user_id=ANN,
        username="ann",
        display_name="Ann",
        avatar_url=None,
        content=f"text {seq}",
        message_type="text",
        reply_to=None,
        created_at=datetime.now(UTC),
    )
    return CommittedEvent(room, seq, "message_received", MessageReceived(message=message))


def left(seq: int, room: UUID = ROOM, adds: tuple[UUID, ...] = ()) -> CommittedEvent:
    """An event that ends a membership, or as an exception begins one."""
    data = UserLeft(chatroom_id=room, user_id=ANN, removed_by=None)
    return CommittedEvent(room, seq, "user_left", data, adds, (ANN,))


class Ear:
    """A node's bus, and what it has heard."""

    def __init__(self, bus: RedisBus, counts: Counter[str]) -> None:
        self.bus = bus
        self.counts = counts
        self.events: list[CommittedEvent] = []
        self.ended: list[SignInEnded] = []
        self.restored = 0
        bus.listen(self.events.extend)
        bus.on(SignInEnded, self.ended.append)
        bus.on_restored(self._restored)

    def _restored(self) -> None:
        self.restored += 1

    def seqs(self) -> list[int]:
        """The seqs it has heard, in the order in which they came."""
        return [event.seq for event in self.events]


NewEar = Callable[[], Ear]


@pytest.fixture
async def ear(valkey: Valkey) -> AsyncIterator[NewEar]:
    """Makes buses that run until the end of the test."""
    async with ears(valkey.url) as make:
        yield make


@asynccontextmanager
async def ears(url: str) -> AsyncIterator[NewEar]:
    """Makes buses on the Redis of this URL."""
    async with AsyncExitStack() as stack:

        def make() -> Ear:
            redis, counts = connect(url), Counter[str]()
            bus = RedisBus(redis, KEYS, uuid4(), lambda what, n: counts.update({what: n}))
            task = asyncio.create_task(bus.run())

            async def end() -> None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                await redis.aclose()

            stack.push_async_callback(end)
            return Ear(bus, counts)

        yield make


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def hearing(*ears: Ear, rooms: tuple[UUID, ...] = (ROOM,)) -> None:
    """Has them hear chatrooms, and waits until they do."""
    for one in ears:
        for room in rooms:
            one.bus.hear(room)
    await until(lambda: all(one.bus.connected for one in ears))
    for one in ears:
        await one.bus.heard(rooms)


async def test_events(ear: NewEar) -> None:
    """Events go to this node's listeners at once, and to other nodes as they were, in order."""
    here, there = ear(), ear()
    await hearing(here, there)
    told = [event(1), event(2), left(3)]
    here.bus.publish(told[:2])
    here.bus.publish(told[2:])
    assert here.events == told
    await until(lambda: len(there.events) == 3)
    assert there.events == told
    assert here.events == told, "what it has told itself is not heard again"


async def test_only_what_is_asked_for(ear: NewEar) -> None:
    """A node hears the chatrooms that somebody on it hears, and no longer than that; new members go to all nodes."""
    here, there = ear(), ear()
    another = uuid4()
    await hearing(there)
    await hearing(here, rooms=())
    here.bus.publish([event(1, another), event(1)])
    await until(lambda: there.seqs() == [1])
    there.bus.unhear(ROOM)
    await hearing(there, rooms=(another,))
    added = left(1, uuid4(), adds=(ANN,))
    here.bus.publish([event(2), event(2, another), added])
    await until(lambda: len(there.events) == 3)
    assert {e.chatroom_id for e in there.events[1:]} == {another, added.chatroom_id}


async def test_hints(ear: NewEar) -> None:
    """A hint for all nodes reaches all others, one for a node only that one."""
    here, there, third = ear(), ear(), ear()
    await hearing(here, there, third)
    hint = SignInEnded(uuid4(), 4001, "over")
    here.bus.tell_all(hint)
    await until(lambda: there.ended == [hint] and third.ended == [hint])
    assert here.ended == []


async def test_redis_dies(ear: NewEar, valkey: Valkey) -> None:
    """A Redis that dies costs what is told meanwhile and no more; afterwards it is said that some was missed."""
    here, there = ear(), ear()
    await hearing(here, there)
    valkey.kill()
    here.bus.publish([event(1)])
    await until(lambda: here.counts["dropped"] == 1 and not there.bus.connected)
    assert here.seqs() == [1], "its own listeners need no Redis"
    valkey.start()
    await until(lambda: there.restored == 1 and here.restored == 1)
    here.bus.publish([event(2)])
    await until(lambda: there.seqs() == [2])


async def test_silence_is_noticed(ear: NewEar, valkey: Valkey) -> None:
    """A Redis that says nothing any more counts as away after some seconds, though its connections stand."""
    here = ear()
    await hearing(here)
    valkey.pause()
    await until(lambda: not here.bus.connected)
    valkey.resume()
    await until(lambda: here.restored == 1)


async def test_rubbish(ear: NewEar, valkey: Valkey) -> None:
    """Whatever somebody writes into Redis is left out, and the next message is heard."""
    here, there = ear(), ear()
    await hearing(here, there)
    forger = connect(valkey.url)
    copied = KEYS.seal(b"\x80", room_channel(ROOM) + bytes(16))
    for data in (b"", b"x", bytes(16), bytes(100), bytes(16) + copied):
        await forger.publish(room_channel(ROOM), data)
    await forger.aclose()
    here.bus.publish([event(1)])
    await until(lambda: there.seqs() == [1])
    assert there.counts["unreadable"] == 5
