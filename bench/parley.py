"""Parley under load: its wire, and a server of our own or one that runs."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from bench.deployment import Seats
from bench.dialect import STAMP_WIDTH, Line, Scan, Send, Talk, Wrong
from bench.dialect import TEXT as TEXT_BEHIND
from bench.frames import CLOSE, LAYOUTS, PING, PONG, TEXT, Pack, Split, framed, masked, scan, send_template, split
from bench.frames import split_framed as split_frames
from bench.lines import SealedLine, SealedWebSocketLine, TcpLine, WebSocketLine, closing
from bench.rest import Account, Rest
from bench.target import SETTINGS, Target, TargetError, target
from bench.usage import Memory, Usage
from protocol.codec import CODECS, ClientFrame
from protocol.commands import Goodbye, Ping, Resume

TRANSPORTS = ("ws", "ws-msgpack", "ws-noise", "tcp", "tcp-noise")
SIGNED_UP = 50
"""Accounts that are users; where there are more, all are bots. A user's password costs the server 30 ms, by design."""


class ParleyDialect:
    """What Parley says on one of its transports. `key` is the server's, for Noise."""

    def __init__(self, url: str, transport: str, tcp_port: int = 0, key: bytes = b"") -> None:
        self.made_of = (url, transport, tcp_port, key)
        parts = urlsplit(url)
        tcp = transport.startswith("tcp")
        self.tls = parts.scheme == "https" and not tcp
        self.host = parts.hostname or "127.0.0.1"
        self.port = tcp_port if tcp else parts.port or (443 if self.tls else 80)
        self.path = parts.path
        self.transport = transport
        self.codec = CODECS["msgpack" if transport == "ws-msgpack" else "json"]
        self._key = key
        stream = tcp or transport == "ws-noise"  # frames behind their lengths, whatever carries them
        self.pack: Pack = framed if stream else masked
        self.split: Split = split_frames if stream else split
        self._layout = LAYOUTS[self.codec.name]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.made_of

    def line(self, credential: str) -> Line:
        """The upgrade with its token, or the preface with the first frame."""
        if self.transport == "tcp":
            return TcpLine(self.codec, credential)
        if self.transport == "tcp-noise":
            return SealedLine(self.codec, credential, self._key)
        if self.transport == "ws-noise":
            return SealedWebSocketLine(self._upgrade("", "parley.v1.noise"), self.codec, credential, self._key)
        return self._upgrade(f"?token={credential}", f"parley.v1.{self.codec.name}")

    def _upgrade(self, query: str, subprotocol: str) -> WebSocketLine:
        return WebSocketLine(self.host, self.port, f"{self.path}/ws{query}", subprotocol)

    def line_without_token(self) -> Line:
        """A WebSocket, for sessions that resume."""
        return self._upgrade("", f"parley.v1.{self.codec.name}")

    def resume(self, session: Talk, received: int) -> bytes:
        """The command of a session that keeps what `ready` has told it."""
        id, token = UUID(session.kept["id"]), session.kept["resume_token"]
        return self.command(
            "resume", Resume(session_id=id, resume_token=token, received=received, token=session.credential)
        )

    def sender(self, room: str) -> Send:
        """Prebuilt `send_message` frames."""
        return send_template(self.codec, UUID(room), self.pack)

    def scan(self, data: bytes) -> Scan:
        """Chatrooms and seqs from the frames' ends."""
        return scan(data, self._layout, self.split)

    def stamps(self, data: bytes, scan: Scan) -> Iterable[int]:
        """Those that the texts begin with."""
        return self._layout.stamps(data[: scan.end])

    def read(self, data: bytes, scan: Scan) -> int:
        """Decodes what was only skimmed, and compares."""
        decode = self.codec.decode_server
        whole = self.split(data[: scan.end])
        frames = [decode(data[start:end]) for opcode, start, end in whole if opcode < CLOSE]  # the others are control
        events = [frame for frame in frames if frame.event == "message_received"]
        skimmed = [(span.room.decode(), seq) for span in scan.spans for seq in range(span.first, span.last + 1)]
        if [(str(frame.chatroom_id), frame.seq) for frame in events] != skimmed:
            raise Wrong("a frame is not what its last bytes say")
        if any(frame.data["message"]["content"][STAMP_WIDTH:] != TEXT_BEHIND for frame in events):
            raise Wrong("a message's text is not the one that was sent")
        return len(events)

    def command(self, event: str, data: Any, id: str | None = None) -> bytes:
        """A command as it goes out."""
        return self.pack(2 if self.codec.binary else TEXT, self.codec.encode(ClientFrame(event, data, id)))

    def goodbye(self) -> bytes:
        """The command: the server keeps nothing of the session."""
        return self.command("goodbye", Goodbye())

    def other(self, session: Talk, opcode: int, payload: bytes) -> None:
        """Control frames, and what is no event of a chatroom."""
        if opcode == PING:
            session.send(masked(PONG, payload))
        elif opcode == CLOSE:
            session.failed(closing(payload))
        elif opcode < CLOSE:
            self.told(session, self.codec.decode_server(payload))

    def told(self, session: Talk, frame: Any) -> None:
        """A frame about the session itself."""
        if frame.event == "ready":
            session.kept.update(id=frame.data["session_id"], resume_token=frame.data["resume_token"])
            session.ready({room["id"].encode(): room["seq"] for room in frame.data["chatrooms"]})
        elif frame.event == "ping":
            session.send(self.command("ping", Ping()))
        elif frame.event not in ("hello", "pong"):
            session.failed(f"{frame.event} {frame.data.get('code', '')}".strip())


class ParleyDeployment:
    """The Parley at a URL, or one of our own on a fresh data directory, with so many workers."""

    name = "parley"
    lacks: tuple[str, ...] = ()

    def __init__(self, url: str | None, transport: str = "ws", *, apart: bool = True, workers: int = 1) -> None:
        self._url = url
        self._transport = transport
        self._apart = apart
        self._workers = workers
        self._stack = AsyncExitStack()
        self.server = Target("")
        self.rest = Rest("")

    async def start(self) -> None:
        """Starts our own, or asks the one at the URL. Raises TargetError."""
        running = target(self._url, apart=self._apart, workers=self._workers)
        self.server = await self._stack.enter_async_context(running)
        self.rest = Rest(self.server.url)
        self._info = await self.rest.info()

    async def stop(self) -> None:
        """Ends our own, and removes its data."""
        await self._stack.aclose()

    async def seat(self, accounts: int, rooms: Sequence[Sequence[int]]) -> Seats:
        """Users while they are few and may come by a WebSocket, else bots; and groups of them."""
        people = await self._people(accounts)
        made = [self.rest.chatroom(people[first], [people[member] for member in others]) for first, *others in rooms]
        return Seats([account.token for account in people], [str(room) for room in await asyncio.gather(*made)])

    async def _people(self, count: int) -> list[Account]:
        if count <= SIGNED_UP and self._transport.startswith("ws"):
            return await self.rest.accounts(count)
        [owner] = await self.rest.accounts(1)
        return await self.rest.bots(owner, count)

    def dialect(self, transport: str | None = None) -> ParleyDialect:
        """That of the transport that was asked for. Raises TargetError where the server does not have it."""
        transport = transport or self._transport
        tcp = self._info.tcp
        if transport.startswith("tcp") and (tcp is None or tcp.tls or (transport == "tcp" and not tcp.clear)):
            raise TargetError(f"The server has no TCP port for {transport}.")
        key = base64.urlsafe_b64decode(self._info.noise.public_key + "=")
        return ParleyDialect(self.server.url, transport, tcp.port if tcp else 0, key)

    def usage(self) -> Usage | None:
        """Of our own."""
        return self.server.usage()

    def memory(self) -> Memory | None:
        """Of our own."""
        return self.server.memory()

    async def counters(self) -> Mapping[str, float]:
        """Its metrics without labels."""
        return await self.rest.metrics()

    def about(self) -> dict[str, str]:
        """The version, the transport, and how our own differs from a fresh install."""
        settings = SETTINGS if self._url is None else {}
        return {"parley": self._info.version, "transport": self._transport, **settings}
