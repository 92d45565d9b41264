"""A client whose connections break after so many bytes, for tests that cut everywhere, over any transport."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

from noise.exceptions import NoiseInvalidMessage
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from gateway.client_effects import Answer, ClientEvent, Connect, Deliver, Drop, Effect, End, FetchToken, Refuse, Send
from gateway.client_state import ClientState
from protocol.codec import CODECS, ClientFrame
from protocol.commands import Command, Goodbye
from tests.e2e.lines import PACKED, PREFACES, Channel, Frames, Transport, frame
from tests.e2e.server import Server

Direction = Literal["up", "down"]
"""`up` is from client to server."""


class Cut(NamedTuple):
    """Where a connection breaks: after this many bytes in this direction, the handshakes' included."""

    direction: Direction
    after: int


class Target(NamedTuple):
    """Where to connect, and how; `key` is the server's for Noise."""

    transport: Transport
    url: str
    port: int
    key: bytes

    @classmethod
    async def of(cls, server: Server, transport: Transport) -> Target:
        """A running server over this transport."""
        port = server.tcp_port if transport.startswith("tcp") else server.port
        return cls(transport, server.ws, port, await server.noise_key())


class CutLine(asyncio.Protocol, ABC):
    """The client's end of a connection. Beyond the cut no byte passes, in either direction.

    It breaks at the client's end of the line instead of in a proxy: the bytes that
    pass are the same, and thousands of cuts take half the time.
    """

    def __init__(
        self,
        target: Target,
        cut: Cut | None,
        opened: Callable[[], None],
        receive: Callable[[bytes], None],
        lost: Callable[[], None],
    ) -> None:
        self._cut = cut
        self._opened = opened
        self._receive = receive
        self._lost = lost
        self._preface = PREFACES.get(target.transport, b"")
        self._channel = Channel(self._preface, target.key) if target.transport.endswith("noise") else None
        self._sealed = False
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}
        self.broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins the handshakes."""
        self._transport = cast("asyncio.Transport", transport)
        self._begin()

    def data_received(self, data: bytes) -> None:
        """Hands on what came before the cut. What does not open ends the line."""
        if passing := self._pass("down", data):
            try:
                self._take(passing)
            except NoiseInvalidMessage:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The line is gone."""
        self._lost()

    def send(self, payload: bytes) -> None:
        """A frame; on a line that is broken already it goes nowhere."""
        if self.broken:
            return
        for message in [payload] if self._channel is None else self._channel.seal(payload):
            self._write_message(message)

    def _take_message(self, message: bytes) -> None:
        """What the transport carries: a frame, or a part of Noise."""
        if self._channel is None:
            self._receive(message)
        elif self._sealed:
            for payload in self._channel.open(message):
                self._receive(payload)
        else:
            self._channel.complete(message)
            self._sealed = True
            self._opened()

    def _write(self, data: bytes) -> None:
        if passing := self._pass("up", data):
            self._transport.write(passing)

    def _pass(self, direction: Direction, data: bytes) -> bytes:
        """What gets through; the byte after the cut breaks the line, and so does silence right behind the last one."""
        if self.broken:
            return b""
        if self._cut is not None and self._cut.direction == direction:
            left = self._cut.after - self.passed[direction]
            if len(data) >= left:
                data, self.broken = data[:left], True
                asyncio.get_running_loop().call_soon(self._transport.close)  # after what passed was handed on
        self.passed[direction] += len(data)
        return data

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _take(self, data: bytes) -> None: ...

    @abstractmethod
    def _write_message(self, message: bytes) -> None: ...

    @abstractmethod
    def say_goodbye(self, payload: bytes) -> None:
        """Ends the session: by this frame, where the transport has no close of its own."""


class CutWebSocket(CutLine):
    """A WebSocket by `websockets`' sans-I/O protocol."""

    def __init__(self, target: Target, *more: Any) -> None:
        super().__init__(target, *more)
        name = "parley.v1." + target.transport.removeprefix("ws-")
        self._text = target.transport == "ws-json"
        self._protocol = ClientProtocol(parse_uri(target.url), subprotocols=[Subprotocol(name)])

    def _begin(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def _take(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                assert event.status_code == 101, event
                self._upgraded()
            elif isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.BINARY):
                self._take_message(bytes(event.data))
        self._flush()

    def _upgraded(self) -> None:
        if self._channel is None:
            self._opened()
        else:
            self._write_message(self._preface)
            self._write_message(self._channel.offer)

    def _write_message(self, message: bytes) -> None:
        if self._protocol.state is OPEN:
            (self._protocol.send_text if self._text else self._protocol.send_binary)(message)
            self._flush()

    def say_goodbye(self, payload: bytes) -> None:
        """A clean close."""
        if not self.broken:
            self._protocol.send_close(1000)
            self._flush()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._write(data)


class CutTcp(CutLine):
    """Frames behind their lengths."""

    def __init__(self, target: Target, *more: Any) -> None:
        super().__init__(target, *more)
        self._frames = Frames()

    def _begin(self) -> None:
        self._write(self._preface)
        if self._channel is None:
            self._opened()
        else:
            self._write_message(self._channel.offer)

    def _take(self, data: bytes) -> None:
        for message in self._frames.feed(data):
            self._take_message(message)

    def _write_message(self, message: bytes) -> None:
        self._write(frame(message))

    def say_goodbye(self, payload: bytes) -> None:
        """A `goodbye`, and no more."""
        self.send(payload)
        self._transport.close()


class CutClient:
    """The Python client's own state machine on lines that are cut: the first one at `cut`, later ones never.

    It comes back without a delay. `submit` returns a future; `events` are what a
    user would have seen; `control` counts the frames of the connection itself.
    """

    def __init__(self, target: Target, token: str, cut: Cut | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._kind = CutTcp if target.transport.startswith("tcp") else CutWebSocket
        self._codec = CODECS["msgpack" if target.transport in PACKED else "json"]
        self._token = token
        self._cuts = [cut]
        self.state = ClientState(self._loop.time(), lambda: 0.0)
        self.sockets: list[CutLine] = []
        self.events: list[ClientEvent] = []
        self.control: dict[str, int] = {}
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._do(self.state.tick(self._loop.time()))

    # --- for the test ------------------------------------------------------------------------

    def submit(self, command: Command) -> asyncio.Future[Any]:
        """Gives a command, whether there is a line or not."""
        id, effects = self.state.submit(command)
        self._answers[id] = self._loop.create_future()
        self._do(effects)
        return self._answers[id]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits for something that a frame brings about."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def ping(self) -> None:
        """Lets the time of a heartbeat pass, on every line again until a pong has come."""
        before, lines = self.control.get("pong", 0), 0
        while self.control.get("pong", 0) == before:
            if self.state.phase == "live" and lines < len(self.sockets):
                lines = len(self.sockets)
                self._do(self.state.tick(self._loop.time() + 21.0))
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Says goodbye: the session is over."""
        self.state.end(1000, "")
        self.sockets[-1].say_goodbye(self._codec.encode(ClientFrame("goodbye", Goodbye())))

    # --- the shell of the state machine --------------------------------------------------------

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(frame):
                    self.sockets[-1].send(self._codec.encode(frame))
                case Deliver(event):
                    self.events.append(event)
                case Answer(id, result):
                    self._answers[id].set_result(result)
                case Refuse(id, error):
                    self._answers[id].set_exception(error)
                case _:
                    self._do_rarely(effect)

    def _do_rarely(self, effect: Effect) -> None:
        match effect:
            case Connect():
                task = self._loop.create_task(self._connect())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case FetchToken():
                self._do(self.state.authorize(self._token))
            case Drop(reason) | End(reason):
                raise AssertionError(reason)

    async def _connect(self) -> None:
        try:
            await self._loop.create_connection(self._line, "127.0.0.1", self._target.port)
        except OSError:
            self.state.end(1006, "the server has gone")

    def _line(self) -> CutLine:
        cut = self._cuts.pop() if self._cuts else None
        self.sockets.append(self._kind(self._target, cut, self._opened, self._received, self._lost))
        return self.sockets[-1]

    def _opened(self) -> None:
        self._do(self.state.connected(self._loop.time()))

    def _received(self, payload: bytes) -> None:
        frame = self._codec.decode_server(payload)
        self.control[frame.event] = self.control.get(frame.event, 0) + 1
        self._do(self.state.receive(frame, self._loop.time()))
        self._changed.set()

    def _lost(self) -> None:
        now = self._loop.time()
        self._do(self.state.disconnected(1006, "cut", now))
        if self.state.phase != "ended":
            self._do(self.state.tick(now))
        self._changed.set()
