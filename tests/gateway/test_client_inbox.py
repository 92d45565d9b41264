from __future__ import annotations

import asyncio

import pytest

from gateway.client_effects import ClientClosed, ClientEvent, HistoryGap, local
from gateway.client_inbox import LIMIT, PAUSE_AT, UNREAD_LIMIT, Inbox
from tests.gateway.client_shapes import ROOM


def durable(seq: int) -> ClientEvent:
    """Event `seq` of ROOM."""
    return ClientEvent("message_received", {}, ROOM, seq)


async def drain(inbox: Inbox) -> list[ClientEvent]:
    """Everything that can be had of an inbox that has ended."""
    inbox.end(ClientClosed(1000, ""))
    events = []
    with pytest.raises(ClientClosed):
        while True:
            events.append(await inbox.get())
    return events


async def test_events_come_out_as_they_went_in() -> None:
    """The inbox is a queue, and what waits can still be read after the end."""
    inbox = Inbox()
    for seq in range(1, 4):
        inbox.put(durable(seq))
    assert [event.seq for event in await drain(inbox)] == [1, 2, 3]


async def test_a_reader_waits_for_the_next_event() -> None:
    """Reading an empty inbox returns with the next event."""
    inbox = Inbox()
    reading = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put(durable(1))
    assert await reading == durable(1)


async def test_an_unread_inbox_is_bounded_and_tells_the_gap() -> None:
    """Who begins to read late gets the first events, then one gap for all that did not fit."""
    inbox = Inbox()
    for seq in range(1, UNREAD_LIMIT + 51):
        inbox.put(durable(seq))
    assert not inbox.crowded
    *kept, gap = await drain(inbox)
    assert [event.seq for event in kept] == list(range(1, UNREAD_LIMIT + 1))
    assert gap == local(HistoryGap(chatroom_id=ROOM, from_seq=UNREAD_LIMIT, to_seq=UNREAD_LIMIT + 50))


async def test_after_the_gap_events_go_on() -> None:
    """Reading the gap makes room again."""
    inbox = Inbox()
    for seq in range(1, UNREAD_LIMIT + 2):
        inbox.put(durable(seq))
    taken = [await inbox.get() for _ in range(UNREAD_LIMIT + 1)]
    inbox.put(durable(UNREAD_LIMIT + 2))
    assert taken[-1].event == "history_gap"
    assert await inbox.get() == durable(UNREAD_LIMIT + 2)


async def test_nothing_overtakes_the_gap() -> None:
    """Room made by reading is not used before the gap has been told."""
    inbox = Inbox()
    for seq in range(1, UNREAD_LIMIT + 1):
        inbox.put(durable(seq))
    inbox.put(durable(UNREAD_LIMIT + 1))
    first = [await inbox.get(), await inbox.get()]
    for seq in range(UNREAD_LIMIT + 2, LIMIT + 2):
        inbox.put(durable(seq))
    *kept, gap = first + await drain(inbox)
    assert [event.seq for event in kept] == list(range(1, UNREAD_LIMIT + 1))
    assert (gap.data.from_seq, gap.data.to_seq) == (UNREAD_LIMIT, LIMIT + 1)


async def test_a_gap_that_does_not_fit_widens_the_gap() -> None:
    """Events, a gap of the server's making and events again are one gap to the user."""
    inbox = Inbox()
    for seq in range(1, UNREAD_LIMIT + 2):
        inbox.put(durable(seq))
    inbox.put(local(HistoryGap(chatroom_id=ROOM, from_seq=UNREAD_LIMIT + 1, to_seq=5_000)))
    inbox.put(ClientEvent("typing_indicator", {}, ROOM))
    inbox.put(durable(5_001))
    assert (await drain(inbox))[-1].data == HistoryGap(chatroom_id=ROOM, from_seq=UNREAD_LIMIT, to_seq=5_001)


async def test_a_reader_who_falls_behind_makes_the_inbox_crowded() -> None:
    """Once reading has begun the bounds are wider: first reading from the socket pauses, then events are left out."""
    inbox = Inbox()
    inbox.put(durable(1))
    await inbox.get()
    for seq in range(2, PAUSE_AT + 1):
        inbox.put(durable(seq))
    assert not inbox.crowded
    for seq in range(PAUSE_AT + 1, LIMIT + 12):
        inbox.put(durable(seq))
    assert inbox.crowded
    *kept, gap = await drain(inbox)
    assert [event.seq for event in kept] == list(range(2, LIMIT + 2))
    assert (gap.data.from_seq, gap.data.to_seq) == (LIMIT + 1, LIMIT + 11)
