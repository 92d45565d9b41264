from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from gateway.client import ChatroomLost, ClientEvent, HistoryGap
from gateway.terminal.view import TYPING_LASTS, View
from protocol import events
from protocol.models import (
    FOREVER,
    Attachment,
    Chatroom,
    ChatroomState,
    ChatroomSummary,
    EncryptedContent,
    Member,
    Message,
    User,
)

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)
TIME = NOW.astimezone().strftime("%H:%M")
ANN, BOB, CY = (
    User(id=UUID(int=n), username=name, display_name=name) for n, name in enumerate(("ann", "bob", "cy"), 1)
)
TEA, INK = UUID(int=100), UUID(int=200)


def state(id: UUID, name: str) -> ChatroomState:
    """A chatroom as the client knows it."""
    return ChatroomState(id=id, kind="group", name=name, role="member", seq=1, last_read_seq=0)


def chatroom(id: UUID, name: str) -> Chatroom:
    """A chatroom as the server tells it."""
    return Chatroom(
        id=id,
        kind="group",
        name=name,
        description=None,
        owner_id=ANN.id,
        is_private=True,
        max_members=10,
        member_count=2,
        encryption_enabled=False,
        auto_summary_enabled=False,
        summary_threshold=50,
        seq=1,
        created_at=NOW,
        updated_at=NOW,
    )


def summary(id: UUID, name: str) -> ChatroomSummary:
    """A row of the list."""
    return ChatroomSummary(
        id=id,
        kind="group",
        name=name,
        description=None,
        is_private=True,
        member_count=1,
        encryption_enabled=False,
        last_message=None,
        unread_count=3,
        role="member",
        joined_at=NOW,
        last_read_seq=0,
        seq=1,
    )


def member(user: User, **changes: Any) -> Member:
    """Someone in a chatroom."""
    known: dict[str, Any] = {"role": "member", "last_read_seq": 0, "last_read_at": None, "joined_at": NOW}
    return Member(
        user_id=user.id, username=user.username, display_name=user.username, avatar_url=None, **(known | changes)
    )


def muted(until: datetime | None) -> events.MemberMuted:
    """Bob has muted cy, or lets cy write again."""
    return events.MemberMuted(chatroom_id=TEA, user_id=CY.id, muted_until=until, muted_by=BOB.id)


def message(user: User, seq: int, content: Any = "hi", room: UUID = TEA, at: datetime = NOW) -> Message:
    """A message."""
    return Message(
        id=UUID(int=1000 + seq),
        chatroom_id=room,
        seq=seq,
        user_id=user.id,
        username=user.username,
        display_name=user.username,
        avatar_url=None,
        content=content,
        message_type="text",
        reply_to=None,
        created_at=at,
    )


class World:
    """A view of ann's, with a clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.states = {TEA: state(TEA, "Tea"), INK: state(INK, "Ink")}
        self.view = View(ANN, self.states, lambda: NOW.astimezone(), lambda: self.seconds)

    def open(self, *messages: Message) -> list[str]:
        """Ann opens Tea, in which bob is online."""
        members = (member(ANN), member(BOB))
        fetched = events.ChatroomFetched(chatroom=chatroom(TEA, "Tea"), members=members, user_role="member")
        online = events.ChatroomOpened(chatroom_id=TEA, seq=1, online_count=2, online=(ANN.id, BOB.id))
        return self.view.opened(fetched, online, messages)

    def hear(self, name: str, data: Any) -> list[str]:
        """An event comes."""
        return self.view.event(ClientEvent(name, data))

    def say(self, user: User, seq: int, **more: Any) -> list[str]:
        """A message comes."""
        return self.hear("message_received", events.MessageReceived(message=message(user, seq, **more)))

    def types(self, user: User, is_typing: bool = True, room: UUID = TEA) -> list[str]:
        """Someone begins or stops typing."""
        return self.hear(
            "typing_indicator",
            events.TypingIndicator(chatroom_id=room, user_id=user.id, username=user.username, is_typing=is_typing),
        )

    def reads(self, user: User, seq: int, room: UUID = TEA) -> list[str]:
        """Someone has read."""
        return self.hear("read_receipt", events.ReadReceipt(chatroom_id=room, user_id=user.id, seq=seq, read_at=NOW))


@pytest.fixture
def world() -> World:
    """Ann, before she has done anything."""
    return World()


def test_rooms(world: World) -> None:
    """The list numbers the chatrooms; a number, a name or an id then finds one, and a name may find several."""
    assert world.view.rooms([summary(INK, "Ink"), summary(TEA, "Tea")]) == [
        "  1  Ink  (1 member, 3 unread)",
        "  2  Tea  (1 member, 3 unread)",
    ]
    assert [world.view.find(words) for words in ("2", "tea", str(INK), "3", "0", "no")] == [
        [TEA],
        [TEA],
        [INK],
        [],
        [],
        [],
    ]
    world.states[INK] = state(INK, "TEA")
    assert world.view.find("Tea") == [TEA, INK]
    assert world.view.rooms([]) == ["You are in no chatroom yet: /create NAME makes one."]


def test_opening(world: World) -> None:
    """An open chatroom shows its newest messages, oldest first; those of other days bear their date."""
    yesterday = NOW - timedelta(days=1)
    day = yesterday.astimezone().strftime("%Y-%m-%d %H:%M")
    assert world.open(message(BOB, 5, at=yesterday), message(ANN, 6)) == [
        "--- Tea (2 members) ---",
        f"{day} bob: hi",
        f"{TIME} ann: hi",
    ]


def test_messages_come_once(world: World) -> None:
    """What the history showed does not come again as an event."""
    world.open(message(BOB, 5), message(BOB, 6))
    assert [world.say(BOB, seq) for seq in (5, 6, 7, 7)] == [[], [], [f"{TIME} bob: hi"], []]


def test_older_messages(world: World) -> None:
    """History goes on before the oldest message shown, and has an end."""
    world.open(message(BOB, 5))
    assert world.view.oldest == 5
    assert world.view.history([message(BOB, 3), message(BOB, 4)]) == [f"{TIME} bob: hi"] * 2
    assert world.view.oldest == 3
    assert world.view.history([]) == ["--- no older messages ---"]
    assert world.say(BOB, 6) == [f"{TIME} bob: hi"]


def test_history_of_a_chatroom_that_was_empty(world: World) -> None:
    """The oldest message is the first that came."""
    world.open()
    world.say(BOB, 4)
    assert world.view.oldest == 4


def test_other_chatrooms(world: World) -> None:
    """A message of a chatroom that is not open says where it is from."""
    world.open()
    assert world.say(BOB, 9, room=INK, content="a\nb") == [f"[Ink] {TIME} bob: a", "      | b"]


def test_content_that_cannot_be_read(world: World) -> None:
    """What only members' keys open is told to be there."""
    world.open()
    sealed = EncryptedContent(encrypted_data="x", iv="y", key_version=1)
    assert world.say(BOB, 9, content=sealed) == [f"{TIME} bob: (encrypted end to end)"]


def test_status(world: World) -> None:
    """The line below says who is there, who types, and who has read the user's newest message."""
    assert world.view.status().startswith("no chatroom is open")
    world.open(message(ANN, 5))
    assert world.view.status() == "Tea · 2 online"
    world.types(BOB)
    assert world.view.status() == "Tea · 2 online · bob types…"
    world.types(CY)
    world.reads(BOB, 5)
    world.reads(ANN, 5)
    assert world.view.status() == "Tea · 2 online · bob, cy type… · read by bob"
    world.say(ANN, 6)
    world.types(CY, is_typing=False)
    assert world.view.status() == "Tea · 2 online · bob types…"


def test_typing_ends(world: World) -> None:
    """A typist who writes is none any more, and neither is one who says nothing for a while."""
    world.open()
    world.types(BOB)
    world.types(CY)
    world.say(BOB, 9)
    assert world.view.typing() == ["cy"]
    world.seconds = TYPING_LASTS
    assert world.view.typing() == []


def test_other_chatrooms_do_not_show_below(world: World) -> None:
    """Typing and reading elsewhere is not shown."""
    world.open(message(ANN, 5))
    world.types(BOB, room=INK)
    world.reads(BOB, 5, room=INK)
    assert world.view.status() == "Tea · 2 online"


def test_a_large_chatroom(world: World) -> None:
    """Where only the number of those online is told, that is shown."""
    fetched = events.ChatroomFetched(chatroom=chatroom(TEA, "Tea"), members=(), user_role="member")
    world.view.opened(fetched, events.ChatroomOpened(chatroom_id=TEA, seq=1, online_count=300), [])
    assert world.view.status() == "Tea · 300 online"
    world.hear("presence_count", events.PresenceCount(chatroom_id=TEA, online_count=301))
    world.hear("presence_count", events.PresenceCount(chatroom_id=INK, online_count=9))
    assert world.view.status() == "Tea · 301 online"


def test_coming_and_going(world: World) -> None:
    """Members, roles, names and presence are told in a line each."""
    world.open()
    joined = events.UserJoined(chatroom_id=TEA, user=CY, member=member(CY), chatroom=chatroom(TEA, "Tea"))
    renamed = events.ChatroomUpdated(chatroom=chatroom(TEA, "Coffee"))
    assert [
        world.hear("user_joined", joined),
        world.hear("user_online", events.UserOnline(user_id=CY.id, username="cy")),
        world.hear("member_updated", events.MemberUpdated(chatroom_id=TEA, user_id=CY.id, role="moderator")),
        world.hear("member_muted", muted(NOW)),
        world.hear("member_muted", muted(FOREVER)),
        world.hear("member_muted", muted(None)),
        world.hear("user_left", events.UserLeft(chatroom_id=TEA, user_id=CY.id, removed_by=None)),
        world.hear("user_offline", events.UserOffline(user_id=CY.id, username="cy")),
        world.hear("chatroom_updated", renamed),
        world.hear("something_new", {}),
    ] == [
        ["* cy joined Tea"],
        ["* cy is online"],
        ["* cy is now moderator of Tea"],
        [f"* cy may not write before {NOW.astimezone():%H:%M} in Tea"],
        ["* cy may not write in Tea"],
        ["* cy may write again in Tea"],
        ["* cy left Tea"],
        ["* cy is offline"],
        ["* Tea is now called Coffee"],
        [],
    ]


def test_being_added(world: World) -> None:
    """Who is added to a chatroom is told how to open it."""
    joined = events.UserJoined(chatroom_id=TEA, user=ANN, member=member(ANN), chatroom=chatroom(TEA, "Tea"))
    assert world.hear("user_joined", joined) == ["* you are now in Tea: /join Tea"]


@pytest.mark.parametrize(
    ("name", "data", "line"),
    [
        ("user_left", events.UserLeft(chatroom_id=TEA, user_id=ANN.id, removed_by=BOB.id), "* Tea is no longer yours"),
        ("chatroom_lost", ChatroomLost(chatroom_id=TEA), "* Tea is no longer yours"),
        ("chatroom_deleted", events.ChatroomDeleted(chatroom_id=TEA, user_id=BOB.id), "* Tea was deleted"),
    ],
)
def test_losing_a_chatroom(world: World, name: str, data: Any, line: str) -> None:
    """A chatroom that is gone is closed, and its name is still known."""
    world.open()
    world.view.status()
    del world.states[TEA]
    assert world.hear(name, data) == [line]
    assert world.view.open is None


def test_a_gap(world: World) -> None:
    """What did not come is told, with what to do."""
    gap = HistoryGap(chatroom_id=TEA, from_seq=3, to_seq=900)
    assert world.hear("history_gap", gap) == ["! Tea: some messages did not come; /join it again"]


def test_names_are_as_hostile_as_messages(world: World) -> None:
    """Names of people and chatrooms are printed as text, too."""
    eve = User(id=CY.id, username="e\x1b[2Jve", display_name="eve")
    world.states[TEA] = state(TEA, "T\x1b]0;x\x07ea\nann: hi")
    world.open(message(eve, 5))
    world.types(eve)
    shown = [
        *world.open(message(eve, 5)),
        *world.view.rooms([summary(TEA, world.states[TEA].name)]),
        *world.view.who([member(eve)]),
        *world.hear("user_online", events.UserOnline(user_id=eve.id, username=eve.username)),
        *world.say(eve, 9, room=INK),
        world.view.status(),
    ]
    assert all(line.isprintable() for line in shown)


def test_who(world: World) -> None:
    """Members are listed with their role, and a star for those who are online."""
    assert world.view.who([member(ANN, role="owner", is_online=True), member(BOB)]) == [
        "  * ann (owner)",
        "    bob",
        "  (* is online)",
    ]


def attached(name: str, **changes: Any) -> Attachment:
    """A file in a message."""
    known: dict[str, Any] = {"id": UUID(int=7), "file_type": "text/plain", "file_size": 12_345, "encrypted_url": "/f"}
    return Attachment(filename=name, **(known | changes))


def test_files(world: World) -> None:
    """Files stand below the words, numbered for saving; a name is safe to print; a sealed one has no number."""
    world.open()
    sealed = attached("file", encrypted=EncryptedContent(encrypted_data="x", iv="y", key_version=1))
    said = replace(message(BOB, 2, ""), attachments=(attached("a\x1b[2J.txt"), sealed, attached("b")))
    assert world.view.message(said) == [
        f"{TIME} bob: ",
        "  file 1: a\u241b[2J.txt (text/plain, 12,345 bytes)",
        "  a file of 12,345 bytes (encrypted end to end)",
        "  file 2: b (text/plain, 12,345 bytes)",
    ]
    assert world.view.message(replace(message(BOB, 3), attachments=(attached("c"),)))[1].startswith("  file 3: c")
    found = [world.view.file(number) for number in ("1", "2", "3", "0", "4", "x", "")]
    assert [file and file.filename for file in found] == ["a\x1b[2J.txt", "b", "c", None, None, None, None]
