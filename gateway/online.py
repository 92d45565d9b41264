"""Who is online on other nodes, as far as they have told: no I/O, so that every loss can be tried.

Each node numbers what it tells of its users. A number that is missing shows that
something was lost; then the node is asked for the whole, and what was known
stays until that has come. What is told are states, not steps: late or twice, they
do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from uuid import UUID

from storage.hints import PresenceChanged, PresenceTold
from storage.leases import LEASE

ASK_AGAIN = 2.0
"""Seconds without an answer after which a node is asked again."""


def presence_of(sockets: int, *, online: bool) -> int:
    """What a node tells of one user, as one small number; 0 is a user that it does not have.

    Above 0: online, with one socket less than that (none, within the grace). Below: so many sockets of a bot that
    hears no chatroom, and so is not online.
    """
    return sockets + 1 if online else -sockets


def sockets_in(presence: int) -> int:
    """How many sockets `presence_of` was told."""
    return presence - 1 if presence > 0 else -presence


class _Node:
    """Another node. `number` is that of the last change taken in, `seen` who is in a whole that is still coming."""

    __slots__ = ("ask_at", "gone_at", "known", "number", "part", "seen", "users", "whole")

    def __init__(self, gone_at: float | None) -> None:
        self.users: dict[UUID, int] = {}
        self.number = 0
        self.whole = False
        self.known = False
        self.part = 0
        self.seen: set[UUID] | None = None
        self.ask_at = 0.0
        self.gone_at = gone_at


class Elsewhere:
    """The users of all other nodes. `on_change` is told of each who is online on one of them now, or on none any more.

    Times are in seconds of any clock that only goes forward.
    """

    def __init__(self, grace: float) -> None:
        self.on_change: Callable[[UUID], None] = lambda _: None
        self._grace = grace
        self._nodes: dict[UUID, _Node] = {}
        self._online: dict[UUID, int] = {}
        self._trust_at = 0.0

    def __len__(self) -> int:
        """How many users are online on other nodes."""
        return len(self._online)

    def is_online(self, user_id: UUID) -> bool:
        """Whether any other node has the user."""
        return user_id in self._online

    def sockets_of(self, user_id: UUID) -> int:
        """How many sockets a user has on other nodes."""
        return sum(sockets_in(node.users.get(user_id, 0)) for node in self._nodes.values())

    def nodes_with(self, user_id: UUID) -> set[UUID]:
        """The other nodes on which a user has sockets."""
        return {node_id for node_id, node in self._nodes.items() if sockets_in(node.users.get(user_id, 0))}

    # --- what nodes tell ---------------------------------------------------------------------

    def changed(self, hint: PresenceChanged, now: float) -> None:
        """Users came to a node, or went from it."""
        node = self._node(hint.node_id, now)
        if hint.number <= node.number or not node.known:
            return  # had already; or so little is known of the node that it may be dead: first it has to answer
        if hint.after > node.number:
            node.whole, node.seen = False, None
        node.number = hint.number
        self._take(node, hint.users)

    def told(self, hint: PresenceTold, now: float) -> None:
        """A part of all users of a node, as they are after the change it names. Changes between parts are told too."""
        node = self._node(hint.node_id, now)
        if hint.part == 0 and not node.whole and hint.number >= node.number:
            node.number, node.part, node.seen, node.known = hint.number, 0, set(), True
        if node.seen is None:
            return
        if hint.part != node.part or hint.number != node.number:
            node.seen = None
            return
        node.part += 1
        node.ask_at = now + ASK_AGAIN
        self._take(node, hint.users)
        if hint.last:
            self._forget_unseen(node)

    def _forget_unseen(self, node: _Node) -> None:
        seen, node.seen, node.whole = node.seen or set(), None, True
        for user_id in node.users.keys() - seen:
            self._set(node, user_id, 0)

    def _node(self, node_id: UUID, now: float) -> _Node:
        """A node; one that we have not seen alive yet soon has to be."""
        if (node := self._nodes.get(node_id)) is None:
            node = self._nodes[node_id] = _Node(now + LEASE + self._grace)
        return node

    def _take(self, node: _Node, users: dict[UUID, int]) -> None:
        if node.seen is not None:
            node.seen.update(users)
        for user_id, presence in users.items():
            self._set(node, user_id, presence)

    def _set(self, node: _Node, user_id: UUID, presence: int) -> None:
        before = node.users.get(user_id, 0)
        if presence:
            node.users[user_id] = presence
        else:
            node.users.pop(user_id, None)
        if (before > 0) != (presence > 0):
            self._count(user_id, 1 if presence > 0 else -1)

    def _count(self, user_id: UUID, change: int) -> None:
        nodes = self._online.get(user_id, 0) + change
        if nodes:
            self._online[user_id] = nodes
        else:
            del self._online[user_id]
        if nodes == (1 if change > 0 else 0):
            self.on_change(user_id)

    # --- which nodes there are ---------------------------------------------------------------

    def beat(self, live: Collection[UUID], now: float, *, doubtful: bool) -> None:
        """These nodes are alive. One whose lease has ended takes its users along, unless it is back within the grace.

        `doubtful`: Redis was away or has lost its memory, so nodes may be missing because they have not beaten since.
        """
        if doubtful:
            self._trust_at = now + LEASE
        for node_id in live:
            self._node(node_id, now).gone_at = None
        for node_id, node in list(self._nodes.items()):
            if node_id in live:
                continue
            if node.gone_at is None:
                node.gone_at = max(now, self._trust_at) + self._grace
            elif now >= max(node.gone_at, self._trust_at):
                self._drop(node_id)

    def _drop(self, node_id: UUID) -> None:
        node = self._nodes.pop(node_id)
        for user_id in list(node.users):
            self._set(node, user_id, 0)

    def to_ask(self, now: float) -> list[UUID]:
        """Nodes of which too little is known, and that have to be asked now. They count as asked."""
        due = [node_id for node_id, node in self._nodes.items() if not node.whole and now >= node.ask_at]
        for node_id in due:
            self._nodes[node_id].ask_at = now + ASK_AGAIN
        return due
