"""What nodes tell each other of their users: what changes at once, how far they are with every beat, all when asked.

Nobody else keeps it. Redis only carries it, sealed like everything on the bus, so
what it loses or forgets is told again by the node whose users they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import UUID

from gateway.fence import Fence
from gateway.hub import Hub
from gateway.online import presence_of
from gateway.presence import Presence
from gateway.wheel import Wheel
from storage.bus import Bus
from storage.hints import PresenceAsked, PresenceChanged, PresenceTold, SocketsAsked, SocketsTold
from storage.leases import LEASE, Leases

GATHER = 0.1
"""Seconds for which changes are gathered into one hint."""
USERS = 1_000
"""Users in one hint."""
PARTS = 5
"""Hints of a whole in one turn: a node with many users tells of them without keeping its loop."""
CONFIRM_SECONDS = 0.3
"""How long other nodes may take to say how many sockets a user has; those that say nothing have none."""


class PresenceExchange:
    """Tells the other nodes of the users here, and takes in what they tell."""

    def __init__(
        self, node_id: UUID, hub: Hub, presence: Presence, wheel: Wheel, bus: Bus, leases: Leases, fence: Fence
    ) -> None:
        self._node_id = node_id
        self._hub = hub
        self._presence = presence
        self._elsewhere = presence.elsewhere
        self._wheel = wheel
        self._bus = bus
        self._leases = leases
        self._fence = fence
        self._number = 0
        self._changed: set[UUID] = set()
        self._asked = False
        self._telling: Iterator[bool] | None = None
        self._confirming: dict[UUID, _Confirmation] = {}
        self._beat_at = wheel.now()
        self.due = 0
        presence.on_change = self._note
        presence.confirm_sockets = self.confirm_sockets
        leases.after_beat(self._after_beat)
        bus.on(PresenceChanged, self._take_changed)
        bus.on(PresenceTold, self._take_told)
        bus.on(PresenceAsked, self._take_asked)
        bus.on(SocketsAsked, self._take_sockets_asked)
        bus.on(SocketsTold, self._take_sockets_told)

    # --- telling -----------------------------------------------------------------------------

    def _note(self, user_id: UUID) -> None:
        self._changed.add(user_id)
        self._wheel.schedule(self, self._wheel.now() + GATHER)

    def tick(self, now: float) -> float | None:
        """Tells what is to be told, unless some of these users may be others' by now: then soon."""
        if self._fence.clear:
            self._tell_changes()
            self._tell_whole()
        return now + GATHER if self._changed or self._asked or self._telling else None

    def _tell_changes(self) -> None:
        changed, self._changed = list(self._changed), set()
        for at in range(0, len(changed), USERS):
            users = {user_id: self._presence_of(user_id) for user_id in changed[at : at + USERS]}
            self._number += 1
            self._bus.tell_all(PresenceChanged(self._node_id, self._number - 1, self._number, users))

    def _presence_of(self, user_id: UUID) -> int:
        return presence_of(self._hub.connections_of(user_id), online=user_id in self._hub.online)

    def _tell_whole(self) -> None:
        """Tells all users once somebody has asked, a few parts in a turn. Who asks meanwhile hears the next whole."""
        if self._telling is None and self._asked:
            self._asked = False
            self._telling = self._parts()
        for _ in range(PARTS):
            if self._telling is not None and not next(self._telling, False):
                self._telling = None

    def _parts(self) -> Iterator[bool]:
        """The users are those at the beginning; whoever comes or goes until the end is told as a change as well.

        They are told to all nodes, since only on one channel do parts and changes keep their order.
        """
        everyone = list(self._hub.users.keys() | self._hub.online)
        last = max(0, len(everyone) - 1) // USERS
        for part in range(last + 1):
            found = {user_id: self._presence_of(user_id) for user_id in everyone[part * USERS : (part + 1) * USERS]}
            users = {user_id: presence for user_id, presence in found.items() if presence}
            self._bus.tell_all(PresenceTold(self._node_id, self._number, part, part == last, users))
            yield True

    # --- hearing -----------------------------------------------------------------------------

    def _after_beat(self, lost_all: bool) -> None:
        """Looks which nodes live, and tells how far this one is, so that a lost change does not wait for the next."""
        now = self._wheel.now()
        doubtful = lost_all or now - self._beat_at > LEASE / 2
        self._beat_at = now
        self._elsewhere.beat(self._leases.live, now, doubtful=doubtful)
        if self._fence.clear:
            self._bus.tell_all(PresenceChanged(self._node_id, self._number, self._number, {}))
        self._ask()

    def _take_changed(self, hint: PresenceChanged) -> None:
        self._elsewhere.changed(hint, self._wheel.now())
        self._ask()

    def _take_told(self, hint: PresenceTold) -> None:
        self._elsewhere.told(hint, self._wheel.now())

    def _ask(self) -> None:
        for node_id in self._elsewhere.to_ask(self._wheel.now()):
            self._bus.tell_node(node_id, PresenceAsked())

    def _take_asked(self, _: PresenceAsked) -> None:
        self._asked = True
        self._wheel.schedule(self, self._wheel.now())

    # --- counting a user's sockets -----------------------------------------------------------

    async def confirm_sockets(self, user_id: UUID) -> int:
        """How many sockets the user has on other nodes, as these say now: those of a dead one do not count."""
        asked = self._elsewhere.nodes_with(user_id)
        if not asked:
            return 0
        if (confirmation := self._confirming.get(user_id)) is None:
            confirmation = self._confirming[user_id] = _Confirmation(asked)
            for node_id in asked:
                self._bus.tell_node(node_id, SocketsAsked(self._node_id, user_id))
        await asyncio.wait({confirmation.done}, timeout=CONFIRM_SECONDS)
        if self._confirming.get(user_id) is confirmation:
            del self._confirming[user_id]
        return confirmation.sockets

    def _take_sockets_asked(self, hint: SocketsAsked) -> None:
        if self._fence.clear:
            sockets = self._hub.connections_of(hint.user_id)
            self._bus.tell_node(hint.asker, SocketsTold(self._node_id, hint.user_id, sockets))

    def _take_sockets_told(self, hint: SocketsTold) -> None:
        if (confirmation := self._confirming.get(hint.user_id)) is not None:
            confirmation.take(hint)


class _Confirmation:
    """A count of one user's sockets, node by node."""

    def __init__(self, asked: set[UUID]) -> None:
        self.sockets = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = set(asked)

    def take(self, hint: SocketsTold) -> None:
        """One node has answered."""
        if hint.node_id not in self._missing:
            return
        self._missing.remove(hint.node_id)
        self.sockets += hint.sockets
        if not self._missing and not self.done.done():
            self.done.set_result(None)
