"""What a lane remembers of chatrooms, their members and senders, so that a flight need not read it again.

Nothing of it is trusted: each row comes with its version, and what is decided on it
is written only where the versions are still the same (`storage.quick_flights`).
A version is the row's `xmin`, the transaction that wrote it. Whatever alters what a
chatroom's members may do there writes the chatroom's row too, for the event's `seq` or
because it alters that row itself: so the version of the chatroom stands for its members.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from msgspec import Struct

from protocol.models import Role, User
from storage.flights import Facts, RoomRow, Send

ROLES = 50_000
"""Memberships that are remembered, about a quarter of a kilobyte each; when there are more, all are forgotten."""

READ = """
SELECT c.id, c.kind, c.owner_id, c.last_seq, c.member_count, c.max_members, c.encryption_enabled,
       c.member_key_version, c.min_member_key_version, c.xmin AS version,
       u.id AS user_id, u.username, u.display_name, u.avatar_url, u.xmin AS user_version, m.role
FROM unnest($1::uuid[], $2::uuid[]) AS k(chatroom_id, user_id)
JOIN chatrooms c ON c.id = k.chatroom_id AND c.deleted_at IS NULL
JOIN members m ON m.chatroom_id = k.chatroom_id AND m.user_id = k.user_id
     AND (m.muted_until IS NULL OR m.muted_until <= statement_timestamp())
JOIN users u ON u.id = k.user_id
"""
"""Those of the pairs whose user may write there. Whose mute has ended may, until there is another."""

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)  # the present moment, to rules that see nobody muted


class KnownRoom(Struct):
    """A chatroom as it was at a version, after event `seq`, with those of its members who may write."""

    row: RoomRow
    version: int
    seq: int
    roles: dict[UUID, Role]


class KnownUser(Struct):
    """A profile as it was at a version."""

    user: User
    version: int


class Known:
    """The memory of one lane."""

    def __init__(self) -> None:
        self.rooms: dict[UUID, KnownRoom] = {}
        self.users: dict[UUID, KnownUser] = {}
        self._roles = 0

    def missing(self, sends: Iterable[Send]) -> list[tuple[UUID, UUID]]:
        """The chatrooms and senders that would have to be read."""
        rooms, missing = self.rooms, dict[tuple[UUID, UUID], None]()
        for send in sends:
            room = rooms.get(send.chatroom_id)
            if room is None or send.sender_id not in room.roles:
                missing[send.chatroom_id, send.sender_id] = None
        return list(missing)

    def learn(self, rows: list[Any]) -> None:
        """Takes rows of READ, which are as new as can be."""
        if self._roles + len(rows) > ROLES:
            self.clear()
        for row in rows:
            room = self.rooms.get(row["id"])
            if room is None or room.version != row["version"]:
                self.forget(row["id"])
                room = self.rooms[row["id"]] = _room(row)
            self._roles += row["user_id"] not in room.roles
            room.roles[row["user_id"]] = row["role"]
            self.users[row["user_id"]] = _user(row)

    def facts(self, send: Send) -> Facts | None:
        """What is remembered for the rules of a send without files, as if there were no duplicate of it."""
        room, user = self.rooms.get(send.chatroom_id), self.users.get(send.sender_id)
        role = None if room is None else room.roles.get(send.sender_id)
        if room is None or user is None or role is None:
            return None
        return Facts(room.row, user.user, role, None, None, True, {}, 0, _LONG_AGO)

    def clear(self) -> None:
        """Forgets all. Versions of what may be another server by now, such as a restored one, say nothing."""
        self.rooms.clear()
        self.users.clear()
        self._roles = 0

    def forget(self, chatroom_id: UUID) -> None:
        """A chatroom has changed."""
        if (room := self.rooms.pop(chatroom_id, None)) is not None:
            self._roles -= len(room.roles)


def _room(row: Any) -> KnownRoom:
    return KnownRoom(RoomRow(*tuple(row.values())[:9]), row["version"], row["last_seq"], {})


def _user(row: Any) -> KnownUser:
    user = User(
        id=row["user_id"], username=row["username"], display_name=row["display_name"], avatar_url=row["avatar_url"]
    )
    return KnownUser(user, row["user_version"])
