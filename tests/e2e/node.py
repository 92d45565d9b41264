"""A Parley node inside the test's own loop, on a real database: for tests that decide how long each query takes."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec

from crypto import keyfile
from crypto.passwords import Passwords
from crypto.resume_tokens import ResumeTokens
from crypto.sealing import MasterKeys
from crypto.signed_urls import Grants
from crypto.tokens import AccessTokens, RefreshTokens
from gateway.actor import Actor
from gateway.chat import Chat
from gateway.config import Config
from gateway.connection import Connection as Client
from gateway.door import Door
from gateway.fence import Open
from gateway.files.grants import FILE, PART, FileGrant, PartGrant
from gateway.files.pictures import Pictures
from gateway.files.store import FileStore
from gateway.files.types import Types
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.nodes import Nodes
from gateway.presence import Presence
from gateway.presence_rooms import RoomPresence
from gateway.rates import Rates
from gateway.repair import Repair
from gateway.services import Services
from gateway.wheel import Wheel
from gateway.wire import Wire
from protocol.codec import JSON
from protocol.commands import CreateChatroom, Register, SendMessage
from protocol.errors import CloseCode
from protocol.events import UNCOUNTED_EVENTS
from protocol.framing import FrameReader, frame
from storage.blobs import Directory
from storage.bus import LocalBus
from storage.database import Connection, Database
from storage.journal import Journal, Settle
from storage.lookups import Lookups
from storage.room_keys import RoomKeys

PATIENCE = 60
"""Seconds for what a busy machine may take its time with."""

DELAYS: ContextVar[tuple[float, float]] = ContextVar("delays", default=(0.0, 0.0))
"""Seconds that queries of the current task take before they reach the database, and before their answer is read."""


class _SlowConnection:
    """A connection whose queries take their time."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Awaitable[Any]] = getattr(self._conn, name)
        if not name.startswith("fetch"):
            return method

        async def call(*args: Any) -> Any:
            before, after = DELAYS.get()
            if before:
                await asyncio.sleep(before)
            answer = await method(*args)
            if after:
                await asyncio.sleep(after)
            return answer

        return call


class SlowDatabase(Database):
    """What the doors read from: each query is delayed as DELAYS says."""

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection whose queries take their time."""
        async with super().acquire() as conn:
            yield cast("Connection", _SlowConnection(conn))

    @asynccontextmanager
    async def look_up(self) -> AsyncIterator[Connection]:
        """The same for short queries."""
        async with super().look_up() as conn:
            yield cast("Connection", _SlowConnection(conn))


class LateDatabase(Database):
    """What the journal writes to: the answer to every other COMMIT comes up to `late` seconds after the commit."""

    late = 0.0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A transaction that is visible to others before it is known to be committed here."""
        async with super().transaction() as conn:
            yield conn
        if self.late and random.random() < 0.5:
            await asyncio.sleep(random.uniform(0, self.late))


class Node:
    """The parts of a Parley process, wired as `gateway.__main__` does."""

    def __init__(self, config: Config, read: SlowDatabase, write: LateDatabase, bus: LocalBus) -> None:
        keys = keyfile.load_keys(config.key_directory, None, None, None, None, production=False)
        metrics = Metrics()
        self.config = config
        tokens = ResumeTokens(uuid4(), keys.master)
        self.write = write
        self.wheel = Wheel()
        self.hub = Hub(metrics)
        room_keys = RoomKeys(write, MasterKeys(keys.master))
        self.repair = Repair(self.hub, bus, read, room_keys)
        bus.listen(self.hub.deliver)
        self.journal = Journal(write, bus.publish, self.repair.doubt, metrics.committed)
        presence = Presence(self.hub, self.wheel, config.presence_grace)
        lookups = Lookups(read)
        self.services = Services(
            config=config,
            database=read,
            lookups=lookups,
            journal=self.journal,
            hub=self.hub,
            nodes=Nodes(self.hub, bus, read),
            presence=RoomPresence(self.hub, presence, read),
            room_keys=room_keys,
            passwords=Passwords(1, 100),
            access_tokens=AccessTokens(keys.jwt_pems, config.issuer, config.access_token_life),
            refresh_tokens=RefreshTokens(keys.refresh_secret),
            metrics=metrics,
            rates=Rates(10**6, time.monotonic),
            uploads=Rates(10**6, time.monotonic),
            files=FileStore(write, Directory(config.data / "files"), MasterKeys(keys.master)),
            types=Types(),
            pictures=Pictures(),
            file_grants=Grants(FileGrant, FILE, keys.master),
            part_grants=Grants(PartGrant, PART, keys.master),
            scanner=None,
        )
        self.chat = Chat(self.services)
        self.door = Door(config, self.hub, self.chat, lookups, self.wheel, presence, metrics, bus, tokens, Open())
        self.wire = Wire(JSON, frame)

    async def user(self, name: str) -> tuple[Actor, str]:
        """A new account: an actor, and an access token."""
        command = Register(username=name, email=f"{name}@example.com", password="a long password")
        token = cast("Any", await self.chat.handle(None, command)).access_token
        return await self.chat.authenticate(token), token

    async def room(self, owner: Actor, *members: Actor) -> UUID:
        """A group of these users."""
        command = CreateChatroom(name="room", user_ids=[actor.user.id for actor in members])
        return cast("UUID", cast("Any", await self.chat.handle(owner, command)).chatroom.id)

    def send(self, actor: Actor, room: UUID, text: str, settle: Settle = lambda _: None) -> None:
        """Puts a message into the journal, whose room key is at hand."""
        assert self.chat.begin(actor, SendMessage(chatroom_id=room, content=text), settle)


@asynccontextmanager
async def running_node(url: str, directory: Path, bus: LocalBus | None = None) -> AsyncIterator[Node]:
    """A node on a migrated database."""
    config = Config(
        data=directory,
        limit_connections=10_000,
        limit_commands=10**8,
        limit_burst=10**6,
        limit_sync=5_000,
        auth_deadline=120.0,  # two hundred open at once, on a machine that may be busy
    )
    read, write = await SlowDatabase.open(url, 50), await LateDatabase.open(url, 5)
    node = Node(config, cast("SlowDatabase", read), cast("LateDatabase", write), bus or LocalBus())
    try:
        yield node
    finally:
        node.wheel.stop()
        await node.journal.drain()
        node.services.passwords.close()
        await read.close()
        await write.close()


class Frame(msgspec.Struct):
    """What a reader looks at."""

    event: str
    data: msgspec.Raw
    chatroom_id: UUID | None = None
    seq: int | None = None


_frame = msgspec.json.Decoder(Frame)


class Reader:
    """A client that follows the protocol and notes every breach of it. It is the socket of its connection."""

    def __init__(self, node: Node, token: str) -> None:
        self.paused = False
        self.next: dict[UUID, int] = {}
        self.received = 0
        self.faults: list[str] = []
        self.frames: dict[str, Any] = {}
        self.closed: CloseCode | None = None
        self._node = node
        self._token = token
        self._deaf = False
        self._syncing: tuple[UUID, int] | None = None
        self._during_sync: list[int] = []
        self._connection = Client(node.door, self, node.wire, "test")

    # --- what a test does with it ------------------------------------------------------------

    async def open(self) -> None:
        """Connects, until `ready`."""
        assert self._node.door.admit_stranger("test")
        self.write(self._connection.hello())
        self._connection.begin(self._token)
        await self.wait_for("ready")

    def cut(self) -> None:
        """Breaks the connection."""
        self._connection.lost(clean=False)
        self._connection = Client(self._node.door, self, self._node.wire, "test")

    def go_deaf(self) -> None:
        """From now on frames are lost on the way, until a resume."""
        self._deaf = True

    async def resume(self) -> None:
        """Connects anew and takes up the session."""
        ready = self.frames["ready"]
        self._deaf = False
        assert self._node.door.admit_stranger("test")
        self.write(self._connection.hello())
        self._connection.begin(None)
        self.command(
            "resume", session_id=ready["session_id"], resume_token=ready["resume_token"], received=self.received
        )
        await self.wait_for("resumed")

    async def sync(self, room: UUID, back: int) -> None:
        """Asks for events again, from `back` before the last one heard."""
        self._syncing = room, max(0, self.next[room] - 1 - back)
        self._during_sync = []
        self.command("sync", chatrooms={str(room): self._syncing[1]})
        await self.wait_for("synced")

    def _synced(self, chatrooms: dict[str, Any]) -> None:
        """What came since the command: live events as they were due, then the replay, then perhaps live ones again."""
        assert self._syncing is not None
        room, after = self._syncing
        verdict, seqs = chatrooms[str(room)], self._during_sync
        # The replay begins where its first event comes last: what was due before it may have been the same one, live.
        first = len(seqs) - 1 - seqs[::-1].index(after + 1) if after + 1 in seqs else len(seqs)
        live, replay = seqs[:first], seqs[first:]
        self.check(verdict["verdict"] == "complete", str(verdict))
        self.check(live == list(range(self.next[room], self.next[room] + len(live))), f"before the replay: {live}")
        self.check(replay == list(range(after + 1, after + 1 + len(replay))), f"after {after}, {verdict}: {replay}")
        self.check(after + len(replay) >= verdict["to"], f"after {after}, {verdict}: {replay}")
        self.next[room] = after + 1 + len(replay)
        self._syncing = None

    async def wait_for(self, event: str) -> None:
        """Until a frame of this kind has come."""
        self.frames.pop(event, None)
        async with asyncio.timeout(PATIENCE):
            while event not in self.frames:
                assert self.closed is None, self.closed
                await asyncio.sleep(0.001)

    async def caught_up(self, room: UUID) -> None:
        """Until it has heard what the hub has delivered."""
        async with asyncio.timeout(PATIENCE):
            while self.next[room] != (self._node.hub.rooms[room].head or 0) + 1:
                assert not self.faults, self.faults[:5]
                await asyncio.sleep(0.001)

    def command(self, event: str, **data: Any) -> None:
        """Sends a frame."""
        self._connection.receive(msgspec.json.encode({"event": event, "data": data}))

    def check(self, fine: bool, fault: str) -> None:
        """Notes a fault."""
        if not fine:
            self.faults.append(fault)

    # --- gateway.connection.Socket -----------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Takes frames, unless they are lost on the way."""
        if self._deaf:
            return
        for payload in FrameReader(len(data)).feed(data):
            self._take(_frame.decode(payload))

    def _take(self, frame: Frame) -> None:
        self.received += frame.event not in UNCOUNTED_EVENTS
        if frame.seq is None:
            self._take_other(frame.event, msgspec.json.decode(frame.data))
            return
        assert frame.chatroom_id is not None
        if self._syncing is not None:
            self._during_sync.append(frame.seq)
            return
        expected = self.next.get(frame.chatroom_id, frame.seq if frame.event == "user_joined" else -1)
        self.check(frame.seq == expected, f"{frame.event} {frame.seq} instead of {expected}")
        self.next[frame.chatroom_id] = frame.seq + 1

    def _take_other(self, event: str, data: Any) -> None:
        self.check(event not in ("lagging", "error", "session_reset"), f"{event} {data}")
        self.frames[event] = data
        if event == "ready":
            self.next = {UUID(state["id"]): state["seq"] + 1 for state in data["chatrooms"]}
        elif event == "synced":
            self._synced(data["chatrooms"])

    def close(self, code: CloseCode, reason: str) -> None:
        """The server closes."""
        self._connection.close(code, reason)

    def finish(self) -> asyncio.Task[None] | None:
        """The server takes no more commands."""
        return self._connection.finish()

    def hang_up(self) -> None:
        """The server's answer to a goodbye."""

    def send_close(self, code: CloseCode, reason: str) -> None:
        """The server says why."""
        if code is not CloseCode.replaced:
            self.closed = code

    def stuck(self) -> None:
        """It lags; the faults tell."""

    def ping(self) -> None:
        """Nothing to answer in so short a time."""

    def pause_reading(self) -> None:
        """The reader sends little."""

    def resume_reading(self) -> None:
        """The reader sends little."""

    def abort(self) -> None:
        """The connection is gone."""
