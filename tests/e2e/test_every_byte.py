"""One conversation, cut after every byte and over every transport: it always ends as if nothing had happened."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from uuid import UUID

import asyncpg
import pytest

from protocol import commands
from protocol.events import ChatroomOpened, MessageSent, ReadPosition
from tests.e2e.conftest import StartServer
from tests.e2e.cuts import Cut, CutClient, Direction, Target
from tests.e2e.lines import TRANSPORTS
from tests.e2e.server import Person, Server

log = logging.getLogger(__name__)

LANES = 48
"""Conversations at once, each in a chatroom of its own."""
FIRST_SEQ = 1_000_000
"""Numbers of one length everywhere, so that all conversations have the same bytes at the same place."""
DIRECTIONS: tuple[Direction, ...] = ("up", "down")
SLACK = 16
"""Bytes by which two conversations may differ: a time without a fraction is a few bytes shorter."""
SHARE = 8
"""One byte of so many is cut after, in each transport and run."""
OPENING = 60
"""Bytes that the preface and a message of the Noise handshake have over TCP, and the answer has over a WebSocket."""


class Lane:
    """A chatroom, and someone who has the same conversation in it again and again, with Bob."""

    def __init__(self, room: UUID, ann: Person, bob: CutClient) -> None:
        self._ann = ann
        self._bob = bob
        self.room = room
        self.seq = FIRST_SEQ
        self.turns = 0

    async def converse(self, target: Target, cut: Cut | None) -> dict[Direction, int]:
        """The conversation, whose first line breaks at the cut. Returns how many bytes passed on that line."""
        self.turns += 1
        ann = CutClient(target, self._ann.token, cut)
        said = [f"{self.turns:04}-{n}" for n in range(3)]
        # No client_id: what keeps a message from being handled twice is the counting of frames alone.
        sending = [ann.submit(commands.SendMessage(chatroom_id=self.room, content=text)) for text in said]
        joining = ann.submit(commands.JoinChatroom(chatroom_id=self.room))
        sent: list[MessageSent] = await asyncio.gather(*sending)
        opened: ChatroomOpened = await joining
        read: ReadPosition = await ann.submit(commands.MessageRead(chatroom_id=self.room, seq=sent[-1].message.seq))
        self._bob.submit(commands.SendMessage(chatroom_id=self.room, content=f"{self.turns:04}-bob"))
        await ann.until(lambda: ann.state.chatrooms[self.room].seq >= self.seq + 4)
        await ann.ping()
        ann.close()
        self._bob.events.clear()
        self._check(ann, [*said, f"{self.turns:04}-bob"])
        assert [(ack.message.seq, ack.duplicate) for ack in sent] == [(self.seq + n, False) for n in (1, 2, 3)]
        assert opened.chatroom_id == self.room
        assert (read.last_read_seq, read.unread_count) == (self.seq + 3, 0)
        self.seq += 4
        assert cut is None or ann.sockets[0].broken or ann.sockets[0].passed[cut.direction] < cut.after, cut
        return ann.sockets[0].passed

    def _check(self, ann: CutClient, texts: list[str]) -> None:
        heard = [(event.seq, event.data.message.content) for event in ann.events if event.seq is not None]
        assert heard == list(enumerate(texts, self.seq + 1))
        assert (ann.control["ready"], ann.control.get("session_reset", 0)) == (1, 0)


async def lanes_of(server: Server, count: int, prefix: str = "p") -> list[Lane]:
    """Short names make short frames, and fewer cuts."""
    bob, *anns = await asyncio.gather(*(server.person(f"{prefix}{number:02}") for number in range(count + 1)))
    rooms = await asyncio.gather(*(server.chatroom(ann, bob) for ann in anns))
    connection = await asyncpg.connect(server.database_url)
    await connection.execute("UPDATE chatrooms SET last_seq = $1 WHERE last_seq = 1", FIRST_SEQ)
    await connection.close()
    talker = CutClient(await Target.of(server, "ws-msgpack"), bob.token)
    return [Lane(room, ann, talker) for room, ann in zip(rooms, anns, strict=True)]


async def _drive(lane: Lane, cuts: Iterator[tuple[Target, Cut]]) -> None:
    for target, cut in cuts:
        try:
            async with asyncio.timeout(20):
                await lane.converse(target, cut)
        except Exception as error:
            error.add_note(f"{target.transport}, cut {cut}")
            raise


def _cuts(whole: dict[Direction, int], first: int) -> list[Cut]:
    """One transport's share: after each byte of its opening, and of the rest after every eighth, from `first` on."""
    return [
        Cut(way, after)
        for way in DIRECTIONS
        for after in range(whole[way] + SLACK)
        if after < OPENING or after % SHARE == first
    ]


@pytest.mark.timeout(240)
async def test_every_byte(start_server: StartServer) -> None:
    """Cut after any byte in either direction and resumed, all is answered, heard and written exactly once, in order.

    The transports share the bytes behind their openings, drawn anew in each run.
    """
    dice = random.Random(seed := random.randrange(2**32))
    log.warning("seed %d", seed)
    server = await start_server(PARLEY_RESUME_WINDOW="15")
    lanes = await lanes_of(server, LANES)
    cuts: list[tuple[Target, Cut]] = []
    for transport in TRANSPORTS:
        target = await Target.of(server, transport)
        cuts += [(target, cut) for cut in _cuts(await lanes[0].converse(target, None), dice.randrange(SHARE))]
    shared = iter(cuts)
    async with asyncio.TaskGroup() as group:
        for lane in lanes:
            group.create_task(_drive(lane, shared))
    assert sum(lane.turns for lane in lanes) == len(cuts) + len(TRANSPORTS)
    connection = await asyncpg.connect(server.database_url)
    rows = await connection.fetch("SELECT chatroom_id, count(*) FROM messages GROUP BY 1")
    await connection.close()
    assert {row["chatroom_id"]: row["count"] for row in rows} == {lane.room: lane.turns * 4 for lane in lanes}
