"""Nodes with their hubs and presence, a bus between them that loses what it is told to, and a clock that is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from uuid import UUID, uuid4

from gateway.fence import Open
from gateway.presence import Presence
from gateway.presence_exchange import PresenceExchange
from gateway.session import Session
from gateway.wheel import Timed
from protocol.models import User
from storage.hints import Hint, decode, encode
from tests.gateway.hub_world import ROOM, FakeLink, World

GRACE = 10.0


class Clock:
    """Takes the place of a Wheel."""

    def __init__(self) -> None:
        self._now = 100.0
        self._filed: list[tuple[float, Timed]] = []

    def now(self) -> float:
        """The time it was set to."""
        return self._now

    def schedule(self, timed: Timed, when: float) -> None:
        """Files it."""
        if timed not in [filed for _, filed in self._filed]:
            self._filed.append((when, timed))

    def advance(self, seconds: float) -> None:
        """Does what is due, in order."""
        until = self._now + seconds
        while due := [entry for entry in self._filed if entry[0] <= until]:
            when, timed = entry = min(due, key=lambda entry: entry[0])
            self._filed.remove(entry)
            self._now = max(self._now, when)
            if (after := timed.tick(self._now)) is not None:
                self.schedule(timed, after)
        self._now = until


class Line(Open):
    """Takes the place of a node's bus and leases, and of its fence."""

    def __init__(self, cluster: Cluster, node_id: UUID) -> None:
        self._cluster = cluster
        self._node_id = node_id
        self._handlers: dict[type[Hint], Callable[[Any], None]] = {}
        self.beat: Callable[[bool], None] = lambda _: None
        self.lost = 0
        self.clear = True
        self.told: list[Hint] = []

    @property
    def live(self) -> set[UUID]:
        """The other nodes, unless they have not beaten again since Redis lost its memory."""
        return set() if self._cluster.forgotten else self._cluster.nodes.keys() - {self._node_id}

    def after_beat(self, callback: Callable[[bool], None]) -> None:
        """Keeps the only one."""
        self.beat = callback

    def on(self, kind: type[Hint], handler: Callable[[Any], None]) -> None:
        """Keeps it."""
        self._handlers[kind] = handler

    def tell_all(self, hint: Hint) -> None:
        """To all others, unless it is lost."""
        for node_id in self._cluster.nodes.keys() - {self._node_id}:
            self.tell_node(node_id, hint)

    def tell_node(self, node_id: UUID, hint: Hint) -> None:
        """To one, unless it is lost."""
        self.told.append(hint)
        if self.lost:
            self.lost -= 1
        elif node_id in self._cluster.nodes:
            self._cluster.nodes[node_id].line.take(decode(encode(hint)))

    def take(self, hint: Hint) -> None:
        """Something came."""
        self._handlers[type(hint)](hint)


class Node(World):
    """One node."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.id = uuid4()
        self.line = Line(cluster, self.id)
        wheel, line = cast("Any", cluster.clock), cast("Any", self.line)
        self.presence = Presence(self.hub, wheel, cluster.grace)
        self.exchange = PresenceExchange(self.id, self.hub, self.presence, wheel, line, line, line)

    def comes(self, user: User) -> Session:
        """A session of the user opens."""
        session, _ = self.session(user=user)
        session.opening = False
        self.presence.came(session)
        return session

    def watches(self, user: User) -> FakeLink:
        """What a session of the user is told that has the room open."""
        session, link = self.session(user=user)
        self.hub.hold(session, ROOM)
        self.open(session, 1)
        self.hub.open_room(session, ROOM)
        self.hub.rooms[ROOM].member_count = 2
        return link

    def joins(self, user: User) -> Session:
        """A session of a member of the room opens."""
        session, _ = self.session(user=user)
        self.hub.hold(session, ROOM)
        self.open(session, 1)
        self.presence.came(session)
        return session

    def goes(self, session: Session) -> None:
        """It ends."""
        self.hub.forget(session)

    def is_cut(self, session: Session) -> None:
        """Its socket does."""
        self.hub.detach(session, self.hub.links[session])
        self.presence.went(session)

    def waits(self) -> set[UUID]:
        """The users of whom something would be told to those who have a room open; it is, now."""
        waiting = set(self.presence.waiting)
        self.presence.waiting.clear()
        return waiting


class Cluster:
    """Some nodes."""

    def __init__(self, count: int, grace: float = GRACE) -> None:
        self.clock = Clock()
        self.grace = grace
        self.forgotten = False
        self.nodes: dict[UUID, Node] = {}
        for _ in range(count):
            self.start()
        self.run(1)

    def start(self) -> Node:
        """One more."""
        node = Node(self)
        self.nodes[node.id] = node
        return node

    def kill(self, node: Node) -> None:
        """It is gone, and its lease is over."""
        del self.nodes[node.id]

    def run(self, seconds: int) -> None:
        """So many beats."""
        for _ in range(seconds):
            self._beat()
        self.clock.advance(0.5)

    def forget(self) -> None:
        """Redis loses its memory: at the next beat nodes do not see each other."""
        self.forgotten = True
        self._beat()
        self.forgotten = False

    def _beat(self) -> None:
        self.clock.advance(1)
        for node in self.nodes.values():
            node.line.beat(self.forgotten)

    def online(self, user: User) -> list[bool]:
        """Whether the user is online, as each node says."""
        return [node.presence.is_online(user.id) for node in self.nodes.values()]


def user(name: str) -> User:
    """Somebody."""
    return User(id=uuid4(), username=name, display_name=name)
