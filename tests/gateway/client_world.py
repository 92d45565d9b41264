"""A model of the server, as short as the protocol allows, and a wire that loses what the test wants lost."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from gateway.client_effects import Answer, Connect, Deliver, Drop, Effect, FetchToken, Refuse, Send
from gateway.client_state import ClientState
from protocol import commands, events, models
from protocol.codec import JSON, Codec, ServerFrame
from protocol.events import Event
from tests.gateway.client_shapes import HELLO, ME, NOW, ROOM, chatroom, listing, member, message


@dataclass
class Session:
    """What the server keeps of one client: every counted frame since `trimmed`, and how many it has handled."""

    id: UUID
    frames: list[bytes] = field(default_factory=list)
    trimmed: int = 0
    handled: int = 0
    lagging: bool = False
    skipped: set[UUID] = field(default_factory=set)


class ModelServer:
    """One user's server. Frames go out through `outgoing`, which is None while there is no connection."""

    def __init__(self, codec: Codec, sync_limit: int = 500) -> None:
        self.codec = codec
        self.sync_limit = sync_limit
        self.log: dict[UUID, list[tuple[str, Event]]] = {}
        self.member_of: set[UUID] = set()
        self.messages: dict[str, tuple[UUID, int]] = {}
        self.created: list[str] = []
        self.session: Session | None = None
        self.attached = False
        self.outgoing: deque[bytes] = deque()
        self.syncs: list[tuple[str | None, commands.Sync]] = []
        self.errors: deque[str] = deque()
        self._made = 0

    # --- the chatrooms ---------------------------------------------------------------------------

    def post(self, room: UUID, event: str, data: Event, *, lost: bool = False) -> int:
        """Writes a durable event; `lost` leaves the session unaware of it."""
        self.log.setdefault(room, []).append((event, data))
        seq = len(self.log[room])
        if self.session is not None and not lost and room in self.member_of:
            self._tell_or_skip(self.session, room, seq)
        return seq

    def _tell_or_skip(self, session: Session, room: UUID, seq: int) -> None:
        if session.lagging:
            session.skipped.add(room)
        else:
            self._tell(self._durable(room, seq))

    def say(self, room: UUID, content: models.Content = "hi", *, lost: bool = False) -> int:
        """Someone writes a message."""
        seq = len(self.log.get(room, ())) + 1
        return self.post(
            room, "message_received", events.MessageReceived(message=message(room, seq, content)), lost=lost
        )

    def join(self, room: UUID) -> None:
        """The user becomes a member."""
        self.member_of.add(room)
        seq = len(self.log.get(room, ())) + 1
        joined = events.UserJoined(chatroom_id=room, user=ME, member=member(), chatroom=chatroom(room, seq))
        self.post(room, "user_joined", joined)

    def leave(self, room: UUID) -> None:
        """The user is removed."""
        self.post(room, "user_left", events.UserLeft(chatroom_id=room, user_id=ME.id, removed_by=UUID(int=11)))
        self.member_of.discard(room)

    def toggle(self, room: UUID) -> None:
        """The user leaves the room, or joins it."""
        if room in self.member_of:
            self.leave(room)
        else:
            self.join(room)

    def head(self, room: UUID) -> int:
        """The room's last seq."""
        return len(self.log[room])

    def _durable(self, room: UUID, seq: int) -> bytes:
        event, data = self.log[room][seq - 1]
        return self.codec.event(event, data, chatroom_id=room, seq=seq)

    # --- the session -----------------------------------------------------------------------------

    def restore(self, room: UUID, seq: int) -> None:
        """The server's data goes back to what it was when this was the room's last seq; its sessions are gone."""
        del self.log[room][seq:]
        self.session = None

    def forget(self) -> None:
        """The session's window has passed."""
        if not self.attached:
            self.session = None

    def lag(self) -> None:
        """The client reads too slowly: room events are left out from now on."""
        if self.session is not None:
            self.session.lagging = True

    def drained(self) -> None:
        """The client reads again, and is told of the rooms whose events were left out, even of one it lost by them."""
        if self.session is not None and self.session.lagging and self.attached:
            self.session.lagging = False
            self._push_lagging(self.session)

    def _push_lagging(self, session: Session) -> None:
        heads = {room: self.head(room) for room in session.skipped}
        if heads:
            self._push("lagging", events.Lagging(chatrooms=heads))

    def open(self) -> None:
        """A connection has come."""
        self.attached = False
        self.outgoing.clear()
        self._push("hello", HELLO)

    def cut(self) -> None:
        """The connection is gone, with all that was on it."""
        self.attached = False
        self.outgoing.clear()

    def _push(self, event: str, data: Event) -> None:
        self.outgoing.append(self.codec.event(event, data))

    def _tell(self, frame: bytes) -> None:
        """Sends a counted frame, now or when the session is resumed."""
        if self.session is None:
            return
        self.session.frames.append(frame)
        if self.attached:
            self.outgoing.append(frame)

    def _ready(self) -> None:
        self._made += 1
        self.session, self.attached, self.syncs = Session(UUID(int=500 + self._made)), True, []
        rooms = tuple(listing(room, self.head(room)) for room in sorted(self.member_of))
        ready = events.Ready(
            session_id=self.session.id, resume_token="r", user=ME, chatrooms=rooms, token_expires_at=NOW
        )
        self._push("ready", ready)

    def _resume(self, resume: commands.Resume) -> None:
        session = self.session
        if session is None or session.id != resume.session_id or resume.received < session.trimmed:
            known = session.handled if session is not None and session.id == resume.session_id else None
            self._push("session_reset", events.SessionReset(reason="gone", handled=known))
            self._ready()
            return
        missed = session.frames[resume.received - session.trimmed :]
        self._push("resumed", events.Resumed(missed=len(missed), handled=session.handled))
        self.outgoing.extend(missed)
        self.attached = True
        if not session.lagging:
            self._push_lagging(session)  # it is not counted, so it may have been lost

    # --- commands --------------------------------------------------------------------------------

    def receive(self, payload: bytes) -> None:
        """A frame from the client."""
        _event, id, command = self.codec.decode(payload)
        if isinstance(command, commands.Authenticate):
            self._ready() if not self.attached else self._answer(id, events.Authenticated(token_expires_at=NOW))
        elif isinstance(command, commands.Resume):
            self._resume(command)
        elif isinstance(command, commands.Ping):
            self._ping(command)
        elif self.session is not None and self.attached:
            self.session.handled += 1
            self._handle(id, command)

    def _ping(self, ping: commands.Ping) -> None:
        session = self.session
        if session is None or ping.received is None:
            return
        assert session.trimmed <= ping.received <= session.trimmed + len(session.frames)
        del session.frames[: ping.received - session.trimmed]
        session.trimmed = ping.received
        self._push("pong", events.Pong(handled=session.handled))

    def _handle(self, id: str | None, command: commands.Command) -> None:
        if self.errors:
            code = self.errors.popleft()
            self._answer(id, events.Error(code=code, message="", details={}), "error")
            return
        match command:
            case commands.Sync():
                self.syncs.append((id, command))
            case commands.SendMessage():
                self._answer(id, self._send(command))
            case commands.CreateChatroom(name=str(name)):
                self.created.append(name)
                self._answer(id, events.ChatroomChanged(chatroom=chatroom(UUID(int=9), 1, name), seq=1))
            case commands.JoinChatroom(chatroom_id=room):
                self._answer(id, events.ChatroomOpened(chatroom_id=room, seq=self.head(room), online_count=1))
            case commands.LeaveChatroom():
                self._answer(id, {})
            case commands.GetChatroom(chatroom_id=room) if room in self.member_of:
                fetched = events.ChatroomFetched(
                    chatroom=chatroom(room, self.head(room)), members=(member(),), user_role="member"
                )
                self._answer(id, fetched)
            case _:
                self._answer(id, events.Error(code="CHATROOM_NOT_FOUND", message="", details={}), "error")

    def _answer(self, id: str | None, data: Event | dict[str, Any], event: str = "ack") -> None:
        self._tell(self.codec.event(event, data, id=id))

    def _send(self, command: commands.SendMessage) -> events.MessageSent:
        key = str(command.client_id)
        duplicate = key in self.messages
        if not duplicate:
            self.messages[key] = (command.chatroom_id, self.say(command.chatroom_id, command.content))
        room, seq = self.messages[key]
        return events.MessageSent(
            message=message(room, seq, command.content), client_id=command.client_id, duplicate=duplicate
        )

    def run_syncs(self) -> None:
        """Syncs take a while: live events go on between the question and this answer."""
        syncs, self.syncs = self.syncs, []
        for id, command in syncs:
            verdicts = {room: self._sync(room, known) for room, known in command.chatrooms.items()}
            self._answer(id, events.Synced(chatrooms=verdicts), "synced")

    def _sync(self, room: UUID, known: int) -> models.SyncedRoom:
        if self.session is not None:
            self.session.skipped.discard(room)
        if room not in self.member_of:
            return models.SyncedRoom(from_seq=known, to_seq=known, verdict="not_member")
        head = self.head(room)
        if not 0 <= head - known <= self.sync_limit:
            return models.SyncedRoom(from_seq=known, to_seq=head, verdict="too_long")
        for seq in range(known + 1, head + 1):
            self._tell(self._durable(room, seq))
        return models.SyncedRoom(from_seq=known, to_seq=head, verdict="complete")


class World:
    """A ClientState, a ModelServer and the wire between them."""

    def __init__(self, codec: Codec, random: float = 0.5, sync_limit: int = 500) -> None:
        self.codec = codec
        self.now = 0.0
        self.server = ModelServer(codec, sync_limit)
        self.state = ClientState(self.now, lambda: random)
        self.to_server: deque[bytes] = deque()
        self.connected = False
        self.delivered: list[Any] = []
        self.answers: dict[str, list[Event | Exception | None]] = {}

    def do(self, effects: list[Effect]) -> None:
        """Carries out effects as the shell would."""
        for effect in effects:
            match effect:
                case Send(frame):
                    self.to_server.append(self.codec.encode(frame))
                case Deliver(event):
                    self.delivered.append(event)
                case Answer(id, outcome) | Refuse(id, outcome):
                    self.answers[id].append(outcome)
                case _:
                    self._connection(effect)

    def _connection(self, effect: Effect) -> None:
        match effect:
            case Connect():
                self.connected = True
                self.server.open()
                self.do(self.state.connected(self.now))
            case Drop():
                self.cut()
            case FetchToken():
                self.do(self.state.authorize("token"))

    def submit(self, command: commands.Command) -> str:
        """The user gives a command."""
        id, effects = self.state.submit(command)
        self.answers[id] = []
        self.do(effects)
        return id

    def step_client(self) -> bool:
        """The client receives one frame. False if there is none."""
        if not self.server.outgoing:
            return False
        frame: ServerFrame = self.codec.decode_server(self.server.outgoing.popleft())
        self.do(self.state.receive(frame, self.now))
        return True

    def step_server(self) -> bool:
        """The server receives one frame. False if there is none."""
        if not self.to_server:
            return False
        self.server.receive(self.to_server.popleft())
        return True

    def cut(self, code: int = 1006) -> None:
        """The connection breaks, and what was on its way is lost."""
        if self.connected:
            self.connected = False
            self.to_server.clear()
            self.server.cut()
            self.do(self.state.disconnected(code, "", self.now))

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.do(self.state.tick(self.now))

    def settle(self) -> None:
        """Connects and exchanges frames until nobody has anything to say."""
        for _ in range(100):
            self.wait(0.0 if self.connected else 31.0)
            while self.step_client() or self.step_server():
                pass
            if self.server.syncs:
                self.server.run_syncs()
            elif self.connected and not self.server.outgoing and not self.to_server:
                return
        raise AssertionError("client and server do not come to rest")

    def sent(self) -> list[str]:
        """The events of the frames that are on their way to the server."""
        return [self.codec.decode(payload).event for payload in self.to_server]

    def names(self) -> list[str]:
        """The names of the events that the user was given."""
        return [event.event for event in self.delivered]

    def seqs(self, room: UUID) -> list[int]:
        """The seqs of the durable events that the user was given of a room."""
        return [event.seq for event in self.delivered if event.chatroom_id == room and event.seq is not None]


def opened(codec: Codec = JSON, sync_limit: int = 500) -> World:
    """A client with a session, and a member of ROOM, whose last event is 1."""
    made = World(codec, sync_limit=sync_limit)
    made.server.join(ROOM)
    made.settle()
    return made
