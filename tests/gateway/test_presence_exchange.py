"""Several nodes tell each other who is online, over a bus that loses what it likes."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from gateway.presence_exchange import USERS
from storage.hints import PresenceAsked, PresenceChanged, PresenceTold
from tests.gateway.hub_world import ROOM, names
from tests.gateway.presence_world import GRACE, Cluster, Node, user

ANN, BOB, CAT = user("ann"), user("bob"), user("cat")


@pytest.fixture
async def cluster() -> Cluster:
    """Three nodes that know each other."""
    return Cluster(3)


@pytest.fixture
def nodes(cluster: Cluster) -> tuple[Node, Node, Node]:
    """They."""
    first, second, third = cluster.nodes.values()
    return first, second, third


def quiet(*nodes: Node) -> bool:
    """Whether none of them has anything to tell its users."""
    return not set[UUID]().union(*(node.waits() for node in nodes))


async def test_every_node_knows_who_is_online(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """A user who comes anywhere is online everywhere, and offline everywhere after the grace."""
    first, second, third = nodes
    session = first.comes(ANN)
    cluster.clock.advance(0.3)
    assert cluster.online(ANN) == [True] * 3
    assert second.waits() == third.waits() == {ANN.id}
    first.goes(session)
    cluster.clock.advance(GRACE - 0.1)
    assert cluster.online(ANN) == [True] * 3
    cluster.clock.advance(0.5)
    assert cluster.online(ANN) == [False] * 3
    assert second.waits() == third.waits() == {ANN.id}


async def test_a_user_who_moves_makes_no_event(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """Away from one node and to another within the grace, by a cut or in good order: nobody is told."""
    first, second, _ = nodes
    session = first.comes(ANN)
    cluster.run(1)
    quiet(*nodes)
    for leave, source, goal in ((first.is_cut, first, second), (second.goes, second, first)):
        leave(session)
        cluster.clock.advance(GRACE / 2)
        session = goal.comes(ANN)
        cluster.clock.advance(GRACE * 2)
        assert ANN.id not in source.hub.online
        assert cluster.online(ANN) == [True] * 3
        assert quiet(*nodes)


async def test_a_lost_hint_is_found_within_a_few_beats(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """Also when nothing comes after it."""
    first, second, _ = nodes
    cluster.run(2)
    first.line.lost = 2
    first.comes(ANN)
    cluster.clock.advance(0.3)
    assert cluster.online(ANN) == [True, False, False]
    cluster.run(3)
    assert cluster.online(ANN) == [True] * 3
    assert second.waits() == {ANN.id}


async def test_whatever_is_lost_they_agree_in_the_end(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """Any number of hints in a row, whatever they were."""
    for lost in range(1, 12):
        for node in nodes:
            node.line.lost = lost
        sessions = [node.comes(ANN) for node in nodes[: lost % 3 + 1]]
        bobs = nodes[lost % 3].comes(BOB)
        cluster.run(1)
        nodes[lost % 3].goes(bobs)
        cluster.run(20)
        assert (cluster.online(ANN), cluster.online(BOB)) == ([True] * 3, [False] * 3), lost
        for node, session in zip(nodes, sessions, strict=False):
            node.goes(session)
        cluster.run(20)
        assert cluster.online(ANN) == [False] * 3, lost


async def test_a_node_that_starts_is_told_all(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """In parts, when there are many users."""
    first, _, _ = nodes
    people = [user(f"user-{n}") for n in range(2 * USERS + 1)]
    for person in people:
        first.comes(person)
    cluster.run(1)
    first.line.told.clear()
    fourth = cluster.start()
    cluster.run(2)
    assert all(fourth.presence.is_online(person.id) for person in people)
    parts = [hint for hint in first.line.told if isinstance(hint, PresenceTold)]
    assert [len(hint.users) for hint in parts] == [USERS] * 6 + [1] * 3  # to three others


async def test_a_storm_of_logins_is_a_few_hints(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """So many users in one, whatever they do."""
    first, _, _ = nodes
    first.line.told.clear()
    for n in range(3 * USERS):
        first.comes(user(f"user-{n}"))
    cluster.clock.advance(0.3)
    changes = [hint for hint in first.line.told if isinstance(hint, PresenceChanged)]
    assert len(changes) == 3 * 2  # to two others


async def test_a_node_that_dies_takes_its_users_along(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """After the grace, but not those who are elsewhere by then."""
    first, second, third = nodes
    first.comes(ANN)
    first.comes(BOB)
    cluster.run(1)
    cluster.kill(first)
    cluster.run(1)
    third.comes(BOB)
    quiet(second, third)
    cluster.run(int(GRACE) - 1)
    assert quiet(second, third)
    cluster.run(2)
    assert (cluster.online(ANN), cluster.online(BOB)) == ([False] * 2, [True] * 2)
    assert second.waits() == third.waits() == {ANN.id}


@pytest.mark.parametrize("grace", [0.1, GRACE])
async def test_redis_forgets_everything(grace: float) -> None:
    """Nobody comes, nobody goes, however short the grace."""
    cluster = Cluster(3, grace)
    nodes = list(cluster.nodes.values())
    nodes[0].comes(ANN)
    cluster.run(1)
    quiet(*nodes)
    cluster.forget()
    cluster.forget()
    cluster.run(int(GRACE) + 5)
    assert cluster.online(ANN) == [True] * 3
    assert quiet(*nodes)


async def test_a_fenced_node_tells_nothing(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """Until it knows which sessions it has lost; then it tells what is so."""
    first, second, _ = nodes
    session = first.comes(BOB)
    cluster.run(2)
    first.line.clear = False
    first.line.told.clear()
    first.comes(ANN)
    first.goes(session)
    fourth = cluster.start()
    cluster.run(3)
    assert second.presence.elsewhere.sockets_of(BOB.id) == 1
    assert await second.presence.confirm_sockets(BOB.id) == 0
    assert {type(hint) for hint in first.line.told} == {PresenceAsked}
    first.line.clear = True
    cluster.run(int(GRACE) + 3)
    assert cluster.online(ANN) == [True] * 4
    assert cluster.online(BOB) == [False] * 4
    assert fourth.presence.is_online(ANN.id)


async def test_a_change_here_does_not_overtake_one_of_elsewhere(
    cluster: Cluster, nodes: tuple[Node, Node, Node]
) -> None:
    """Who goes offline there and comes here before that is told, is told of once: as online."""
    first, second, _ = nodes
    session = first.comes(ANN)
    cluster.run(1)
    quiet(*nodes)
    link = second.watches(BOB)
    first.goes(session)
    cluster.clock.advance(GRACE + 1)
    assert second.presence.waiting == {ANN.id}
    second.joins(ANN)
    second.flush()
    assert names(link) == []
    assert second.waits() == {ANN.id}
    second.presence.tell(ANN.id, ANN.username, [ROOM])
    second.flush()
    assert names(link) == ["user_online"]


async def test_only_the_first_to_have_a_user_tells(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """Who comes here too is no news, nor is who goes from here and stays elsewhere."""
    first, second, _ = nodes
    link = second.watches(BOB)
    session = first.comes(ANN)
    cluster.run(1)
    assert second.waits() == {ANN.id}
    second.goes(second.joins(ANN))
    cluster.run(int(GRACE) + 1)
    second.flush()
    assert ANN.id not in second.hub.online
    assert names(link) == []
    first.goes(session)
    cluster.run(int(GRACE) + 1)
    second.goes(second.joins(CAT))
    cluster.run(int(GRACE) + 1)
    second.flush()
    assert names(link) == ["user_online", "user_offline"]


async def test_a_room_of_unknown_size(nodes: tuple[Node, Node, Node]) -> None:
    """A room that came open with a session of another node may be large: nobody is named there before that is known."""
    first, _, _ = nodes
    link = first.watches(BOB)
    first.hub.rooms[ROOM].member_count = 0
    first.joins(ANN)
    first.flush()
    assert names(link) == []
    assert first.waits() == {ANN.id}


# --- counting sockets ------------------------------------------------------------------------


async def test_sockets_are_confirmed_by_those_who_have_them(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """What they say now counts, not what is known of them."""
    first, second, third = nodes
    session = first.comes(ANN)
    first.comes(ANN)
    second.comes(ANN)
    cluster.run(1)
    assert third.presence.elsewhere.sockets_of(ANN.id) == 3
    first.is_cut(session)
    assert await third.presence.confirm_sockets(ANN.id) == 2
    assert third.presence.elsewhere.sockets_of(ANN.id) == 3
    cluster.clock.advance(0.3)
    assert third.presence.elsewhere.sockets_of(ANN.id) == 2


async def test_sockets_of_a_dead_node_do_not_count(cluster: Cluster, nodes: tuple[Node, Node, Node]) -> None:
    """Although its lease has not ended yet, and for several who ask at once."""
    first, second, third = nodes
    first.comes(ANN)
    second.comes(ANN)
    cluster.run(1)
    cluster.kill(first)
    confirmed = await asyncio.gather(*(third.presence.confirm_sockets(ANN.id) for _ in range(3)))
    assert third.presence.elsewhere.sockets_of(ANN.id) == 2
    assert confirmed == [1, 1, 1]
