"""The client as a state machine: frames, times and closed connections in, effects out. No socket, no clock.

Its methods return the effects that the shell has to carry out, in order. Times
are seconds of any clock that does not go back.

    away ──Connect──▸ opening ──ready / resumed──▸ live
      ▴                  │ ▴                         │
      │                  │ └─ Switch, after migrate ─┤
      └──────── disconnected: wait, come back ───────┘──▸ ended (closed with 4000-4099)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from uuid import UUID

import msgspec

from gateway.client_commands import RESULTS, Commands, Pending, backoff, chat_error, outcome_unknown
from gateway.client_effects import (
    Answer,
    ClientClosed,
    ClientEvent,
    Connect,
    Deliver,
    Drop,
    Effect,
    End,
    FetchToken,
    Opened,
    Refuse,
    Send,
    Switch,
    typed,
)
from gateway.client_migration import NextConnection
from gateway.client_rooms import Rooms
from protocol import commands, events
from protocol.codec import ClientFrame, ServerFrame
from protocol.commands import Command
from protocol.errors import ERRORS, ChatError, CloseCode, advice
from protocol.events import CONTROL, UNCOUNTED_EVENTS
from protocol.models import ChatroomState, User

HEARTBEAT = 25.0
"""Seconds between heartbeats until `hello` gives the server's own (its default)."""

SILENCE = 10.0
"""Seconds beyond a heartbeat without any frame after which the connection counts as dead."""

PING_SHARE = 0.8
"""Pings come after this share of a heartbeat, every 20 s by default, so that a live line is never silent for one."""

REPORT_EVERY = 256
"""Frames after which the server is told that they arrived: a quarter of the 1,024 it keeps."""

STEADY = 1.0
"""Seconds a session must have lasted for a return at once; otherwise a server in trouble would be stormed."""

Phase = Literal["away", "opening", "live", "ended"]


class ClientState:
    """One client from its first connection to its end. `random` returns a number in [0, 1)."""

    def __init__(self, now: float, random: Callable[[], float]) -> None:
        self.phase: Phase = "away"
        self.user: User | None = None
        self.session_id: UUID | None = None
        self.max_frame_bytes = 65_536
        self.next = NextConnection(random)
        self._random = random
        self._rooms = Rooms()
        self._commands = Commands(random)
        self._open_rooms: set[UUID] = set()
        self._resume_token = ""
        self._received = 0
        self._reported = 0
        self._failures = 0
        self._retry_after = 0.0
        self._connect_at: float | None = now
        self._ping_at = 0.0
        self._live_since = 0.0
        self._heartbeat = HEARTBEAT
        self._heard_at: float | None = None
        self._wants_token = False
        self._closing: events.Closing | None = None
        self._effects: list[Effect] = []

    @property
    def chatrooms(self) -> dict[UUID, ChatroomState]:
        """The user's chatrooms; each `seq` is that of the last event delivered."""
        return self._rooms.states

    def _take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    # --- the connection ------------------------------------------------------------------------

    def connected(self, now: float) -> list[Effect]:
        """The connection that `Connect` asked for is open."""
        self.phase = "opening"
        self._heard_at = now
        return self._take()

    def disconnected(self, code: int, reason: str, now: float) -> list[Effect]:
        """The connection ended with this close code, or could not be made (1006).

        TCP, and what comes under Noise, ends with 1006; the `closing` frame has said why.
        """
        if self.phase == "ended":
            return self._take()
        if self._closing is not None:
            code, reason = self._closing.code, self._closing.reason
            self._closing = None
        self._effects += self.next.cancel("the first connection has ended")
        what_now = advice(code)
        if not what_now.reconnect:
            return self.end(code, reason)
        lasted = self.phase == "live" and now - self._live_since >= STEADY
        at_once = lasted and not what_now.backoff
        self._connect_at = now if at_once else now + max(self._retry_after, backoff(self._failures, self._random))
        self._retry_after = 0.0
        self._failures += 1
        self.phase, self._heard_at, self._wants_token = "away", None, False
        return self._take()

    def end(self, code: int, reason: str) -> list[Effect]:
        """The client does not come back, on the server's word or the user's."""
        if self.phase != "ended":
            self.phase, self._connect_at, self._heard_at, self._wants_token = "ended", None, None, False
            self._effects += self.next.cancel(reason)
            self._effects.append(End(ClientClosed(code, reason)))
        return self._take()

    def authorize(self, token: str | None) -> list[Effect]:
        """The token that `FetchToken` asked for: it opens or resumes a session, or prolongs a live one.

        None for a bot, whose key the handshake has shown.
        """
        if self.next.hello is not None:
            self._switch()
        elif not self._wants_token:
            return self._take()  # it was for a connection that is gone
        self._wants_token = False
        if self.phase == "opening" and self.session_id is not None:
            self._send_uncounted(
                "resume",
                commands.Resume(
                    session_id=self.session_id, resume_token=self._resume_token, received=self._received, token=token
                ),
            )
        else:
            self._send_uncounted("authenticate", commands.Authenticate(token=token))
        return self._take()

    def unauthorized(self, reason: str) -> list[Effect]:
        """No token could be had just now. A live session goes on until the server ends it."""
        self._wants_token = False
        if self.phase == "opening":
            self._effects.append(Drop(reason))
        self._effects += self.next.unauthorized(reason)
        return self._take()

    def _switch(self) -> None:
        """From here on the first connection's frames are not taken: `resumed` counts them among the missed."""
        self._heard_at = self.next.greeted_at
        self._greet(self.next.take_over())
        self._closing = None
        self.phase = "opening"
        self._effects.append(Switch())

    # --- time ----------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do."""
        times = [self._connect_at, self._dead_at(), self.next.deadline]
        if self.phase == "live":
            times += [self._ping_at, self._commands.next_retry()]
        return min((time for time in times if time is not None), default=None)

    def _dead_at(self) -> float | None:
        return None if self._heard_at is None else self._heard_at + self._heartbeat + SILENCE

    def tick(self, now: float) -> list[Effect]:
        """Does what is due."""
        if self._connect_at is not None and now >= self._connect_at:
            self._connect_at = None
            self._effects.append(Connect())
        if (dead_at := self._dead_at()) is not None and now >= dead_at:
            self._heard_at = None
            self._effects.append(Drop("the server is silent"))
        elif self.phase == "live":
            self._send_all(self._commands.due(now))
            if now >= self._ping_at:
                self._report(now)
        self._effects += self.next.tick(now)
        return self._take()

    def pause(self) -> None:
        """The shell reads no more for now; silence means nothing until `unpause`."""
        self._heard_at = None

    def unpause(self, now: float) -> None:
        """The shell reads again."""
        if self.phase in ("opening", "live"):
            self._heard_at = now

    def _report(self, now: float) -> None:
        """Tells the server what has arrived, so that it can forget it; the `pong` shows that the line is alive."""
        self._reported = self._received
        self._ping_at = now + self._heartbeat * PING_SHARE
        self._send_uncounted("ping", commands.Ping(received=self._received))

    # --- commands ------------------------------------------------------------------------------

    def submit(self, command: Command) -> tuple[str, list[Effect]]:
        """A command of the user, and the id that its Answer or Refuse will have. It waits while there is no session."""
        pending = self._submit(command, internal=False)
        return pending.id, self._take()

    def abandon(self, id: str) -> None:
        """Nobody waits for the command any more; if it is not on its way, it is never sent."""
        self._commands.abandon(id)

    def _submit(self, command: Command, internal: bool = True) -> Pending:
        pending = self._commands.add(command, internal)
        if self.phase == "live":
            self._send_all([self._commands.send(pending)])
        return pending

    def _send_all(self, frames: list[ClientFrame[Any]]) -> None:
        self._effects += [Send(frame) for frame in frames]

    def _send_uncounted(self, event: str, command: Command) -> None:
        self._effects.append(Send(ClientFrame(event, command)))

    # --- frames --------------------------------------------------------------------------------

    def receive(self, frame: ServerFrame, now: float) -> list[Effect]:
        """A frame from the server. Raises msgspec.ValidationError if it is not of the shape its name promises."""
        self._heard_at = now
        if self.phase == "live" and frame.event not in UNCOUNTED_EVENTS:
            self._received += 1
        if frame.event in ("ack", "error", "synced"):
            self._on_answer(frame, now)
        elif frame.event in CONTROL:
            self._on_control(typed(frame), now)
        else:
            self._on_event(frame)
        if self.phase == "live":
            self._catch_up()
            if self._received - self._reported >= REPORT_EVERY:
                self._report(now)
        return self._take()

    def _on_control(self, told: events.Event, now: float) -> None:
        """Frames of the connection itself. The others of them (`pong`, `authenticated`) ask for nothing."""
        match told:
            case events.Hello():
                self._greet(told)
                self._want_token()
            case events.Ready():
                self._on_ready(told, now)
            case events.Resumed():
                self._commands.unsend(told.handled)
                self._go_live(now)
            case events.SessionReset():
                self._on_session_reset(told)
            case events.TokenExpiring():
                self._want_token()
            case events.Lagging():
                self._on_lagging(told)
            case _:
                self._on_transport(told, now)

    def _on_transport(self, told: events.Event, now: float) -> None:
        """Frames that stand for what a WebSocket has of its own."""
        match told:
            case events.Heartbeat():
                self._report(now)
            case events.Closing():
                self._closing = told
            case events.Migrate():
                self._resume_token = told.resume_token
                self.next.plan(told, now)

    def _greet(self, hello: events.Hello) -> None:
        self._heartbeat, self.max_frame_bytes = hello.heartbeat_interval, hello.max_frame_bytes

    def _on_event(self, frame: ServerFrame) -> None:
        data = typed(frame)
        event = ClientEvent(frame.event, data, frame.chatroom_id or getattr(data, "chatroom_id", None), frame.seq)
        if frame.chatroom_id is not None and frame.seq is not None:
            self._deliver(self._rooms.take(frame.chatroom_id, frame.seq, event))
        else:
            self._deliver([event])

    def _deliver(self, delivered: list[ClientEvent]) -> None:
        self._effects += [Deliver(event) for event in delivered]

    def _catch_up(self) -> None:
        for chatrooms in self._rooms.behind():
            self._submit(commands.Sync(chatrooms=chatrooms))

    # --- frames: how a session begins ------------------------------------------------------------

    def _on_ready(self, ready: events.Ready, now: float) -> None:
        self.user = ready.user
        self.session_id, self._resume_token = ready.session_id, ready.resume_token
        self._received = 0
        unknown = self._commands.restart()
        self._effects += [Refuse(pending.id, outcome_unknown()) for pending in unknown]
        self._deliver(self._rooms.reset(ready.user.id, ready.chatrooms))
        self._open_rooms &= self.chatrooms.keys()
        for chatroom_id in sorted(self._open_rooms):
            self._submit(commands.JoinChatroom(chatroom_id=chatroom_id))
        self._go_live(now)

    def _on_session_reset(self, reset: events.SessionReset) -> None:
        """What the old session never handled may be sent again, whatever it is."""
        self.session_id = None
        if reset.handled is not None:
            self._commands.unsend(reset.handled)

    def _go_live(self, now: float) -> None:
        self.phase, self._live_since, self._failures = "live", now, 0
        self._reported = self._received
        self._ping_at = now + self._heartbeat * PING_SHARE
        self._effects.append(Opened())
        self._catch_up()
        self._send_all(self._commands.send_waiting())

    # --- frames: a session at work -----------------------------------------------------------------

    def _want_token(self) -> None:
        self._wants_token = True
        self._effects.append(FetchToken())

    def _on_lagging(self, lagging: events.Lagging) -> None:
        for chatroom_id, seq in lagging.chatrooms.items():
            if not self._rooms.heard(chatroom_id, seq):
                # The user came into it while events were left out; the answer says where it stands.
                self._submit(commands.GetChatroom(chatroom_id=chatroom_id))

    def _on_answer(self, frame: ServerFrame, now: float) -> None:
        pending = self._commands.get(frame.id)
        if frame.event == "error":
            self._on_error(pending, typed(frame), now)
        elif pending is not None:
            result_type = events.Synced if frame.event == "synced" else RESULTS[type(pending.command)]
            result = None if result_type is None else msgspec.convert(frame.data, result_type)
            self._commands.remove(pending)
            self._learn(pending, result)
            if not pending.internal:
                self._effects.append(Answer(pending.id, result))

    def _learn(self, pending: Pending, result: events.Event | None) -> None:
        """What an answer tells about the state, whoever asked."""
        match result:
            case events.Synced():
                self._deliver(self._rooms.synced(result.chatrooms))
            case events.ChatroomOpened():
                self._open_rooms.add(result.chatroom_id)
            case events.ReadPosition():
                self._rooms.read(result.chatroom_id, result.last_read_seq)
            case events.ChatroomFetched() if pending.internal:
                self._deliver(self._rooms.adopt(result))
        if isinstance(pending.command, commands.LeaveChatroom):
            self._open_rooms.discard(pending.command.chatroom_id)

    def _on_error(self, pending: Pending | None, data: events.Error, now: float) -> None:
        error = chat_error(data)
        if self.phase == "opening":
            self._fail_opening(error)
        elif pending is None:
            self._deliver([ClientEvent("error", data)])
        elif not self._commands.retry(pending, error, now):
            self._commands.remove(pending)
            if not pending.internal:
                self._effects.append(Refuse(pending.id, error))
            elif isinstance(pending.command, commands.JoinChatroom):
                self._open_rooms.discard(pending.command.chatroom_id)

    def _fail_opening(self, error: ChatError) -> None:
        """The server took neither `authenticate` nor `resume`."""
        if error.code in ERRORS and error.kind.retryable:
            self._retry_after = error.retry_after or 0.0
            self._effects.append(Drop(str(error)))
        else:
            self._effects = self.end(CloseCode.auth_failed, str(error))
