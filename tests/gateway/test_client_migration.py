"""A client whose node is stopping: it opens a second connection, and takes its session over without a gap."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.client_effects import Send
from protocol import commands, events
from protocol.codec import JSON, MSGPACK, Codec, ServerFrame
from protocol.errors import CloseCode
from tests.gateway.client_actions import ACTIONS, OFTEN
from tests.gateway.client_shapes import OTHER, ROOM, listing, plain, send
from tests.gateway.client_two_lines import AFTER, OVERLAP, MovingWorld, greeted, moving
from tests.gateway.client_world import World

# --- the way over ----------------------------------------------------------------------------------------


def test_the_session_goes_on_elsewhere() -> None:
    """At its time the client opens a second connection, resumes there, and misses nothing of either."""
    world = moving()
    session = world.state.session_id
    world.server.say(ROOM)
    world.settle()
    world.wait(AFTER)
    world.server.say(ROOM)
    world.settle()
    world.server.say(ROOM)
    world.settle()
    assert world.resumes == 1
    assert world.seqs(ROOM) == [2, 3, 4]
    assert world.state.session_id == session


def test_not_before_its_time() -> None:
    """The server spreads its clients over time; none comes earlier than it was told."""
    world = moving()
    due = world.now + AFTER
    world.wait(AFTER - 0.01)
    assert world.next_outgoing is None
    assert world.state.deadline == due
    world.wait(0.01)
    assert world.next_outgoing is not None


def test_the_first_connection_serves_until_the_resume() -> None:
    """While the second one opens, and until there is a token, commands and events go on as before."""
    world = greeted()
    id = world.submit(send())
    while world.step_server() or world.step_client():
        pass
    assert len(world.answers[id]) == 1
    assert world.seqs(ROOM) == [2]
    assert world.resumes == 0


def test_frames_after_the_resume_was_sent_are_not_counted_twice() -> None:
    """What the first node still sent comes again among the missed: the counts agree, and each event comes once."""
    world = greeted()
    world.server.say(ROOM)
    world.give_token()
    world.server.say(ROOM)
    world.settle()
    world.server.say(ROOM)
    world.cut()
    world.settle()
    assert world.seqs(ROOM) == [2, 3, 4]


@pytest.mark.parametrize("handled", [0, 1, 2, 3])
def test_commands_on_their_way_are_done_once(handled: int) -> None:
    """The first node may take some of them before the session is handed over; the others are sent again, in order."""
    world = greeted()
    ids = [world.submit(commands.CreateChatroom(name=f"r{number}")) for number in range(3)]
    world.give_token()
    for _ in range(handled):
        world.step_former()
    world.settle()
    assert world.server.created == ["r0", "r1", "r2"]
    assert all(len(world.answers[id]) == 1 for id in ids)


def test_commands_in_the_moment_of_the_switch_wait_for_it() -> None:
    """They go out behind `resumed`, and not on a connection that is being left."""
    world = greeted()
    world.give_token()
    id = world.submit(send())
    assert world.sent() == ["resume"]
    world.settle()
    assert len(world.answers[id]) == 1
    assert world.seqs(ROOM) == [2]


def test_a_session_that_cannot_be_handed_over_is_caught_up() -> None:
    """`session_reset` on the second connection is what it is on any: a new session, and a sync."""
    world = greeted()
    world.server.say(ROOM, lost=True)
    world.server.session = None
    world.give_token()
    world.settle()
    assert world.seqs(ROOM) == [2]
    assert world.state.phase == "live"


def test_the_word_of_the_new_node_holds() -> None:
    """Heartbeats and the largest frame are those of the node that serves."""
    world = moving()
    world.wait(AFTER)
    other = plain(
        events.Hello(server="b", heartbeat_interval=9.0, auth_deadline=10.0, max_frame_bytes=99, resume_window=1.0)
    )
    world.do(world.state.next.receive(ServerFrame("hello", other), world.now))
    assert world.state.max_frame_bytes == 65_536
    world.give_token()
    assert world.state.max_frame_bytes == 99


def test_a_second_word_changes_nothing_that_has_begun() -> None:
    """One second connection is enough."""
    world = greeted()
    world.migrate()
    world.step_client()
    world.wait(AFTER)
    assert world.opened == 1
    world.settle()
    assert world.resumes == 1


def test_a_session_moves_as_often_as_it_is_asked() -> None:
    """Node after node stops, as in a rolling restart."""
    world = moving()
    for number in range(3):
        world.wait(AFTER)
        world.server.say(ROOM)
        world.settle()
        assert world.resumes == number + 1
        world.migrate()
        world.settle()
    assert world.seqs(ROOM) == [2, 3, 4]


# --- a second connection that fails ------------------------------------------------------------------------


def test_an_unreachable_node_costs_nothing() -> None:
    """The first connection is still used; the second is tried again after a backoff, and then taken."""
    world = moving()
    world.reachable = False
    world.wait(AFTER)
    world.server.say(ROOM)
    world.settle()
    assert world.seqs(ROOM) == [2]
    assert world.connected
    world.reachable = True
    world.wait(0.5)
    world.settle()
    assert world.resumes == 1


def test_tries_end_with_the_overlap() -> None:
    """After it the first connection is closed anyway, and that is the word to follow."""
    world = moving()
    world.reachable = False
    end = world.now + AFTER + OVERLAP
    tries = 0
    while (due := world.state.next.deadline) is not None:
        assert due < end
        world.wait(due - world.now)
        tries += 1
    assert 3 <= tries < 12
    world.cut(CloseCode.draining)
    world.reachable = True
    world.settle()
    assert world.state.phase == "live"


@pytest.mark.parametrize("moment", ["before hello", "before the token"])
def test_a_break_before_the_resume_costs_nothing(moment: str) -> None:
    """As long as nothing was asked of the other node, the first connection is whole."""
    world = moving()
    world.wait(AFTER)
    if moment == "before the token":
        world.step_next()
    world.cut_next()
    world.token_wanted = False
    id = world.submit(send())
    world.settle()
    assert len(world.answers[id]) == 1
    assert world.connected
    assert world.resumes == 0
    world.wait(0.5)
    world.settle()
    assert world.resumes == 1


def test_a_token_for_a_connection_that_broke_is_not_used() -> None:
    """It comes too late for the second connection, and the first one needs none."""
    world = greeted()
    world.cut_next()
    world.give_token()
    assert world.sent() == []
    assert world.state.phase == "live"


def test_no_token_no_switch() -> None:
    """The token cannot be had just now: the first connection goes on, and the second one is tried again."""
    world = greeted()
    world.token_wanted = False
    world.do(world.state.unauthorized("no token"))
    assert world.next_outgoing is None
    assert world.state.phase == "live"
    world.wait(0.5)
    world.settle()
    assert world.resumes == 1


def test_a_node_that_says_nothing_is_given_up() -> None:
    """A connection without `hello` is dropped after its deadline."""
    world = moving()
    world.wait(AFTER)
    world.wait(10.0)
    assert world.next_outgoing is None
    assert world.state.next.deadline is not None
    assert world.connected


def test_a_break_after_the_resume_is_an_ordinary_one() -> None:
    """Nobody knows whether the session was handed over: connect again, and resume."""
    world = greeted()
    world.server.say(ROOM)
    world.give_token()
    world.cut()
    world.server.say(ROOM)
    world.settle()
    assert world.seqs(ROOM) == [2, 3]


def test_a_silent_node_after_the_resume_is_dropped() -> None:
    """Also when the client had stopped reading from the first connection, and so did not mind its silence."""
    world = greeted()
    world.state.pause()
    world.give_token()
    world.to_server.clear()
    assert world.state.deadline is not None
    world.wait(world.state.deadline - world.now)
    assert not world.connected


# --- a first connection that ends ----------------------------------------------------------------------------


def test_the_first_connection_breaks_while_the_second_opens() -> None:
    """Then there is nothing to overlap with: the client comes back as from any break."""
    world = greeted()
    world.server.say(ROOM)
    world.cut()
    assert world.next_outgoing is None
    world.give_token()
    world.settle()
    assert world.seqs(ROOM) == [2]
    assert world.state.next.deadline is None


def test_a_close_that_ends_the_client_ends_it_here_too() -> None:
    """Who is signed out does not come back through the second connection."""
    world = greeted()
    world.cut(CloseCode.auth_failed)
    assert world.state.phase == "ended"
    assert world.next_outgoing is None
    assert world.state.deadline is None


def test_the_user_ends_the_client_before_its_time() -> None:
    """Nothing is opened for a client that has ended."""
    world = moving()
    world.do(world.state.end(1000, ""))
    assert world.state.deadline is None
    world.wait(AFTER)
    assert world.next_outgoing is None


def test_the_last_words_of_the_first_connection_are_not_those_of_the_second() -> None:
    """`closing` came before the switch; when the second connection breaks, the client comes back all the same."""
    world = greeted()
    replaced = plain(events.Closing(code=CloseCode.replaced, reason=""))
    world.do(world.state.receive(ServerFrame("closing", replaced), world.now))
    world.give_token()
    world.cut()
    world.settle()
    assert world.state.phase == "live"


def test_a_refusal_of_the_new_node_ends_the_client() -> None:
    """What is true of a resume is true of this one: an account that is gone does not come back."""
    world = greeted()
    world.give_token()
    error = plain(events.Error(code="AUTH_TOKEN_INVALID", message="", details={}))
    world.do(world.state.receive(ServerFrame("error", error), world.now))
    assert world.state.phase == "ended"


def test_an_expiring_token_and_a_move_need_one_token() -> None:
    """The new token goes out with the resume, which prolongs the session."""
    world = greeted()
    expiring = plain(events.TokenExpiring(expires_at="2026-01-01T00:00:00Z"))  # type: ignore[arg-type]
    world.token_wanted = False
    frames = [
        effect.frame
        for effect in [
            *world.state.receive(ServerFrame("token_expiring", expiring), world.now),
            *world.state.authorize("fresh"),
        ]
        if isinstance(effect, Send)
    ]
    assert [(frame.event, frame.data.token) for frame in frames] == [("resume", "fresh")]


# --- whatever happens --------------------------------------------------------------------------------------------


def _moving(step: Callable[[MovingWorld], object]) -> Callable[[World, int], object]:
    return lambda world, _: step(world) if isinstance(world, MovingWorld) else None


MOVES: dict[str, Callable[[World, int], object]] = {
    "migrate": _moving(MovingWorld.migrate),
    "next": _moving(MovingWorld.step_next),
    "token": _moving(MovingWorld.give_token),
    "former": _moving(MovingWorld.step_former),
    "cut next": _moving(MovingWorld.cut_next),
    "wait": lambda world, _: world.wait(1.0),
}
"""What else may happen."""


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*ACTIONS, *OFTEN, *MOVES, "next", "token", "migrate"]), max_size=80),
    st.sampled_from([JSON, MSGPACK]),
)
def test_every_event_once_and_in_order_whatever_happens(actions: list[str], codec: Codec) -> None:
    """Moves, cuts, lost sessions and lagging in any order: no event twice, none missing, each command answered."""
    world = moving(codec)
    for number, action in enumerate(actions):
        {**ACTIONS, **MOVES}[action](world, number)
    world.settle()
    world.server.drained()
    world.server.say(ROOM)
    world.settle()
    assert world.seqs(ROOM) == list(range(2, world.server.head(ROOM) + 1))
    assert world.seqs(OTHER) == sorted(set(world.seqs(OTHER)))
    assert {room: state.seq for room, state in world.state.chatrooms.items()} == {
        room: world.server.head(room) for room in world.server.member_of
    }
    assert len(world.server.created) == len(set(world.server.created))
    for answers in world.answers.values():
        assert len(answers) == 1
        assert isinstance(answers[0], events.Event) or "outcome is unknown" in str(answers[0])


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("move_at", range(12))
def test_a_move_anywhere_changes_nothing(codec: Codec, move_at: int) -> None:
    """Before any step of an exchange the client may move; it ends like one that stayed."""
    world = moving(codec)
    steps: list[Callable[[], object]] = []
    for number in range(3):
        steps += [
            lambda number=number: world.submit(send(f"m{number}")),  # type: ignore[misc]
            world.step_server,
            lambda number=number: world.submit(commands.CreateChatroom(name=f"r{number}")),  # type: ignore[misc]
            world.step_client,
        ]
    for number, step in enumerate(steps):
        if number == move_at:
            world.wait(AFTER)
            world.step_next()
            world.give_token()
        step()
        world.step_former()
    world.settle()
    assert world.resumes == 1
    assert world.seqs(ROOM) == [2, 3, 4]
    assert world.server.created == ["r0", "r1", "r2"]
    assert world.state.chatrooms == {ROOM: listing(ROOM, 4)}
