"""What a client knows of its chatrooms: which durable event comes next, and who is behind.

One rule gives every event once and in order: an event is taken when its seq is
the known one plus one. Lower ones were had before; higher ones are held back
until a `sync` has brought what lies between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from msgspec.structs import replace

from gateway.client_effects import ChatroomGained, ChatroomLost, ClientEvent, HistoryGap, local
from protocol.events import ChatroomFetched
from protocol.models import ChatroomState, SyncedRoom

HELD_LIMIT = 1_000
"""Events held back for one chatroom; later ones are let go, and a second sync brings them."""

SYNC_ROOMS = 1_000
"""Chatrooms that one `sync` may name (`protocol.commands.Sync`)."""


@dataclass(slots=True)
class Room:
    """One chatroom: `head` is the highest seq heard of, which may be ahead of what has been taken."""

    state: ChatroomState
    head: int
    held: dict[int, ClientEvent] = field(default_factory=dict)
    syncing: bool = False


class Rooms:
    """The user's chatrooms. Methods return the events to deliver, in order."""

    def __init__(self) -> None:
        self._me: UUID | None = None
        self.states: dict[UUID, ChatroomState] = {}
        self._rooms: dict[UUID, Room] = {}
        self._behind: set[UUID] = set()

    # --- how a session begins ------------------------------------------------------------------

    def reset(self, me: UUID, listed: Iterable[ChatroomState]) -> list[ClientEvent]:
        """A new session: `listed` says where each chatroom stands. What was known before is kept and caught up."""
        first, self._me = self._me is None, me
        self._behind.clear()
        current = {state.id: state for state in listed}
        lost = [room_id for room_id in self._rooms if room_id not in current]
        for room_id in lost:
            self._forget(room_id)
        gained = [self._add(state) for state in current.values() if state.id not in self._rooms]
        for state in current.values():
            self._refresh(self._rooms[state.id], state)
        return [local(ChatroomLost(chatroom_id=room_id)) for room_id in lost] + ([] if first else gained)

    def _refresh(self, room: Room, listed: ChatroomState) -> None:
        """A seq below the one known means that the server's data went back; a sync says how far."""
        room.syncing = False
        self._set(room, replace(listed, seq=room.state.seq))
        self._look(room, listed.seq)
        if listed.seq < room.state.seq:
            self._behind.add(listed.id)

    # --- live events ---------------------------------------------------------------------------

    def take(self, chatroom_id: UUID, seq: int, event: ClientEvent) -> list[ClientEvent]:
        """Event `seq` of a chatroom has come, live or by a sync."""
        room = self._rooms.get(chatroom_id)
        if room is None:
            return self._enter(seq, event)
        if seq == room.state.seq + 1:
            return self._advance(room, event)
        if seq > room.state.seq and len(room.held) < HELD_LIMIT:
            room.held[seq] = event
        self._look(room, seq)
        return []

    def _enter(self, seq: int, event: ClientEvent) -> list[ClientEvent]:
        """The first event of a chatroom that is new to the user; others are of chatrooms that were left."""
        joined = event.event == "user_joined" and event.data.user.id == self._me
        if not joined and event.event != "chatroom_created":
            return []
        chatroom = event.data.chatroom
        members = [event.data.member] if joined else event.data.members
        mine = next((member for member in members if member.user_id == self._me), None)
        self._add(
            ChatroomState(
                id=chatroom.id,
                kind=chatroom.kind,
                name=chatroom.name,
                role=mine.role if mine else "member",
                seq=seq,
                last_read_seq=mine.last_read_seq if mine else 0,
            )
        )
        return [event]

    def _advance(self, room: Room, event: ClientEvent) -> list[ClientEvent]:
        """Takes the event that is next, and those held back that follow it."""
        taken: list[ClientEvent] = []
        following: ClientEvent | None = event
        while following is not None:
            taken.append(following)
            if self._ends_membership(following):
                return taken + self._leave(room)
            self._set(room, self._after(room.state, following))
            following = room.held.pop(room.state.seq + 1, None)
        return taken

    def _ends_membership(self, event: ClientEvent) -> bool:
        return event.event == "chatroom_deleted" or (event.event == "user_left" and event.data.user_id == self._me)

    def _leave(self, room: Room) -> list[ClientEvent]:
        """Forgets the chatroom; among the events held back may be the user's return to it."""
        self._forget(room.state.id)
        taken: list[ClientEvent] = []
        for seq in sorted(room.held):
            taken += self.take(room.state.id, seq, room.held[seq])
        return taken

    def _after(self, state: ChatroomState, event: ClientEvent) -> ChatroomState:
        """The chatroom's state after an event: its seq, and what the event changed."""
        seq = state.seq + 1
        if event.event == "chatroom_updated":
            return replace(state, seq=seq, name=event.data.chatroom.name)
        if event.event == "member_updated" and event.data.user_id == self._me:
            return replace(state, seq=seq, role=event.data.role)
        return replace(state, seq=seq)

    # --- catching up ---------------------------------------------------------------------------

    def heard(self, chatroom_id: UUID, head: int) -> bool:
        """The chatroom has come as far as `head`. False if it is not known here."""
        room = self._rooms.get(chatroom_id)
        if room is not None:
            self._look(room, head)
        return room is not None

    def behind(self) -> list[dict[UUID, int]]:
        """The syncs to ask for now: by chatroom, the last seq known. Each is asked for once."""
        due = {room_id: self._rooms[room_id].state.seq for room_id in self._behind}
        for room_id in due:
            self._rooms[room_id].syncing = True
        self._behind.clear()
        pairs = list(due.items())
        return [dict(pairs[start : start + SYNC_ROOMS]) for start in range(0, len(pairs), SYNC_ROOMS)]

    def synced(self, verdicts: Mapping[UUID, SyncedRoom]) -> list[ClientEvent]:
        """A sync has ended; the events it brought came before its verdicts."""
        events: list[ClientEvent] = []
        for room_id, verdict in verdicts.items():
            room = self._rooms.get(room_id)
            if room is not None:
                room.syncing = False
                events += self._conclude(room, verdict)
        return events

    def _conclude(self, room: Room, verdict: SyncedRoom) -> list[ClientEvent]:
        if verdict.verdict == "not_member":
            return [local(ChatroomLost(chatroom_id=room.state.id)), *self._leave(room)]
        if verdict.verdict == "too_long" and verdict.to_seq < verdict.from_seq:
            room.head = verdict.to_seq
            room.held.clear()
            return self._jump(room, verdict.to_seq)
        progress = room.state.seq > verdict.from_seq
        if verdict.to_seq > room.state.seq and (verdict.verdict == "too_long" or not progress):
            return self._jump(room, verdict.to_seq)
        self._look(room, verdict.to_seq)
        return []

    def _jump(self, room: Room, to_seq: int) -> list[ClientEvent]:
        """Goes on after `to_seq`, telling the user what was left out."""
        gap = local(HistoryGap(chatroom_id=room.state.id, from_seq=room.state.seq, to_seq=to_seq))
        self._set(room, replace(room.state, seq=to_seq))
        room.held = {seq: event for seq, event in room.held.items() if seq > to_seq}
        following = room.held.pop(to_seq + 1, None)
        self._look(room, to_seq)
        return [gap, *(self._advance(room, following) if following else ())]

    # --- learned from answers --------------------------------------------------------------------

    def adopt(self, fetched: ChatroomFetched) -> list[ClientEvent]:
        """A chatroom that `lagging` named and nobody knew. It is synced at once, so that no event falls between."""
        chatroom = fetched.chatroom
        if chatroom.id in self._rooms:
            return []
        gained = self._add(
            ChatroomState(
                id=chatroom.id,
                kind=chatroom.kind,
                name=chatroom.name,
                role=fetched.user_role,
                seq=chatroom.seq,
                last_read_seq=next((m.last_read_seq for m in fetched.members if m.user_id == self._me), 0),
            )
        )
        self._behind.add(chatroom.id)
        return [gained]

    def read(self, chatroom_id: UUID, last_read_seq: int) -> None:
        """The user's read position has moved."""
        if room := self._rooms.get(chatroom_id):
            self._set(room, replace(room.state, last_read_seq=last_read_seq))

    # --- small steps -------------------------------------------------------------------------------

    def _add(self, state: ChatroomState) -> ClientEvent:
        self._rooms[state.id] = Room(state, head=state.seq)
        self.states[state.id] = state
        return local(ChatroomGained(chatroom_id=state.id, seq=state.seq))

    def _set(self, room: Room, state: ChatroomState) -> None:
        room.state = self.states[state.id] = state

    def _look(self, room: Room, head: int) -> None:
        """Notes how far the chatroom has come; if that is further than what was taken, a sync is due."""
        room.head = max(room.head, head)
        if room.head > room.state.seq and not room.syncing:
            self._behind.add(room.state.id)
        else:
            self._behind.discard(room.state.id)

    def _forget(self, chatroom_id: UUID) -> None:
        self._behind.discard(chatroom_id)
        del self._rooms[chatroom_id], self.states[chatroom_id]
