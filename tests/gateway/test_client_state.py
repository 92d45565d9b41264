from __future__ import annotations

import pytest

from gateway.client_commands import ATTEMPTS
from gateway.client_effects import End, Send
from gateway.client_rooms import HELD_LIMIT
from protocol import commands, events, models
from protocol.codec import JSON, MSGPACK, ServerFrame
from protocol.errors import ChatError
from tests.gateway.client_shapes import (
    ME,
    OTHER,
    ROOM,
    chatroom,
    listing,
    member,
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


# --- opening -----------------------------------------------------------------------------------------


def test_a_session_opens_with_hello_authenticate_ready(world: World) -> None:
    """After `ready` the client knows its user, its session and where each chatroom stands."""
    assert world.state.phase == "live"
    assert world.state.user == ME
    assert world.state.session_id is not None
    assert world.state.chatrooms == {ROOM: listing(ROOM, 1)}
    assert world.delivered == []


def test_a_command_given_without_a_session_waits_for_one() -> None:
    """Commands given while there is no session are sent when one opens, in order."""
    world = World(JSON)
    world.server.join(ROOM)
    ids = [world.submit(send(f"m{number}")) for number in range(3)]
    assert not world.to_server
    world.settle()
    assert [world.answers[id][0].message.seq for id in ids] == [2, 3, 4]  # type: ignore[union-attr]


def test_a_refused_token_ends_the_client() -> None:
    """An error in the opening that would be the same next time is the end, with its code in the reason."""
    world = World(JSON)
    world.do(world.state.tick(0.0))
    error = events.Error(code="AUTH_TOKEN_EXPIRED", message="too old", details={})
    effects = world.state.receive(ServerFrame("error", plain(error)), 0.0)
    assert [str(effect.error) for effect in effects if isinstance(effect, End)] == ["4001: AUTH_TOKEN_EXPIRED: too old"]


def test_an_error_that_may_pass_leads_to_another_attempt() -> None:
    """A server whose database is away does not end the client: it comes back later."""
    world = World(JSON)
    world.do(world.state.tick(0.0))
    error = events.Error(code="SERVICE_UNAVAILABLE", message="", details={})
    world.do(world.state.receive(ServerFrame("error", plain(error)), 0.0))
    assert not world.connected
    world.settle()
    assert world.state.phase == "live"


def test_a_token_for_a_connection_that_is_gone_is_not_used() -> None:
    """A token that arrives after its connection broke opens nothing on the next one before `hello`."""
    world = World(JSON)
    world.do(world.state.tick(0.0))
    world.cut()
    world.wait(31.0)
    assert world.state.authorize("late") == []


# --- events ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arriving", "delivered", "asks"),
    [
        ([2, 3, 4], [2, 3, 4], False),
        ([2, 2, 3], [2, 3], False),
        ([1, 2], [2], False),
        ([3], [], True),
        ([3, 2], [2, 3], True),
        ([4, 3, 2, 5], [2, 3, 4, 5], True),
        ([3, 4, 2, 3, 4], [2, 3, 4], True),
    ],
)
def test_the_next_seq_is_delivered_and_nothing_else(arriving: list[int], delivered: list[int], asks: bool) -> None:
    """Known events are dropped, early ones are held back and make the client ask for what lies between."""
    world = opened()
    for seq in arriving:
        world.do(world.state.receive(spoken(seq), 0.0))
    assert world.seqs(ROOM) == delivered
    assert world.sent() == (["sync"] if asks else [])


def test_a_hole_is_filled_by_sync_while_events_go_on(world: World) -> None:
    """A lost event comes by `sync`, before the live ones that were held back for it."""
    world.server.say(ROOM, lost=True)
    world.server.say(ROOM)
    while world.step_client() or world.step_server():
        pass
    world.server.say(ROOM)
    world.settle()
    assert world.seqs(ROOM) == [2, 3, 4]
    assert world.state.chatrooms[ROOM].seq == 4


def test_more_than_can_be_held_back_is_synced_again() -> None:
    """What is held back is bounded; what did not fit is asked for when the hole before it is filled."""
    world = opened()
    for seq in [*range(3, HELD_LIMIT + 10), 2]:
        world.do(world.state.receive(spoken(seq), 0.0))
    assert world.seqs(ROOM) == list(range(2, HELD_LIMIT + 3))
    verdict = models.SyncedRoom(from_seq=1, to_seq=2, verdict="complete")
    id = world.codec.decode(world.to_server.popleft()).id
    synced = ServerFrame("synced", plain(events.Synced(chatrooms={ROOM: verdict})), id)
    world.to_server.clear()
    world.do(world.state.receive(synced, 0.0))
    assert world.sent()[0] == "sync"


def test_too_much_missed_is_told_as_a_gap() -> None:
    """After `too_long` the user is told from where to where events are missing, and the room goes on behind it."""
    world = opened(sync_limit=5)
    for _ in range(8):
        world.server.say(ROOM, lost=True)
    world.server.say(ROOM)
    world.settle()
    world.server.say(ROOM)
    world.settle()
    gap = world.delivered[0]
    assert (gap.event, gap.data.from_seq, gap.data.to_seq) == ("history_gap", 1, 10)
    assert world.seqs(ROOM) == [11]


def test_data_that_went_back_is_told_as_a_gap() -> None:
    """After a backup was restored the user is told so, and hears what comes next, under numbers that are used again."""
    world = opened()
    for _ in range(5):
        world.server.say(ROOM)
    world.settle()
    world.cut()
    world.server.restore(ROOM, 3)
    world.settle()
    world.server.say(ROOM)
    world.settle()
    gap = world.delivered[-2]
    assert (gap.event, gap.data.from_seq, gap.data.to_seq) == ("history_gap", 6, 3)
    assert world.seqs(ROOM) == [2, 3, 4, 5, 6, 4]


def test_unknown_events_are_handed_on_as_they_are(world: World) -> None:
    """A newer server may have events that this client has no struct for."""
    world.do(world.state.receive(ServerFrame("moon_rose", {"phase": "full"}), 0.0))
    assert (world.delivered[0].event, world.delivered[0].data) == ("moon_rose", {"phase": "full"})


def test_ephemeral_events_pass_through(world: World) -> None:
    """Typing and the like have no seq and change nothing."""
    typing = events.TypingIndicator(chatroom_id=ROOM, user_id=ME.id, username="ann", is_typing=True)
    world.do(world.state.receive(ServerFrame("typing_indicator", plain(typing)), 0.0))
    assert (world.delivered[0].data, world.delivered[0].chatroom_id) == (typing, ROOM)


def test_an_error_without_a_command_is_an_event(world: World) -> None:
    """An error that answers nothing is still shown to the user."""
    error = events.Error(code="VALIDATION_INVALID_FORMAT", message="what?", details={})
    world.do(world.state.receive(ServerFrame("error", plain(error)), 0.0))
    assert (world.delivered[0].event, world.delivered[0].data) == ("error", error)


# --- chatrooms come and go -----------------------------------------------------------------------------


def test_joining_a_chatroom_begins_it_at_that_seq(world: World) -> None:
    """The user's own `user_joined` is the first event of a room, whatever its seq."""
    for _ in range(4):
        world.server.say(OTHER)
    world.server.join(OTHER)
    world.server.say(OTHER)
    world.settle()
    assert world.seqs(OTHER) == [5, 6]
    assert world.state.chatrooms[OTHER] == listing(OTHER, 6)


def test_a_created_chatroom_begins_at_one(world: World) -> None:
    """`chatroom_created` is seq 1 and brings the user's role."""
    world.server.member_of.add(OTHER)
    created = events.ChatroomCreated(chatroom=chatroom(OTHER, 1), members=(member("owner"),))
    world.server.post(OTHER, "chatroom_created", created)
    world.settle()
    assert world.state.chatrooms[OTHER] == listing(OTHER, 1, role="owner")


def test_leaving_is_the_last_event_of_a_chatroom(world: World) -> None:
    """After the user's own `user_left` the room is forgotten, and its later events are not for this user."""
    world.server.leave(ROOM)
    world.settle()
    world.do(world.state.receive(spoken(3), 0.0))
    assert world.names() == ["user_left"]
    assert world.state.chatrooms == {}


def test_a_deleted_chatroom_is_forgotten(world: World) -> None:
    """Nothing follows `chatroom_deleted`."""
    world.server.post(ROOM, "chatroom_deleted", events.ChatroomDeleted(chatroom_id=ROOM, user_id=ME.id))
    world.settle()
    assert (world.names(), world.state.chatrooms) == (["chatroom_deleted"], {})


def test_someone_else_leaving_changes_nothing(world: World) -> None:
    """Only the user's own departure ends a room."""
    world.server.post(ROOM, "user_left", events.UserLeft(chatroom_id=ROOM, user_id=room_id(9), removed_by=None))
    world.settle()
    assert world.state.chatrooms[ROOM].seq == 2


def test_a_return_behind_a_lost_departure_is_found(world: World) -> None:
    """Removed and added again, with the removal lost on the way: the room begins anew at the return."""
    world.server.log[ROOM].append(
        ("user_left", events.UserLeft(chatroom_id=ROOM, user_id=ME.id, removed_by=room_id(9)))
    )
    world.server.say(ROOM, lost=True)
    world.server.join(ROOM)
    world.server.say(ROOM)
    world.settle()
    assert world.seqs(ROOM) == [2, 4, 5]
    assert world.state.chatrooms[ROOM].seq == 5


def test_the_read_position_follows_its_answer(world: World) -> None:
    """`message_read` moves `last_read_seq`."""
    id = world.submit(commands.MessageRead(chatroom_id=ROOM, seq=1))
    position = events.ReadPosition(chatroom_id=ROOM, last_read_seq=1, unread_count=0)
    world.do(world.state.receive(ServerFrame("ack", plain(position), id), 0.0))
    assert world.state.chatrooms[ROOM].last_read_seq == 1


def test_the_chatrooms_settings_follow_the_events(world: World) -> None:
    """Name and role in `chatrooms` are those after the last event."""
    world.server.post(ROOM, "chatroom_updated", events.ChatroomUpdated(chatroom=chatroom(ROOM, 2, "new")))
    world.server.post(ROOM, "member_updated", events.MemberUpdated(chatroom_id=ROOM, user_id=ME.id, role="moderator"))
    world.settle()
    assert world.state.chatrooms[ROOM] == listing(ROOM, 3, "new", "moderator")


# --- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code", "tries"),
    [
        (send(), "SERVICE_UNAVAILABLE", 2),
        (send(), "INTERNAL_ERROR", 2),
        (send(), "CHATROOM_NOT_FOUND", 1),
        (send(), "SOMETHING_NEW", 1),
        (commands.CreateChatroom(name="r"), "SERVICE_UNAVAILABLE", 1),
        (commands.CreateChatroom(name="r"), "RATE_LIMIT_EXCEEDED", 2),
    ],
)
def test_which_errors_lead_to_another_try(command: commands.Command, code: str, tries: int) -> None:
    """Retryable errors do if a repetition is harmless; a command over the rate was not carried out at all."""
    world = opened()
    world.server.errors.append(code)
    id = world.submit(command)
    for _ in range(3):
        world.settle()
        world.wait(2.0)
    (answer,) = world.answers[id]
    assert isinstance(answer, ChatError) == (tries == 1)
    if isinstance(answer, ChatError):
        assert answer.code == code


def test_tries_are_bounded(world: World) -> None:
    """The caller gets the error when six attempts have failed."""
    world.server.errors.extend(["SERVICE_UNAVAILABLE"] * ATTEMPTS)
    id = world.submit(send())
    for _ in range(ATTEMPTS):
        assert world.answers[id] == []
        world.wait(31.0)
        world.settle()
    assert isinstance(world.answers[id][0], ChatError)
    assert not world.server.errors


def test_the_server_says_when_to_try_again(world: World) -> None:
    """`retry_after` is waited for, plus a little."""
    id = world.submit(send())
    error = events.Error(code="RATE_LIMIT_EXCEEDED", message="", details={}, retry_after=7.0)
    world.to_server.clear()
    world.do(world.state.receive(ServerFrame("error", plain(error), id), 0.0))
    world.do(world.state.tick(7.0))
    assert "send_message" not in world.sent()
    world.do(world.state.tick(7.5))
    assert "send_message" in world.sent()


def test_a_sync_is_asked_for_until_it_is_answered(world: World) -> None:
    """Without its verdict a room would stand still, so a sync never gives up."""
    world.server.errors.extend(["INTERNAL_ERROR"] * 10)
    world.server.say(ROOM, lost=True)
    world.server.say(ROOM)
    for _ in range(11):
        world.settle()
        world.wait(20.0)
    world.settle()
    assert world.seqs(ROOM) == [2, 3]


def test_effects_are_handed_out_once(world: World) -> None:
    """A frame is not sent again by the next call."""
    _, effects = world.state.submit(send())
    assert [type(effect) for effect in effects] == [Send]
    assert world.state.tick(0.0) == []
