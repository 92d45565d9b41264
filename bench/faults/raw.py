"""A member of a run that talks by a bare WebSocket: it shares no code with the Python client.

So it sees the frames themselves, and what the server says of each recovery: it
counts, resumes and syncs as protocol/PROTOCOL.md has it, and writes every verdict
down beside what came.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Subprotocol

from bench.faults.history import ResumeVerdict, SyncVerdict
from bench.faults.talker import Talker
from protocol.errors import ERRORS, advice
from protocol.events import UNCOUNTED_EVENTS

SILENCE = 5.0
"""Seconds without a frame after which the server is asked for a sign of life; after as many more the line is dead."""
AT_MOST = 0.3
"""Seconds before it connects again, at most."""
BEHIND = "behind"
"""The id of the ping whose pong comes behind all frames that a resume brings."""
MAX_FRAME = 16 * 1024 * 1024
OVER = (OSError, TimeoutError, ConnectionClosed, InvalidHandshake)
"""How a connection ends, or never begins."""


@dataclass(slots=True)
class _Command:
    """A command without an answer. `number` is its place among the counted frames, None while it is not on its way."""

    event: str
    data: dict[str, Any]
    room: UUID
    key: str = ""
    number: int | None = None


@dataclass(slots=True)
class _Sync:
    """A sync under way: where it began, and what has come of the chatroom since."""

    from_seq: int
    came: dict[int, str | None] = field(default_factory=dict)


class RawTalker(Talker):
    """The client's half of the protocol, in as few lines as it takes."""

    _socket: ClientConnection | None = None
    _session: tuple[str, str] | None = None
    _live = False
    _received = _sent = _answered = _made = 0
    _resumed: ResumeVerdict | None = None

    def waits(self) -> int:
        """How many messages have no answer yet."""
        return sum(1 for command in self._pending.values() if command.key)

    async def run(self, writing: asyncio.Event, stop: asyncio.Event) -> None:
        """Hears from its opening on, and writes between the two moments."""
        self._pending: dict[str, _Command] = {}
        self._syncs: dict[UUID, _Sync] = {}
        self._behind: set[UUID] = set()
        self._outgoing: asyncio.Queue[str] = asyncio.Queue()
        write = asyncio.create_task(self.write(writing, stop))
        try:
            while await self._connection():
                await asyncio.sleep(self.dice.uniform(0, AT_MOST))
        finally:
            write.cancel()

    # --- the connection ------------------------------------------------------------------------

    async def _connection(self) -> bool:
        """One connection; whether to come back after it."""
        code = None
        with suppress(*OVER):
            async with connect(
                self.member.url,
                subprotocols=[Subprotocol("parley.v1.json")],
                compression=None,
                ping_interval=None,
                max_size=MAX_FRAME,
                close_timeout=1.0,
                ssl=self.member.tls,
            ) as self._socket:
                try:
                    await self._talk(self._socket)
                finally:
                    self._live, self._resumed = False, None
                    code = self._socket.close_code
        if code is None or advice(code).reconnect:
            return True
        self.wrong(f"the connection was closed with {code}, which means not to come back")
        self.opened.set()
        return False

    async def _talk(self, socket: ClientConnection) -> None:
        self._outgoing = asyncio.Queue()
        posting = asyncio.create_task(self._post_all(socket, self._outgoing))
        try:
            while True:
                self._take(json.loads(await self._next(socket)))
        finally:
            posting.cancel()

    async def _next(self, socket: ClientConnection) -> str | bytes:
        """The next frame. Raises TimeoutError when nothing comes though it was asked for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SILENCE):
                return await socket.recv()
        self._post("ping", {"received": self._received} if self._live else {})
        try:
            async with asyncio.timeout(SILENCE):
                return await socket.recv()
        except TimeoutError:
            socket.transport.abort()
            raise

    async def _post_all(self, socket: ClientConnection, outgoing: asyncio.Queue[str]) -> None:
        with suppress(*OVER):
            while True:
                await socket.send(await outgoing.get())

    def _post(self, event: str, data: dict[str, Any], id: str | None = None) -> None:
        self._outgoing.put_nowait(json.dumps({"event": event, "data": data} | ({"id": id} if id else {})))

    # --- frames --------------------------------------------------------------------------------

    def _take(self, frame: dict[str, Any]) -> None:
        event, data = frame["event"], frame.get("data", {})
        if self._live and event not in UNCOUNTED_EVENTS:
            self._received += 1
        if "seq" in frame:
            self._event(UUID(frame["chatroom_id"]), frame["seq"], data)
        elif event in ("ack", "error", "synced"):
            self._answer(frame.get("id"), event, data)
        elif frame.get("id") == BEHIND:
            self._replayed()
        elif (take := getattr(self, f"_on_{event}", None)) is not None:
            take(data)

    def _on_hello(self, _: dict[str, Any]) -> None:
        if self._session is None:
            self._post("authenticate", {"token": self.member.token})
            return
        id, secret = self._session
        resume = {"session_id": id, "resume_token": secret, "received": self._received, "token": self.member.token}
        self._post("resume", resume)

    def _on_ready(self, data: dict[str, Any]) -> None:
        """A new session: what was given is given again, and what was missed is asked for."""
        self._session = data["session_id"], data["resume_token"]
        self._received = self._sent = self._answered = 0
        self._pending = {id: command for id, command in self._pending.items() if command.key}
        self._syncs = {}
        self._live = True
        for command in self._pending.values():
            command.number = None
        for state in data["chatrooms"]:
            room = UUID(state["id"])
            if room in self.seqs and state["seq"] != self.seqs[room]:
                self._sync(room)
            elif room in self.rooms and room not in self.seqs:
                self.follow(room, state["seq"])
        self._send_waiting()
        self.opened.set()

    def _on_resumed(self, data: dict[str, Any]) -> None:
        """The pong to a ping that is sent now comes behind all frames that were lost."""
        self._resumed = ResumeVerdict(
            client=self.member.name,
            missed=data["missed"],
            handled=data["handled"],
            sent=self._sent,
            answered=self._answered,
            replayed=self._received,
        )
        self._live = True
        self._post("ping", {}, BEHIND)
        for command in self._pending.values():
            if command.number is not None and command.number > data["handled"]:
                command.number = None
        self._sent = data["handled"]
        self._send_waiting()

    def _replayed(self) -> None:
        if (resumed := self._resumed) is not None:
            self._resumed = None
            came = self._received - resumed.replayed
            self.history.add(
                ResumeVerdict(
                    client=resumed.client,
                    missed=resumed.missed,
                    handled=resumed.handled,
                    sent=resumed.sent,
                    answered=resumed.answered,
                    replayed=came,
                )
            )

    def _on_session_reset(self, data: dict[str, Any]) -> None:
        self._session = None
        if data["reason"] == "received_too_high":
            self.wrong("the server has sent less than came")

    def _on_migrate(self, data: dict[str, Any]) -> None:
        """It does not follow, and resumes when the node has closed: the protocol allows that."""
        if self._session is not None:
            self._session = self._session[0], data["resume_token"]

    def _on_lagging(self, data: dict[str, Any]) -> None:
        for room in map(UUID, data["chatrooms"]):
            if room in self.seqs:
                self._sync(room)

    # --- commands ------------------------------------------------------------------------------

    def begin_send(self, room: UUID, key: str) -> None:
        """Sends it now, or when there is a session."""
        self._give(_Command("send_message", {"chatroom_id": str(room), "content": key, "client_id": key}, room, key))

    def _sync(self, room: UUID) -> None:
        """One at a time for each chatroom."""
        if room in self._syncs:
            self._behind.add(room)
            return
        self._behind.discard(room)
        self._syncs[room] = _Sync(self.seqs[room])
        self._give(_Command("sync", {"chatrooms": {str(room): self.seqs[room]}}, room))

    def _give(self, command: _Command) -> None:
        self._made += 1
        self._pending[f"r{self._made}"] = command
        self._send_waiting()

    def _send_waiting(self) -> None:
        if not self._live:
            return
        for id, command in self._pending.items():
            if command.number is None:
                self._sent += 1
                command.number = self._sent
                self._post(command.event, command.data, id)

    def _answer(self, id: str | None, event: str, data: dict[str, Any]) -> None:
        command = self._pending.get(id or "")
        if command is None or id is None:
            return
        self._answered = max(self._answered, command.number or 0)
        if event == "error":
            self._refusal(id, command, data)
            return
        del self._pending[id]
        if event == "synced":
            self._synced(command.room, data["chatrooms"][str(command.room)])
        else:
            self.acked(command.room, command.key, data["message"]["seq"])

    def _refusal(self, id: str, command: _Command, error: dict[str, Any]) -> None:
        """An error that may pass is waited for; a sync is asked for until it is answered."""
        known = ERRORS.get(error["code"])
        if command.key and (known is None or not known.retryable):
            del self._pending[id]
            self.refused(command.room, command.key, error["code"])
        else:
            asyncio.get_running_loop().call_later(error.get("retry_after") or AT_MOST, self._again, command)

    def _again(self, command: _Command) -> None:
        command.number = None
        self._send_waiting()

    # --- events --------------------------------------------------------------------------------

    def _event(self, room: UUID, seq: int, data: dict[str, Any]) -> None:
        """While a sync is under way, live events may come before older ones, and some twice; else never."""
        if room not in self.seqs:
            return
        key = data["message"]["content"] if "message" in data else None
        if (sync := self._syncs.get(room)) is None:
            self.heard(room, seq, key)
            return
        sync.came[seq] = key
        self._advance(room, sync)

    def _advance(self, room: UUID, sync: _Sync) -> None:
        while (following := self.seqs[room] + 1) in sync.came:
            self.heard(room, following, sync.came[following])

    def _synced(self, room: UUID, answer: dict[str, Any]) -> None:
        sync = self._syncs.pop(room, None)
        if sync is None:
            return  # of a session that is gone
        verdict = SyncVerdict(
            client=self.member.name,
            room=str(room),
            from_seq=answer["from"],
            to_seq=answer["to"],
            verdict=answer["verdict"],
            had=sorted({*sync.came, *range(sync.from_seq + 1, self.seqs[room] + 1)}),
        )
        self.history.add(verdict)
        if answer["verdict"] == "not_member":
            self.wrong("synced as not_member, though the membership never changed")
        elif answer["verdict"] == "too_long":
            self.gap(room, self.seqs[room], answer["to"])
        self._advance(room, sync)
        for seq in sorted(seq for seq in sync.came if seq > self.seqs[room]):
            self.heard(room, seq, sync.came[seq])
        if room in self._behind:
            self._sync(room)
