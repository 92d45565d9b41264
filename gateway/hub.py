"""Who is connected and who hears what. An event is encoded once per wire and the same bytes go to everyone.

A session hears a room in one of two ways. *Live*: it stands in the room's
`live` table and gets each chunk. *Held*: its state is still being read from the
database, so events are set aside for it; `release` then sends what came after
the state and makes it live, without a seam.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from uuid import UUID

from gateway.fence import Fence, Open
from gateway.link import Link
from gateway.metrics import Metrics
from gateway.outboxes import Outboxes
from gateway.room import Room
from gateway.session import Session
from gateway.wire import Chunk, Wire
from protocol.errors import CloseCode
from protocol.events import Event, Lagging
from protocol.models import User
from storage.events import CommittedEvent

HELD_EVENTS = 2_000
"""Events set aside for one session in one room; beyond that it is told to sync instead."""


class Hub:
    """Sessions by user, and rooms by id.

    `on_room` is called when somebody begins to hear a room, `on_welcome` when that is by an event that adds them,
    `on_empty` when nobody hears it any more, `on_gap` when events are missing, `on_forget` when a session has ended.
    """

    def __init__(self, metrics: Metrics, fence: Fence | None = None) -> None:
        self._metrics = metrics
        self.sessions: dict[UUID, Session] = {}
        self.users: dict[UUID, dict[Session, None]] = {}
        self.rooms: dict[UUID, Room] = {}
        self.online: set[UUID] = set()
        self.links: dict[Session, Link] = {}
        self.outboxes = Outboxes(self.links, fence or Open())
        self.on_gap: Callable[[Room], None] = lambda _: None
        self.on_forget: list[Callable[[Session], None]] = []
        self.on_room: Callable[[UUID], None] = lambda _: None
        self.on_welcome: Callable[[Room], None] = lambda _: None
        self.on_empty: Callable[[UUID], None] = lambda _: None

    # --- sessions ----------------------------------------------------------------------------

    def add(self, session: Session, link: Link) -> None:
        """A new session; it hears of rooms it is added to from now on."""
        self.adopt(session)
        self.links[session] = link

    def adopt(self, session: Session) -> None:
        """A session that another node had; it has no socket yet."""
        group = self.users.setdefault(session.user.id, {})
        other = next(iter(group), None)
        if other is not None and other.user == session.user:
            session.user = other.user  # one object for all of a user's sessions
        group[session] = None
        self.sessions[session.id] = session

    def attach(self, session: Session, link: Link, wire: Wire) -> None:
        """A socket takes up a cut session; a socket that still had it is closed as replaced."""
        if old := self.links.pop(session, None):
            old.close(CloseCode.replaced, "another connection resumed this session")
        self.links[session] = link
        session.attach(wire)

    def detach(self, session: Session, link: Link) -> bool:
        """The socket is gone. False when the session had passed to another socket already."""
        if self.links.get(session) is not link:
            return False
        del self.links[session]
        session.detach()
        return True

    def forget(self, session: Session) -> None:
        """Ends a session for good: it can't be resumed."""
        if self.sessions.pop(session.id, None) is None:
            return
        for callback in self.on_forget:
            callback(session)
        for room in list(session.rooms.values()):
            self._part(session, room)
        group = self.users.get(session.user.id, {})
        group.pop(session, None)
        if not group:
            self.users.pop(session.user.id, None)
        self.links.pop(session, None)

    def sessions_of(self, user_id: UUID) -> list[Session]:
        """A user's sessions, cut ones included."""
        return list(self.users.get(user_id, ()))

    def connections_of(self, user_id: UUID) -> int:
        """How many of a user's sessions have a socket."""
        return sum(session.attached for session in self.users.get(user_id, ()))

    def is_connected(self, user_id: UUID) -> bool:
        """Whether any of a user's sessions has a socket."""
        return any(session.attached for session in self.users.get(user_id, ()))

    def update_user(self, user: User) -> None:
        """A profile changed: ephemeral events carry the new name from now on."""
        for session in self.users.get(user.id, ()):
            session.user = user

    def close_sign_in(
        self, sign_in_id: UUID, code: CloseCode = CloseCode.auth_failed, reason: str = "this sign-in has ended"
    ) -> None:
        """A sign-in ended: closes its sockets and forgets its cut sessions."""
        for session in [s for s in self.sessions.values() if s.sign_in_id == sign_in_id]:
            self.close(session, code, reason)

    def close(self, session: Session, code: CloseCode, reason: str) -> None:
        """Ends a session and its socket."""
        if (link := self.links.get(session)) is not None:
            link.close(code, reason)  # first, while what waits in the outbox still has a socket to go to
        self.forget(session)

    # --- rooms -------------------------------------------------------------------------------

    def hold(self, session: Session, room_id: UUID) -> None:
        """Begins to set a room's events aside for a session whose state is about to be read."""
        room = self._room(room_id)
        self._unlist(session, room)
        room.ahead.pop(session, None)
        room.held[session] = []
        session.rooms[room.id] = room  # the id that all share

    def release(self, session: Session, room_id: UUID, seq: int) -> bool:
        """Sends what was set aside after `seq` and makes the session live.

        The database may know of a commit before we do: then those who are live still
        wait for it, and this session stays held until they have had it. False when it
        could not be made gapless; the session then has to sync.
        """
        room = self.rooms.get(room_id)
        if room is None or session not in room.held:
            return False
        if room.head is not None and room.head < seq and any(room.live.values()):
            room.ahead[session] = seq
            return True
        held = room.held.pop(session)
        if room.head is None or room.head < seq:
            room.head, room.guessed = seq, True
        fresh = [event for event in held or () if event.seq > seq]
        whole = held is not None and [e.seq for e in fresh] == list(range(seq + 1, seq + 1 + len(fresh)))
        self._list(session, room)
        if not whole or seq + len(fresh) < room.head:
            self._tell_lag(session, room)
            return False
        session.caught_up(room_id)
        for event in fresh:
            if session.user.id in event.adds and room_id not in session.rooms:  # left and came back meanwhile
                self._room(room_id, room)
                self._list(session, room)
            if room_id in session.rooms:
                self._deliver_one(session, room, event)
        return True

    def abandon_hold(self, session: Session, room_id: UUID) -> None:
        """The state could not be read: the session has to sync before it hears the room again."""
        room = self.rooms.get(room_id)
        if room is not None and session in room.held:
            del room.held[session]
            room.ahead.pop(session, None)
            self._list(session, room)
            self._tell_lag(session, room)

    def release_rest(self, session: Session) -> None:
        """A session's state was read, and these rooms were not in it: it came to them since, or had left before."""
        for room in [r for r in session.rooms.values() if session in r.held and session not in r.ahead]:
            held = room.held[session]
            if held and session.user.id in held[0].adds:
                self.release(session, room.id, held[0].seq - 1)
            else:
                self._part(session, room)

    def drop_hold(self, session: Session, room_id: UUID) -> None:
        """The session turned out not to be of this room."""
        if (room := self.rooms.get(room_id)) is not None:
            self._part(session, room)

    def come_late(self, session: Session, room_id: UUID, seq: int) -> None:
        """The session's user became a member, and the event that says so was missed: they have to sync from `seq`."""
        room = self._room(room_id)
        if room.head is None:
            room.head, room.guessed = seq, True
        self._list(session, room)
        self._tell_lag(session, room)

    def _room(self, room_id: UUID, room: Room | None = None) -> Room:
        """The room with this id, a new one (or the one given) if nobody heard it until now."""
        if (found := self.rooms.get(room_id)) is not None:
            return found
        found = self.rooms[room_id] = room or Room(room_id)
        self.on_room(room_id)
        return found

    def _tell_lag(self, session: Session, room: Room) -> None:
        head = room.head or 0
        if session.lagging is None:
            session.lagging = {}
        session.lagging[room.id] = head
        session.push_uncounted(session.wire.chunk("lagging", Lagging(chatrooms={room.id: head})))
        self.mark(session)

    def _deliver_one(self, session: Session, room: Room, event: CommittedEvent) -> None:
        chunk = session.wire.events([event])
        if session.user.id in event.removes:
            self._part(session, room)
            chunk.chatroom_id = None
        session.push(chunk)
        self.mark(session)

    def _list(self, session: Session, room: Room) -> None:
        room.live.setdefault(session.wire, {})[session] = None
        session.rooms[room.id] = room

    def _unlist(self, session: Session, room: Room) -> None:
        for group in room.live.values():
            group.pop(session, None)

    def _part(self, session: Session, room: Room) -> None:
        self._unlist(session, room)
        room.held.pop(session, None)
        room.ahead.pop(session, None)
        self.close_room(session, room.id)
        session.rooms.pop(room.id, None)
        if room.empty and self.rooms.pop(room.id, None) is not None:
            self.on_empty(room.id)

    def open_room(self, session: Session, room_id: UUID) -> None:
        """The session wants typing, presence and read receipts of a room it hears."""
        if (room := session.rooms.get(room_id)) is not None:
            room.openers[session] = None
            session.open_rooms = (session.open_rooms or set()) | {room_id}

    def close_room(self, session: Session, room_id: UUID) -> None:
        """The session has had enough of them."""
        if (room := session.rooms.get(room_id)) is not None:
            room.openers.pop(session, None)
        if session.open_rooms:
            session.open_rooms.discard(room_id)

    # --- fan-out -----------------------------------------------------------------------------

    def deliver(self, events: list[CommittedEvent]) -> None:
        """Committed events, in seq order by room, to everyone who hears them. Repeats are dropped."""
        by_room: dict[UUID, list[CommittedEvent]] = {}
        for event in events:
            by_room.setdefault(event.chatroom_id, []).append(event)
        for room_id, batch in by_room.items():
            for moves, group in groupby(batch, key=lambda e: bool(e.adds or e.removes)):
                for part in ([event] for event in group) if moves else [list(group)]:
                    self._deliver_room(room_id, part)

    def _deliver_room(self, room_id: UUID, events: list[CommittedEvent]) -> None:
        room = self.rooms.get(room_id)
        head = None if room is None else room.head
        if room is not None and head is not None and events[0].seq > head + 1:
            room.keep_early(events)
            self.on_gap(room)
            return
        if room is not None and room.guessed:
            head = self._rewind(room, events[0].seq - 1)
        new = [event for event in events if head is None or event.seq > head]
        for user_id in new[0].adds if new else ():
            self._welcome(user_id, room_id, new[0].seq)
        room = self.rooms.get(room_id)
        if room is None:
            return
        self._set_aside(room, events)  # repeats too: a state that is being read may be older than the head
        if new:
            self._advance(room, new)
        if room.early and (following := room.following()):
            self.deliver(following)

    def _rewind(self, room: Room, seq: int) -> int:
        """Events that the guess had passed do come: who is live has had them, and waits for the others."""
        assert room.head is not None
        room.guessed = False
        if seq < room.head:
            for session in list(room.sessions()):
                self._unlist(session, room)
                room.held[session] = []
                room.ahead[session] = room.head
            room.head = seq
        return room.head

    def _advance(self, room: Room, events: list[CommittedEvent]) -> None:
        room.head = head = events[-1].seq
        for user_id in events[0].removes:
            self._farewell(user_id, room, events[0])
        if self.rooms.get(room.id) is not room:
            return
        self._fan_out(room, events)
        for session, seq in [(session, seq) for session, seq in room.ahead.items() if seq <= head]:
            del room.ahead[session]
            self.release(session, room.id, seq)

    def _fan_out(self, room: Room, events: list[CommittedEvent]) -> None:
        """The hot path: one encoding per wire, one append per session."""
        for wire, group in room.live.items():
            if group:
                chunk = wire.events(events)
                lagging = sum([not self._push(session, chunk) for session in Session.push_all(group, chunk)])
                self.outboxes.mark_many(group)
                self._metrics.delivered((len(group) - lagging) * len(events))

    def _push(self, session: Session, chunk: Chunk) -> bool:
        """To a session for which more waits, or that has no socket; or that lags: then it is False."""
        if session.queued > session.limits.ephemeral:
            self.outboxes.write(session)  # it may only be waiting for its turn
        if session.push_room(chunk):
            return True
        self._metrics.dropped("lagging", len(chunk.ends))
        if (link := self.links.get(session)) is not None:
            link.stuck()
        return False

    def _set_aside(self, room: Room, events: list[CommittedEvent]) -> None:
        for session, held in room.held.items():
            if held is None:
                continue
            last = held[-1].seq if held else 0
            held.extend(event for event in events if event.seq > last)
            if len(held) > HELD_EVENTS:
                room.held[session] = None

    def _welcome(self, user_id: UUID, room_id: UUID, seq: int) -> None:
        """A user became a member: their sessions hear the room, beginning with the event that says so."""
        for session in self.users.get(user_id, ()):
            if not session.hears:
                continue
            room = self._room(room_id)
            if room.head is None:
                room.head = seq - 1
                self.on_welcome(room)
            if room_id in session.rooms:
                continue
            if session.opening:
                room.held[session] = []
                session.rooms[room_id] = room
            else:
                self._list(session, room)

    def _farewell(self, user_id: UUID, room: Room, event: CommittedEvent) -> None:
        """A user is no longer a member: this event is the last of the room to their sessions."""
        for session in self.users.get(user_id, ()):
            if session.rooms.get(room.id) is room and session not in room.held:
                self._deliver_one(session, room, event)

    def tell(self, sessions: Iterable[Session], event: str, data: Event) -> None:
        """An ephemeral event to some sessions, encoded once per wire."""
        chunks: dict[Wire, Chunk] = {}
        for session in sessions:
            chunk = chunks.get(session.wire)
            if chunk is None:
                chunk = chunks[session.wire] = session.wire.chunk(event, data)
            if session.push_ephemeral(chunk):
                self.mark(session)
            else:
                self._metrics.dropped("ephemeral", 1)

    def tell_openers(self, room_id: UUID, event: str, data: Event, but: UUID | None = None) -> None:
        """An ephemeral event to those who have a room open, except one user."""
        if (room := self.rooms.get(room_id)) is not None:
            self.tell([s for s in room.openers if s.user.id != but], event, data)

    def send(self, session: Session, chunk: Chunk) -> None:
        """A counted frame to one session."""
        session.push(chunk)
        self.mark(session)

    def mark(self, session: Session) -> None:
        """The session has something to write: once, at the end of this turn of the loop."""
        self.outboxes.mark(session)
