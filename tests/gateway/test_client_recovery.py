from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import commands, events, models
from protocol.codec import JSON, MSGPACK, Codec, ServerFrame
from protocol.errors import ChatError
from tests.gateway.client_actions import ACTIONS, OFTEN
from tests.gateway.client_shapes import (
    ME,
    NOW,
    OTHER,
    ROOM,
    listing,
    plain,
    room_id,
    send,
    spoken,
)
from tests.gateway.client_world import World, opened


@pytest.fixture(params=[JSON, MSGPACK], ids=["json", "msgpack"])
def world(request: pytest.FixtureRequest) -> World:
    """A client with a session, and a member of ROOM, whose last event is 1."""
    return opened(request.param)


# --- breaks --------------------------------------------------------------------------------------------


def test_a_cut_session_is_resumed(world: World) -> None:
    """What was sent during the break comes once, without a sync, and the session is the same."""
    session = world.state.session_id
    world.server.say(ROOM)
    world.cut()
    world.server.say(ROOM)
    world.settle()
    assert world.seqs(ROOM) == [2, 3]
    assert world.state.session_id == session


def test_after_a_lost_session_each_chatroom_is_caught_up(world: World) -> None:
    """A new session says where rooms stand; the client syncs from what it had."""
    world.cut()
    world.server.say(ROOM)
    world.server.forget()
    world.settle()
    assert world.seqs(ROOM) == [2]


def test_a_new_session_tells_which_chatrooms_came_and_went(world: World) -> None:
    """Memberships that changed unseen are told by `chatroom_lost` and `chatroom_gained`."""
    world.cut()
    world.server.forget()
    world.server.leave(ROOM)
    world.server.join(OTHER)
    world.settle()
    assert world.names() == ["chatroom_lost", "chatroom_gained"]
    assert world.state.chatrooms == {OTHER: listing(OTHER, 1)}


def test_a_list_that_is_behind_does_not_bring_events_twice(world: World) -> None:
    """A node that has not heard of the newest events lists a lower seq; what was delivered stays delivered."""
    world.server.say(ROOM)
    world.settle()
    ready = events.Ready(
        session_id=room_id(5), resume_token="r", user=ME, chatrooms=(listing(ROOM, 1),), token_expires_at=NOW
    )
    world.do(world.state.receive(ServerFrame("ready", plain(ready)), 0.0))
    world.do(world.state.receive(spoken(2), 0.0))
    assert world.seqs(ROOM) == [2]


def test_opened_chatrooms_are_opened_again(world: World) -> None:
    """A new session knows nothing of the rooms that were open on the old one."""
    world.submit(commands.JoinChatroom(chatroom_id=ROOM))
    world.settle()
    world.cut()
    world.server.forget()
    world.wait(31.0)
    for _ in range(2):
        world.step_client()
        world.step_server()
    world.step_client()
    assert "join_chatroom" in world.sent()


@pytest.mark.parametrize("handled", [0, 1, 2, 3])
def test_after_resume_only_unhandled_commands_are_sent_again(handled: int) -> None:
    """The server says how many frames it took; the ones behind that come again, in order, and none before it."""
    world = opened()
    ids = [world.submit(commands.CreateChatroom(name=f"r{number}")) for number in range(3)]
    for _ in range(handled):
        world.step_server()
    world.cut()
    world.settle()
    assert world.server.created == ["r0", "r1", "r2"]
    assert all(len(world.answers[id]) == 1 for id in ids)


def test_a_command_that_may_not_be_doubled_fails_with_its_session(world: World) -> None:
    """Handled or not: nobody knows once the session is lost, so the caller decides."""
    id = world.submit(commands.CreateChatroom(name="r"))
    world.step_server()
    world.cut()
    world.server.forget()
    world.settle()
    (error,) = world.answers[id]
    assert isinstance(error, ChatError)
    assert error.code == "SERVICE_UNAVAILABLE"
    assert "unknown" in error.message
    assert world.server.created == ["r"]


def test_a_count_that_outlives_its_session_saves_the_unhandled(world: World) -> None:
    """`session_reset` with `handled` shows that a command was never seen: then it may be sent again."""
    world.submit(send())
    world.settle()
    id = world.submit(commands.CreateChatroom(name="r"))
    world.cut()
    assert world.server.session is not None
    world.server.session.trimmed = 99
    world.settle()
    assert isinstance(world.answers[id][0], events.ChatroomChanged)
    assert world.server.created == ["r"]


def test_an_unanswered_message_is_sent_again_with_its_client_id(world: World) -> None:
    """After a lost session a message goes out again; the server knows it by its `client_id`."""
    id = world.submit(send())
    world.step_server()
    world.cut()
    world.server.forget()
    world.settle()
    (answer,) = world.answers[id]
    assert isinstance(answer, events.MessageSent)
    assert answer.duplicate
    assert world.seqs(ROOM) == [2]


def test_an_abandoned_command_is_not_sent_later(world: World) -> None:
    """Who gives up waiting while there is no session does not find the message sent afterwards."""
    world.cut()
    world.state.abandon(world.submit(send()))
    world.settle()
    assert world.server.messages == {}


def test_an_abandoned_command_on_its_way_still_counts(world: World) -> None:
    """A frame that was sent has its number; giving it up does not confuse the counting."""
    world.state.abandon(world.submit(commands.CreateChatroom(name="a")))
    world.submit(commands.CreateChatroom(name="b"))
    world.step_server()
    world.cut()
    world.settle()
    assert world.server.created == ["a", "b"]


def test_a_new_session_counts_from_zero(world: World) -> None:
    """Both counts begin anew: after the next break nothing is handled twice and nothing is missed."""
    world.submit(send())
    world.settle()
    world.cut()
    world.server.forget()
    world.settle()
    for number in range(2):
        world.submit(commands.CreateChatroom(name=f"r{number}"))
    world.step_server()
    world.server.say(ROOM)
    world.cut()
    world.settle()
    assert world.server.created == ["r0", "r1"]
    assert world.seqs(ROOM) == [2, 3]


def test_the_count_goes_on_over_several_breaks(world: World) -> None:
    """Frames that the server never saw do not count."""
    for number in range(3):
        world.submit(commands.CreateChatroom(name=f"r{number}"))
        world.cut()
        world.settle()
    world.submit(commands.CreateChatroom(name="r3"))
    world.submit(commands.CreateChatroom(name="r4"))
    world.step_server()
    world.cut()
    world.settle()
    assert world.server.created == ["r0", "r1", "r2", "r3", "r4"]


def test_an_error_before_the_session_is_back_does_not_count(world: World) -> None:
    """Only frames of the session are counted, not those of an opening that failed."""
    world.cut()
    world.server.say(ROOM)
    world.wait(31.0)
    error = events.Error(code="SERVICE_UNAVAILABLE", message="", details={})
    world.do(world.state.receive(ServerFrame("error", plain(error)), world.now))
    world.settle()
    assert world.seqs(ROOM) == [2]


def test_a_sync_that_was_lost_with_its_session_is_asked_for_anew(world: World) -> None:
    """The new session is asked once, from what is known then."""
    world.server.say(ROOM, lost=True)
    world.server.say(ROOM)
    world.step_client()
    assert world.sent() == ["sync"]
    world.cut()
    world.server.forget()
    world.wait(31.0)
    for _ in range(4):
        world.step_client()
        world.step_server()
    assert len(world.server.syncs) == 1
    assert world.sent() == []
    world.settle()
    assert world.seqs(ROOM) == [2, 3]


def test_closed_chatrooms_are_not_opened_again(world: World) -> None:
    """`leave_chatroom` is remembered over a lost session, and so is the loss of the chatroom itself."""
    world.server.join(OTHER)
    for room in (ROOM, OTHER):
        world.submit(commands.JoinChatroom(chatroom_id=room))
    world.submit(commands.LeaveChatroom(chatroom_id=ROOM))
    world.settle()
    world.cut()
    world.server.forget()
    world.server.member_of.discard(OTHER)
    world.wait(31.0)
    for _ in range(2):
        world.step_client()
        world.step_server()
    world.step_client()
    assert world.state.phase == "live"
    assert world.sent() == []


def test_a_return_that_was_held_back_outlives_the_departure(world: World) -> None:
    """The return came before the lost departure did: both are delivered, and the room begins at the return."""
    world.do(world.state.receive(spoken(3), 0.0))
    world.server.leave(ROOM)
    world.server.say(ROOM)
    world.server.join(ROOM)
    departure = world.server.outgoing.popleft()
    world.step_client()
    world.server.outgoing.append(departure)
    world.step_client()
    assert world.seqs(ROOM) == [2, 4]
    assert world.state.chatrooms[ROOM].seq == 4


@pytest.mark.parametrize(
    ("to", "brought", "delivered", "asks"),
    [(4, [], ["history_gap"], False), (4, [2], ["message_received"], True), (1, [], [], True)],
)
def test_a_sync_that_brings_less_than_it_says(to: int, brought: list[int], delivered: list[str], asks: bool) -> None:
    """As long as a sync helps it is repeated; if it brings nothing of what it promised, that is told as a gap."""
    world = opened()
    world.do(world.state.receive(spoken(4), 0.0)) if not brought and to > 1 else None
    world.do(world.state.receive(ServerFrame("lagging", {"chatrooms": {str(ROOM): 4}}), 0.0))
    id = world.codec.decode(world.to_server.popleft()).id
    for seq in brought:
        world.do(world.state.receive(spoken(seq), 0.0))
    verdict = models.SyncedRoom(from_seq=1, to_seq=to, verdict="complete")
    world.do(world.state.receive(ServerFrame("synced", plain(events.Synced(chatrooms={ROOM: verdict})), id), 0.0))
    assert world.names() == delivered
    assert world.sent() == (["sync"] if asks else [])


# --- lagging -------------------------------------------------------------------------------------------


def test_lagging_is_answered_by_sync(world: World) -> None:
    """A slow reader is told where its rooms are and catches up."""
    world.server.lag()
    world.server.say(ROOM)
    world.server.say(ROOM)
    world.server.drained()
    world.settle()
    assert world.seqs(ROOM) == [2, 3]


def test_a_chatroom_lost_while_lagging_is_told(world: World) -> None:
    """The removal itself was left out, and `lagging` was lost with the connection: a sync finds it all the same."""
    world.server.lag()
    world.server.leave(ROOM)
    world.server.drained()
    world.cut()
    world.settle()
    assert world.names() == ["chatroom_lost"]
    assert world.state.chatrooms == {}


def test_a_chatroom_that_was_found_is_synced_at_once(world: World) -> None:
    """An event between the answer that found it and the first one delivered of it is not missed."""
    world.server.join(OTHER)
    world.server.outgoing.clear()
    world.do(world.state.receive(ServerFrame("lagging", {"chatrooms": {str(OTHER): 1}}), world.now))
    world.step_server()
    world.step_client()
    assert world.sent() == ["sync"]


def test_a_chatroom_joined_while_lagging_is_found(world: World) -> None:
    """`lagging` may name a room whose beginning was left out; nothing after its discovery is missed."""
    world.server.lag()
    world.server.join(OTHER)
    world.server.drained()
    while world.step_client() or world.step_server():
        world.server.say(OTHER) if world.server.head(OTHER) < 3 else None
    world.settle()
    world.server.say(OTHER)
    world.settle()
    gained = next(event for event in world.delivered if event.event == "chatroom_gained")
    assert world.seqs(OTHER) == list(range(gained.data.seq + 1, world.server.head(OTHER) + 1))


# --- whatever happens --------------------------------------------------------------------------------------


def script(world: World) -> list[Callable[[], object]]:
    """An exchange with something of everything, as steps."""
    talk: list[Callable[[], object]] = [
        lambda: world.submit(commands.JoinChatroom(chatroom_id=ROOM)),
        lambda: world.submit(send("m1")),
        lambda: world.server.say(ROOM),
        lambda: world.server.say(ROOM, lost=True),
        lambda: world.submit(commands.CreateChatroom(name="r")),
        lambda: world.server.say(ROOM),
        lambda: world.server.join(OTHER),
        lambda: world.submit(send("m2")),
        lambda: world.server.leave(OTHER),
    ]
    return [step for action in talk for step in (action, world.step_client, world.step_server)]


@pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])
@pytest.mark.parametrize("cut_at", range(27))
def test_a_cut_anywhere_changes_nothing(codec: Codec, cut_at: int) -> None:
    """Cut before any step and resumed, the exchange ends like the uncut one."""
    world = opened(codec)
    for number, step in enumerate(script(world)):
        if number == cut_at:
            world.cut()
            world.wait(31.0)
        step()
    world.settle()
    world.server.say(ROOM)
    world.settle()
    assert world.seqs(ROOM) == list(range(2, 8))
    assert world.seqs(OTHER) == [1, 2]
    assert world.server.created == ["r"]
    assert [len(answers) for answers in world.answers.values()] == [1, 1, 1, 1]
    assert world.state.chatrooms == {ROOM: listing(ROOM, 7)}


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*ACTIONS, *OFTEN]), max_size=80), st.sampled_from([JSON, MSGPACK]))
def test_every_event_once_and_in_order_whatever_happens(actions: list[str], codec: Codec) -> None:
    """Cuts, lost sessions, lost hints and lagging in any order: no event twice, none missing, each command answered."""
    world = opened(codec)
    for number, action in enumerate(actions):
        ACTIONS[action](world, number)
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
