from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.client_commands import ATTEMPTS, DELAY_CAP, backoff
from gateway.client_effects import ClientClosed, End, Send
from gateway.client_rooms import HELD_LIMIT
from gateway.client_state import REPORT_EVERY
from protocol import commands, events, models
from protocol.codec import JSON, MSGPACK, Codec, ServerFrame
from protocol.errors import ChatError
from tests.gateway.client_world import ME, NOW, World, chatroom, listing, member, message, plain, room_id

ROOM = room_id(1)
OTHER = room_id(2)


@pytest.fixture(params=[JSON, MSGPACK], ids=["json", "msgpack"])
def world(request: pytest.FixtureRequest) -> World:
    """A client with a session, and a member of ROOM, whose last event is 1."""
    return opened(request.param)


def opened(codec: Codec = JSON, sync_limit: int = 500) -> World:
    """A client with a session, and a member of ROOM, whose last event is 1."""
    made = World(codec, sync_limit=sync_limit)
    made.server.join(ROOM)
    made.settle()
    return made


def send(client_id: str = "m1") -> commands.SendMessage:
    """The command for a message to ROOM."""
    return commands.SendMessage(chatroom_id=ROOM, content="hi", client_id=client_id)


def sent(world: World) -> list[Any]:
    """The events of the frames that are on their way to the server."""
    return [world.codec.decode(payload).event for payload in world.to_server]


def spoken(seq: int) -> ServerFrame:
    """The frame of message `seq` in ROOM."""
    return ServerFrame("message_received", plain(events.MessageReceived(message=message(ROOM, seq))), None, ROOM, seq)


def names(world: World) -> list[str]:
    """The names of the events that the user was given."""
    return [event.event for event in world.delivered]


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
    assert sent(world) == (["sync"] if asks else [])


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
    assert sent(world)[0] == "sync"


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
    assert names(world) == ["user_left"]
    assert world.state.chatrooms == {}


def test_a_deleted_chatroom_is_forgotten(world: World) -> None:
    """Nothing follows `chatroom_deleted`."""
    world.server.post(ROOM, "chatroom_deleted", events.ChatroomDeleted(chatroom_id=ROOM, user_id=ME.id))
    world.settle()
    assert (names(world), world.state.chatrooms) == (["chatroom_deleted"], {})


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


def test_the_chatrooms_settings_follow_the_events(world: World) -> None:
    """Name and role in `chatrooms` are those after the last event."""
    world.server.post(ROOM, "chatroom_updated", events.ChatroomUpdated(chatroom=chatroom(ROOM, 2, "new")))
    world.server.post(ROOM, "member_updated", events.MemberUpdated(chatroom_id=ROOM, user_id=ME.id, role="moderator"))
    world.settle()
    assert world.state.chatrooms[ROOM] == listing(ROOM, 3, "new", "moderator")


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
    assert names(world) == ["chatroom_lost", "chatroom_gained"]
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
    assert "join_chatroom" in sent(world)


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
    assert names(world) == ["chatroom_lost"]
    assert world.state.chatrooms == {}


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
    assert "send_message" not in sent(world)
    world.do(world.state.tick(7.5))
    assert "send_message" in sent(world)


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


# --- time ----------------------------------------------------------------------------------------------


def test_the_server_is_told_what_arrived(world: World) -> None:
    """After 256 counted frames the client reports, so that the server can forget them."""
    for _ in range(REPORT_EVERY):
        world.server.say(ROOM)
    world.settle()
    assert world.server.session is not None
    assert world.server.session.trimmed == REPORT_EVERY


def test_a_quiet_line_is_pinged_every_20_seconds(world: World) -> None:
    """Four fifths of the default heartbeat of 25 s."""
    world.wait(19.9)
    assert sent(world) == []
    world.wait(0.1)
    assert sent(world) == ["ping"]


def test_silence_ends_a_connection(world: World) -> None:
    """Nothing heard for a heartbeat and 10 s: the line is dead, and the session goes on over a new one."""
    session = world.state.session_id
    world.wait(34.9)
    assert world.connected
    world.wait(0.1)
    assert not world.connected
    world.settle()
    assert world.state.session_id == session


def test_silence_means_nothing_while_nobody_reads(world: World) -> None:
    """A paused reader hears nothing, and starts counting when it reads on."""
    world.state.pause()
    world.wait(100.0)
    assert world.connected
    world.state.unpause(world.now)
    world.wait(34.9)
    assert world.connected


@pytest.mark.parametrize(("code", "delay"), [(4200, 0.0), (4204, 0.0), (4101, 0.25), (1006, 0.25), (1000, 0.25)])
def test_the_close_code_says_when_to_come_back(code: int, delay: float) -> None:
    """42xx at once, everything else after a backoff; here jitter is one half of half a second."""
    world = opened()
    world.wait(5.0)
    world.cut(code)
    assert world.state.deadline == world.now + delay


def test_a_session_that_ends_at_once_is_not_renewed_at_once() -> None:
    """A server that greets and closes again and again is not stormed."""
    world = opened()
    world.cut(4203)
    assert world.state.deadline == world.now + 0.25


@pytest.mark.parametrize("code", [4000, 4001, 4005, 4099])
def test_some_close_codes_are_the_end(code: int) -> None:
    """4000-4099: the client does not come back."""
    world = opened()
    (end,) = world.state.disconnected(code, "no", 0.0)
    assert isinstance(end, End)
    assert (end.error.code, end.error.reason) == (code, "no")
    assert isinstance(end.error, ClientClosed)
    assert world.state.deadline is None


def test_backoff_grows_to_its_cap() -> None:
    """Each delay may be twice the one before, up to 30 s, and anything below that is as likely."""
    assert [backoff(failures, lambda: 1.0) for failures in range(8)] == [0.5, 1, 2, 4, 8, 16, DELAY_CAP, DELAY_CAP]
    assert backoff(5, lambda: 0.0) == 0.0


def test_an_expiring_token_is_replaced_on_the_live_session(world: World) -> None:
    """`token_expiring` makes the client authenticate again; the session stays."""
    session = world.state.session_id
    expiring = events.TokenExpiring(expires_at=NOW)
    world.do(world.state.receive(ServerFrame("token_expiring", plain(expiring)), 0.0))
    assert sent(world) == ["authenticate"]
    assert world.state.session_id == session


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


ACTIONS: dict[str, Callable[[World, int], object]] = {
    "say": lambda world, _: world.server.say(ROOM),
    "lose": lambda world, _: world.server.say(ROOM, lost=True),
    "join or leave": lambda world, _: world.server.toggle(OTHER),
    "send": lambda world, number: world.submit(send(f"m{number}")),
    "create": lambda world, number: world.submit(commands.CreateChatroom(name=f"r{number}")),
    "answer syncs": lambda world, _: world.server.run_syncs(),
    "client": lambda world, _: world.step_client(),
    "server": lambda world, _: world.step_server(),
    "cut": lambda world, _: world.cut(),
    "forget": lambda world, _: world.server.forget(),
    "lag": lambda world, _: world.server.lag(),
    "drained": lambda world, _: world.server.drained(),
    "wait": lambda world, _: world.wait(8.0),
}
"""What may happen; the number tells one time from another."""

OFTEN = ["say", "client", "client", "client", "client", "server", "server", "wait"]


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


def test_effects_are_handed_out_once(world: World) -> None:
    """A frame is not sent again by the next call."""
    _, effects = world.state.submit(send())
    assert [type(effect) for effect in effects] == [Send]
    assert world.state.tick(0.0) == []
