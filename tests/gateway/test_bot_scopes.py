"""What bots may do, by their scopes."""

from __future__ import annotations

from uuid import uuid4

import pytest

from gateway.actions.bots import NEEDED, SCOPES, check_scope
from gateway.actor import Actor
from gateway.chat import ACTIONS, ANONYMOUS
from protocol import commands
from protocol.commands import Command
from protocol.errors import ChatError
from protocol.models import Scope, User
from rest.routes import ROUTES

ROOM = uuid4()
USER = User(id=uuid4(), username="robo", display_name="Robo")


def actor(*scopes: Scope) -> Actor:
    """A bot with these scopes."""
    return Actor(USER, uuid4(), None, scopes=frozenset(scopes))


def test_every_command_has_a_place() -> None:
    """No command is forgotten: who adds one says what a bot needs for it."""
    assert set(NEEDED) == {*ACTIONS, *commands.SOCKET_COMMANDS.values(), *(route.command for route in ROUTES)}
    assert set(ANONYMOUS) < {command for command, needed in NEEDED.items() if needed == "person"}


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        (commands.FetchMessages(chatroom_id=ROOM), "read"),
        (commands.SendMessage(chatroom_id=ROOM, content="x"), "write"),
        (commands.CreateChatroom(name="x"), "manage"),
    ],
)
def test_one_scope_is_not_another(command: Command, needed: Scope) -> None:
    """A scope gives its own commands and no others."""
    others = [scope for scope in SCOPES if scope != needed]
    check_scope(actor(needed), command)
    with pytest.raises(ChatError) as refused:
        check_scope(actor(*others), command)
    assert (refused.value.code, refused.value.details) == ("RESOURCE_ACCESS_DENIED", {"scope": needed})


def test_people_and_bots() -> None:
    """Bots have no bots and no account to sign out of; their own profile is theirs; people may do everything."""
    for command in (commands.Logout(), commands.ListBots()):
        with pytest.raises(ChatError, match="RESOURCE_ACCESS_DENIED"):
            check_scope(actor(*SCOPES), command)
        check_scope(Actor(USER, uuid4(), None), command)
    check_scope(actor(), commands.GetAccount())
    check_scope(None, commands.Register(username="ann", email="a@b.c", password="a long password"))
