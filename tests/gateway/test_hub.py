"""The hub by itself: who hears what, and that state and live events join without a seam."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import pytest

from gateway.hub import HELD_EVENTS
from gateway.outboxes import SLICE
from protocol.errors import CloseCode
from protocol.events import TypingIndicator
from protocol.models import User
from storage.events import CommittedEvent
from tests.gateway.hub_world import LIMITS, ROOM, FakeLink, World, event, names, seqs

OTHER = UUID(int=2)


@pytest.fixture
async def world() -> World:
    """A hub of the test's own."""
    return World()


# --- state and live events join --------------------------------------------------------------


async def test_held_events_follow_the_state(world: World) -> None:
    """What comes while the state is read is sent after it, without what the state already tells."""
    session, link = world.session()
    world.hub.hold(session, ROOM)
    world.deliver(5, 6)
    world.deliver(7)
    world.open(session, 6)
    world.deliver(8)
    world.flush()
    assert seqs(link) == [7, 8]


async def test_a_state_ahead_of_the_hub_costs_nobody_an_event(world: World) -> None:
    """A state may name a commit that the hub has not delivered: the others still get it, the newcomer does not."""
    _, old = world.member(4)
    session, new = world.session("bob")
    world.hub.hold(session, ROOM)
    world.open(session, 6)
    world.deliver(5)
    world.deliver(6)
    world.deliver(7)
    world.flush()
    assert seqs(old) == [5, 6, 7]
    assert seqs(new) == [7]
    assert session.lagging is None


async def test_two_states_of_different_age(world: World) -> None:
    """Two sessions read their states at different moments, and nobody else hears the room: neither misses a thing."""
    late, late_link = world.session("late")
    soon, soon_link = world.session("soon")
    world.hub.hold(late, ROOM)
    world.hub.hold(soon, ROOM)
    world.open(soon, 6)
    world.deliver(5, 6)
    world.open(late, 4)
    world.deliver(7)
    world.flush()
    assert seqs(soon_link) == [7]
    assert seqs(late_link) == [5, 6, 7]


async def test_a_newcomer_to_nobody_s_room(world: World) -> None:
    """The first to hear a room is not sent older events that come late."""
    _, link = world.member(6)
    world.deliver(5, 6)
    world.deliver(7)
    world.flush()
    assert seqs(link) == [7]


async def test_holding_again_forgets_the_earlier_hold(world: World) -> None:
    """A sync while an earlier hold is waiting starts anew."""
    world.member(4)
    session, link = world.session("bob")
    world.hub.hold(session, ROOM)
    world.open(session, 6)
    world.hub.hold(session, ROOM)
    world.deliver(5, 6)
    world.hub.release(session, ROOM, 5)
    world.deliver(7)
    world.flush()
    assert seqs(link) == [6, 7]


async def test_too_many_held_events(world: World) -> None:
    """A session whose state takes too long is told to sync, and holds no more than its share."""
    session, link = world.session()
    world.hub.hold(session, ROOM)
    for first in range(1, HELD_EVENTS + 2, 200):
        world.deliver(*range(first, first + 200))
    world.open(session, 3)
    world.flush()
    assert names(link) == ["lagging"]
    assert session.lagging is not None
    world.deliver(session.lagging[ROOM] + 1)
    world.flush()
    assert names(link) == ["lagging"]


async def test_a_state_that_is_older_than_what_was_held(world: World) -> None:
    """When events between the state and what was held are missing, the session is told to sync."""
    world.member(8)
    session, link = world.session("bob")
    world.hub.hold(session, ROOM)
    world.deliver(9)
    world.open(session, 7)
    world.flush()
    assert names(link) == ["lagging"]


async def test_a_state_that_could_not_be_read(world: World) -> None:
    """The session is told to sync before it hears the room again."""
    session, link = world.member(4)
    world.hub.hold(session, ROOM)
    world.deliver(5)
    world.hub.abandon_hold(session, ROOM)
    world.deliver(6)
    world.flush()
    assert names(link) == ["lagging"]


# --- coming and going ------------------------------------------------------------------------


async def test_a_member_hears_from_the_event_that_adds_them(world: World) -> None:
    """The first event of a newcomer is the one that says that they joined."""
    world.member(4)
    session, link = world.session("bob")
    session.opening = False
    world.deliver(5)
    world.hub.deliver([event(6, adds=[session.user.id]), event(7)])
    world.flush()
    assert seqs(link) == [6, 7]


async def test_a_newcomer_does_not_hear_what_a_gap_hid(world: World) -> None:
    """Events before a newcomer's first are not theirs, also when they are found late."""
    _, old = world.member(4)
    session, new = world.session("bob")
    session.opening = False
    joined = event(7, adds=[session.user.id])
    world.hub.deliver([joined])
    assert [room.id for room in world.gaps] == [ROOM]
    world.hub.deliver([event(5), event(6), joined])
    world.flush()
    assert seqs(old) == [5, 6, 7]
    assert seqs(new) == [7]


async def test_the_last_event_of_a_member_who_leaves(world: World) -> None:
    """Who is removed hears that, and nothing after it."""
    _, old = world.member(4)
    session, link = world.member(4, "bob")
    world.hub.deliver([event(5), event(6, removes=[session.user.id]), event(7)])
    world.flush()
    assert seqs(link) == [5, 6]
    assert seqs(old) == [5, 6, 7]
    assert ROOM not in session.rooms


async def test_an_old_event_adds_nobody(world: World) -> None:
    """Events that a repair reads again do not bring back a member who has left since."""
    _, old = world.member(4)
    session, link = world.session("bob")
    session.opening = False
    there_and_back = [event(5, adds=[session.user.id]), event(6, removes=[session.user.id])]
    world.hub.deliver(there_and_back)
    world.hub.deliver(there_and_back)
    world.deliver(7)
    world.flush()
    assert seqs(link) == [5, 6]
    assert seqs(old) == [5, 6, 7]


async def test_removed_while_the_state_is_read(world: World) -> None:
    """A removal that is set aside ends the room for the session when it is released."""
    world.member(4)
    session, link = world.session("bob")
    world.hub.hold(session, ROOM)
    world.hub.deliver([event(5), event(6, removes=[session.user.id]), event(7)])
    world.open(session, 4)
    world.deliver(8)
    world.flush()
    assert seqs(link) == [5, 6]


async def test_left_and_came_back_while_the_state_is_read(world: World) -> None:
    """What happened in the room between a leave and a return is not sent; what happens after the return is."""
    world.member(4)
    session, link = world.session("bob")
    user_id = session.user.id
    world.hub.hold(session, ROOM)
    world.hub.deliver([event(5, removes=[user_id]), event(6), event(7, adds=[user_id]), event(8)])
    world.open(session, 4)
    world.deliver(9)
    world.flush()
    assert seqs(link) == [5, 7, 8, 9]


async def test_joined_while_the_session_opens(world: World) -> None:
    """A room joined after the list of rooms was read begins with the event that says so."""
    session, link = world.session("bob")
    world.hub.deliver([event(5, adds=[session.user.id]), event(6)])
    session.opening = False
    world.hub.release_rest(session)
    world.deliver(7)
    world.flush()
    assert seqs(link) == [5, 6, 7]


async def test_what_sessions_have_in_common_is_there_once(world: World) -> None:
    """Sessions of one user share what is known of them, and a room's id; who has an older name keeps it until told."""
    one, two, older = (
        world.session(user=User(id=OTHER, username=name, display_name=""))[0] for name in ("ann", "ann", "anne")
    )
    assert two.user is one.user
    assert (older.user.username, one.user.username) == ("anne", "ann")
    for session in (one, two):
        world.hub.hold(session, UUID(str(ROOM)))
    assert next(iter(one.rooms)) is next(iter(two.rooms))


async def test_a_room_that_nobody_hears_is_forgotten(world: World) -> None:
    """The hub keeps no room without hearers."""
    session, _ = world.member(4)
    world.hub.forget(session)
    assert not world.hub.rooms
    assert not world.hub.users
    assert not world.hub.links


async def test_a_join_that_a_state_already_tells(world: World) -> None:
    """One of a user's sessions opens with the new room in its state; the others still hear that they joined."""
    opening, new = world.session("bob")
    other, old = world.session(user=opening.user)
    other.opening = False
    world.hub.hold(opening, ROOM)
    world.open(opening, 6)
    world.hub.deliver([event(5, adds=[opening.user.id]), event(6)])
    world.deliver(7)
    world.flush()
    assert seqs(new) == [7]
    assert seqs(old) == [5, 6, 7]


# --- gaps and repeats ------------------------------------------------------------------------


async def test_a_gap_is_reported_and_not_delivered(world: World) -> None:
    """An event that is not the next one waits until what is between was found."""
    _, link = world.member(4)
    world.deliver(6)
    world.flush()
    assert [room.id for room in world.gaps] == [ROOM]
    assert seqs(link) == []
    world.deliver(5, 6)
    world.flush()
    assert seqs(link) == [5, 6]


async def test_repeats_are_dropped(world: World) -> None:
    """An event that comes twice is delivered once, also when the second time brings new ones along."""
    _, link = world.member(4)
    world.deliver(5, 6)
    world.deliver(5, 6)
    world.deliver(6, 7)
    world.flush()
    assert seqs(link) == [5, 6, 7]


async def all_have(links: list[FakeLink], expected: list[int]) -> None:
    """Waits until these have been sent to everyone."""
    async with asyncio.timeout(10):
        while any(seqs(link) != expected for link in links):
            await asyncio.sleep(0.001)


# --- fan-out ---------------------------------------------------------------------------------


async def test_one_encoding_for_all(world: World) -> None:
    """All receivers on one wire share the same bytes object."""
    links = [world.member(4, f"u{n}", wire)[1] for n, wire in enumerate([world.json, world.json, world.msgpack])]
    world.deliver(5)
    world.flush()
    one, two, three = (link.written[-1] for link in links)
    assert one is two
    assert one != three
    assert [seqs(link) for link in links] == [[5], [5], [5]]


async def test_a_large_room_is_written_in_slices(world: World) -> None:
    """Of a large chatroom so many sockets are written in a turn of the loop; what comes meanwhile goes in one write."""
    links = [world.member(0, f"u{n}")[1] for n in range(SLICE + 1)]
    session, alone = world.session("alone")
    world.hub.hold(session, OTHER)
    world.hub.release(session, OTHER, 0)
    world.deliver(1)
    world.flush()
    assert [len(link.written) for link in links] == [1] * SLICE + [0]
    world.deliver(2)
    world.hub.deliver([CommittedEvent(OTHER, 1, "member_updated", event(1).data)])
    world.flush()
    assert seqs(alone) == [1]
    assert seqs(links[SLICE]) == [1, 2]
    await all_have(links, [1, 2])
    assert [len(link.written) for link in links] == [2] * SLICE + [1]


async def test_a_sweep_waits_for_a_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While something is being committed that may go along, a large chatroom is not written yet; but not for long."""
    members = [world.member(0, f"u{n}") for n in range(SLICE + 1)]
    links = [link for _, link in members]
    committing = True
    world.hub.outboxes.more_to_come = lambda: committing

    def slowly(data: bytes) -> None:
        time.sleep(0.01)
        FakeLink.write(links[0], data)

    monkeypatch.setattr(links[0], "write", slowly)
    world.deliver(1)
    await all_have(links, [1])
    world.deliver(2)
    world.flush()
    assert all(seqs(link) == [1] for link in links)
    world.hub.mark(members[5][0])  # there is an answer, too
    world.flush()
    assert seqs(links[5]) == [1, 2]
    committing = False
    world.deliver(3)
    world.flush()
    assert seqs(links[4]) == [1, 2, 3]
    await all_have(links, [1, 2, 3])
    assert [len(link.written) for link in links[4:7]] == [2, 3, 2]
    committing = True
    world.deliver(4)
    await all_have(links, [1, 2, 3, 4])


async def test_waiting_for_ones_turn_is_not_being_slow(world: World) -> None:
    """A socket that takes what it is given is written before its turn once much waits; its session never lags."""
    links = [world.member(0, f"u{n}")[1] for n in range(SLICE + 1)]
    for seq in range(1, 40):
        world.deliver(seq)
    await all_have(links, list(range(1, 40)))
    assert max(len(data) for link in links for data in link.written) < LIMITS.outbox


async def test_a_slow_reader_lags_and_is_told_where_it_stands(world: World) -> None:
    """Beyond its outbox a session gets no room events; once it drains, one `lagging` names the newest seq."""
    session, link = world.member(0)
    _, other = world.member(0, "bob")
    link.paused = True
    for seq in range(1, 41):
        world.deliver(seq)
        world.flush()
    assert session.queued < LIMITS.outbox + 500
    assert link.stuck_told > 0
    assert seqs(other) == list(range(1, 41))
    link.paused = False
    world.hub.outboxes.flush_now(session)
    got = seqs(link)
    assert got == list(range(1, len(got) + 1))
    assert names(link)[-1] == "lagging"
    assert session.lagging == {ROOM: 40}
    world.deliver(41)
    world.flush()
    assert names(link)[-1] == "lagging"
    world.hub.hold(session, ROOM)
    world.hub.release(session, ROOM, 41)
    world.deliver(42)
    world.flush()
    assert seqs(link) == [*got, 42]


async def test_ephemeral_events_go_to_those_who_have_the_room_open(world: World) -> None:
    """Only openers hear typing, never the one who types, and a slow reader loses it without lagging."""
    ann, ann_link = world.member(0, "ann")
    bob, bob_link = world.member(0, "bob")
    _, other = world.member(0, "eve")
    world.hub.open_room(ann, ROOM)
    world.hub.open_room(bob, ROOM)
    typing = TypingIndicator(chatroom_id=ROOM, user_id=ann.user.id, username="ann", is_typing=True)
    bob_link.paused = True
    for _ in range(40):
        world.hub.tell_openers(ROOM, "typing_indicator", typing, but=ann.user.id)
    world.flush()
    bob_link.paused = False
    world.hub.outboxes.flush_now(bob)
    assert 0 < len(bob_link.frames) < 40
    assert set(names(bob_link)) == {"typing_indicator"}
    assert not ann_link.frames
    assert not other.frames
    world.hub.close_room(bob, ROOM)
    world.hub.tell_openers(ROOM, "typing_indicator", typing)
    world.flush()
    assert names(ann_link) == ["typing_indicator"]


# --- sessions and sockets --------------------------------------------------------------------


async def test_attaching_replaces_the_old_socket(world: World) -> None:
    """A session has one socket; the older one is closed as replaced, and its end is not the session's."""
    session, old = world.member(0)
    new = FakeLink(world.json)
    world.hub.attach(session, new, world.json)
    assert old.closed is CloseCode.replaced
    assert world.hub.detach(session, old) is False
    world.deliver(1)
    world.flush()
    assert seqs(new) == [1]
    assert world.hub.detach(session, new) is True


async def test_a_cut_session_keeps_counting(world: World) -> None:
    """Events go on being counted and kept for a session without a socket."""
    session, link = world.member(0)
    world.deliver(1)
    world.flush()
    world.hub.detach(session, link)
    world.deliver(2, 3)
    missed = session.resume(1, {ROOM})
    assert isinstance(missed, list)
    again = FakeLink(world.json)
    again.write(b"".join(chunk.data for chunk in missed))
    assert seqs(again) == [2, 3]


async def test_a_sign_in_that_ends_closes_its_sessions(world: World) -> None:
    """Sockets of the sign-in are closed, cut sessions forgotten, other sign-ins left alone."""
    session, link = world.member(0)
    other, other_link = world.session(user=session.user)
    world.hub.close_sign_in(session.sign_in_id)
    assert link.closed is CloseCode.auth_failed
    assert session.id not in world.hub.sessions
    assert other_link.closed is None
    assert world.hub.sessions_of(other.user.id) == [other]
