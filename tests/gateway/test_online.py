"""Who is online elsewhere, by what nodes tell: whatever is lost, late or twice, the outcome is right in the end."""

from __future__ import annotations

from uuid import UUID

import pytest

from gateway.online import ASK_AGAIN, Elsewhere, presence_of, sockets_in
from storage.hints import PresenceChanged, PresenceTold
from storage.leases import LEASE

A, B = UUID(int=1), UUID(int=2)
ANN, BOB, CAT = UUID(int=11), UUID(int=12), UUID(int=13)
HERE, GONE = presence_of(1, online=True), presence_of(0, online=False)
GRACE = 10.0


class World:
    """What one node knows of the others, and what it has noticed."""

    def __init__(self) -> None:
        self.now = 100.0
        self.elsewhere = Elsewhere(GRACE)
        self.elsewhere.on_change = self._note
        self.noticed: list[tuple[UUID, bool]] = []

    def _note(self, user_id: UUID) -> None:
        self.noticed.append((user_id, self.elsewhere.is_online(user_id)))

    def changed(self, node: UUID, after: int, number: int, **users: int) -> None:
        """A change."""
        self.elsewhere.changed(PresenceChanged(node, after, number, named(users)), self.now)

    def told(self, node: UUID, number: int, part: int = 0, *, last: bool = True, **users: int) -> None:
        """A part of a whole."""
        self.elsewhere.told(PresenceTold(node, number, part, last, named(users)), self.now)

    def beat(self, *live: UUID, doubtful: bool = False) -> None:
        """A beat that finds these nodes alive."""
        self.elsewhere.beat(live, self.now, doubtful=doubtful)

    def asks(self) -> list[UUID]:
        """Which nodes are asked now."""
        return self.elsewhere.to_ask(self.now)

    def online(self) -> set[UUID]:
        """Who is online elsewhere."""
        return {user_id for user_id in (ANN, BOB, CAT) if self.elsewhere.is_online(user_id)}

    def news(self) -> list[tuple[UUID, bool]]:
        """What was noticed since the last time."""
        noticed, self.noticed = self.noticed, []
        return noticed


def named(users: dict[str, int]) -> dict[UUID, int]:
    """Users by name."""
    return {{"ann": ANN, "bob": BOB, "cat": CAT}[name]: presence for name, presence in users.items()}


@pytest.fixture
def world() -> World:
    """Two other nodes, of which A has told that it has ann, and B that it has nobody."""
    world = World()
    world.beat(A, B)
    assert world.asks() == [A, B]
    world.told(A, 5, ann=HERE)
    world.told(B, 0)
    assert world.news() == [(ANN, True)]
    world.now += ASK_AGAIN
    return world


@pytest.mark.parametrize("sockets", [0, 1, 5])
@pytest.mark.parametrize("online", [True, False])
def test_presence_is_one_number(sockets: int, online: bool) -> None:
    """It says how many sockets there are and whether the user is online; only who has neither is 0."""
    presence = presence_of(sockets, online=online)
    assert (sockets_in(presence), presence > 0) == (sockets, online)
    assert (presence == 0) == (not sockets and not online)


def test_a_node_that_is_new_is_asked_until_it_answers(world: World) -> None:
    """An answer that does not come is asked for again, not sooner than it may take."""
    world = World()
    world.beat(A)
    assert world.asks() == [A]
    assert world.asks() == []
    world.now += ASK_AGAIN
    assert world.asks() == [A]
    world.told(A, 0)
    world.now += ASK_AGAIN
    assert world.asks() == []


def test_changes_in_order(world: World) -> None:
    """First and last are noticed, and nobody is asked."""
    world.changed(A, 5, 6, bob=HERE)
    world.changed(A, 6, 7, ann=GONE)
    assert world.news() == [(BOB, True), (ANN, False)]
    assert world.online() == {BOB}
    assert world.asks() == []


def test_a_node_that_was_just_asked(world: World) -> None:
    """Losses that come one after the other cost no more than one whole each ASK_AGAIN."""
    world.changed(A, 6, 6)
    assert world.asks() == [A]
    world.told(A, 6)
    world.changed(A, 7, 7)
    assert world.asks() == []
    world.now += ASK_AGAIN
    assert world.asks() == [A]


def test_a_change_that_comes_twice_or_late(world: World) -> None:
    """It is not taken in: what is known is newer."""
    world.changed(A, 5, 6, bob=HERE)
    world.changed(A, 6, 7, bob=GONE)
    world.news()
    world.changed(A, 5, 6, bob=HERE)
    world.changed(A, 6, 7, bob=GONE)
    assert (world.news(), world.online(), world.asks()) == ([], {ANN}, [])


def test_a_lost_change_is_found_by_the_next(world: World) -> None:
    """What was known stays until the node has told all; then what was lost is noticed, once."""
    world.changed(A, 6, 7, cat=HERE)
    assert world.asks() == [A]
    assert world.online() == {ANN, CAT}
    world.told(A, 7, bob=HERE, cat=HERE)
    assert world.news() == [(CAT, True), (BOB, True), (ANN, False)]
    world.now += ASK_AGAIN
    assert world.asks() == []


def test_a_lost_change_without_a_next(world: World) -> None:
    """A node that says how far it is, without any change, betrays it."""
    world.changed(A, 5, 5)
    assert world.asks() == []
    world.changed(A, 6, 6)
    assert world.asks() == [A]
    assert world.online() == {ANN}
    assert world.news() == []


def test_a_lost_part_of_a_whole(world: World) -> None:
    """A whole counts when all of it has come; else the node is asked again, and nobody goes offline meanwhile."""
    world.changed(A, 6, 6)
    world.asks()
    world.told(A, 6, 0, last=False, bob=HERE)
    world.told(A, 6, 2, cat=HERE)
    assert world.online() == {ANN, BOB}
    world.now += ASK_AGAIN
    assert world.asks() == [A]
    world.told(A, 6, 0, last=False, bob=HERE)
    world.told(A, 6, 1, cat=HERE)
    assert world.online() == {BOB, CAT}


def test_a_change_while_a_whole_is_told(world: World) -> None:
    """Who comes meanwhile stays, who goes is gone, although the parts say otherwise."""
    world.changed(A, 6, 6)
    world.told(A, 6, 0, last=False, ann=HERE)
    world.changed(A, 6, 7, ann=GONE, cat=HERE)
    world.told(A, 7, 1, bob=HERE)
    assert world.online() == {BOB, CAT}
    assert world.asks() == []


def test_a_change_lost_while_a_whole_is_told(world: World) -> None:
    """The whole may lack it, and does not count."""
    world.changed(A, 6, 6)
    world.told(A, 6, 0, last=False, ann=HERE)
    world.changed(A, 7, 8, cat=HERE)
    world.told(A, 8, 1)
    world.now += ASK_AGAIN
    assert world.asks() == [A]
    assert world.online() == {ANN, CAT}


@pytest.mark.parametrize("number", [6, 8])
def test_a_part_out_of_order(world: World, number: int) -> None:
    """A part that a change has overtaken, or that has overtaken one, is not taken in: the node is asked again."""
    world.changed(A, 6, 6)
    world.told(A, 6, 0, last=False, ann=HERE)
    world.changed(A, 6, 7, cat=HERE)
    world.told(A, number, 1, bob=HERE)
    world.now += ASK_AGAIN
    assert world.asks() == [A]
    assert world.online() == {ANN, CAT}
    world.told(A, 8, cat=HERE)
    assert world.online() == {CAT}


def test_a_whole_that_is_older_than_what_is_known(world: World) -> None:
    """It is not taken in."""
    world.changed(A, 7, 8, bob=HERE)
    world.told(A, 7)
    assert world.online() == {ANN, BOB}
    world.told(A, 8, bob=HERE)
    assert world.online() == {BOB}


def test_a_user_on_two_nodes(world: World) -> None:
    """Only the first node to have them and the last are noticed; a move is neither."""
    world.changed(B, 0, 1, ann=HERE)
    world.changed(A, 5, 6, ann=GONE)
    assert world.news() == []
    world.changed(B, 1, 2, ann=GONE)
    assert world.news() == [(ANN, False)]


def test_sockets_are_counted_over_all_nodes(world: World) -> None:
    """Those of bots that hear nothing too, who are not online; and a user within the grace has none."""
    world.changed(A, 5, 6, ann=presence_of(3, online=True), bob=presence_of(2, online=False))
    world.changed(B, 0, 1, ann=presence_of(1, online=True), cat=presence_of(0, online=True))
    counts = [world.elsewhere.sockets_of(user_id) for user_id in (ANN, BOB, CAT)]
    assert counts == [4, 2, 0]
    assert [world.elsewhere.nodes_with(user_id) for user_id in (ANN, BOB, CAT)] == [{A, B}, {A}, set()]
    assert world.online() == {ANN, CAT}


def test_a_dead_node_takes_its_users_along(world: World) -> None:
    """After the grace, except those whom another node has."""
    world.changed(A, 5, 6, bob=HERE)
    world.changed(B, 0, 1, bob=HERE)
    world.news()
    world.beat(B)
    world.now += GRACE - 0.1
    world.beat(B)
    assert world.news() == []
    world.now += 0.1
    world.beat(B)
    assert world.news() == [(ANN, False)]
    assert world.online() == {BOB}


def test_a_node_that_comes_back_within_the_grace(world: World) -> None:
    """It was never away."""
    world.beat(B)
    world.now += GRACE - 0.1
    world.beat(A, B)
    world.now += GRACE
    world.beat(A, B)
    assert (world.news(), world.online(), world.asks()) == ([], {ANN}, [])


def test_what_a_dead_node_had_said(world: World) -> None:
    """A hint that comes after the end does not bring users back, nor does it keep the node."""
    world.beat(B)
    world.now += GRACE
    world.beat(B)
    world.news()
    world.changed(A, 5, 6, bob=HERE)
    assert world.asks() == [A]
    assert world.news() == []
    world.now += LEASE + GRACE
    world.beat(B)
    assert world.asks() == []


def test_redis_has_lost_its_memory(world: World) -> None:
    """Nodes that have not beaten since are not dead; one that does not come back in a lease's time is."""
    world.now += 1
    world.beat(doubtful=True)
    world.now += GRACE
    world.beat(A)
    assert world.online() == {ANN}
    world.beat()
    world.now += GRACE
    world.beat()
    assert world.news() == [(ANN, False)]


def test_a_node_that_was_away_before_redis_was(world: World) -> None:
    """It may have come back while nobody could see it: it too has the time of a lease to show itself."""
    world.beat(B)
    world.now += GRACE
    world.beat(B, doubtful=True)
    world.now += 1
    world.beat(A, B)
    assert (world.news(), world.online()) == ([], {ANN})


def test_a_short_grace_does_not_outrun_the_beats_after_a_loss() -> None:
    """With a grace below a beat, too, nodes have the time of a lease to show themselves again."""
    world = World()
    world.elsewhere = Elsewhere(0.1)
    world.beat(A)
    world.told(A, 0, ann=HERE)
    world.beat(doubtful=True)
    world.now += LEASE - 0.1
    world.beat()
    assert world.online() == {ANN}
    world.now += 0.2
    world.beat()
    assert world.online() == set()
