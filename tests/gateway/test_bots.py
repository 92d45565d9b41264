"""Bots by public key, and what may happen between a bot's key and its session."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.actor import Actor
from protocol.commands import Command, CreateBot, RevokeBot, RotateBot, UpdateBot
from protocol.errors import ChatError, CloseCode
from protocol.events import BotIssued
from protocol.models import Scope
from tests.e2e.node import Node, Reader, running_node

PUBLIC_KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))


def base64_of(key: bytes) -> str:
    """A public key as its owner gives it."""
    return base64.b64encode(key).decode()


class World:
    """A node, somebody, and a bot of theirs with both keys."""

    def __init__(self, node: Node, owner: Actor, made: BotIssued) -> None:
        self.node = node
        self.owner = owner
        self.bot = made.bot
        self.api_key = made.api_key

    async def by_key(self) -> Actor:
        """The bot, by its API key."""
        return await self.node.chat.authenticate(self.api_key)

    async def by_public_key(self) -> Actor:
        """The bot, by its public key."""
        return await self.node.chat.authenticate_key(PUBLIC_KEY)

    async def open(self, actor: Actor) -> Reader:
        """A session of the bot's, and its socket."""
        socket = Reader(self.node, "")
        session, states = await self.node.door.open(actor, socket, self.node.wire)
        self.node.door.admit(session, states, None)
        return socket

    async def both(self) -> tuple[Reader, Reader]:
        """A session by each key."""
        return await self.open(await self.by_key()), await self.open(await self.by_public_key())

    async def do(self, command: Command) -> Any:
        """The owner gives a command."""
        return await self.node.chat.handle(self.owner, command)


@pytest.fixture
async def world(database_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A bot that may read and write."""
    async with running_node(database_url, tmp_path) as node:
        owner, _ = await node.user("ann")
        scopes: list[Scope] = ["read", "write"]
        command = CreateBot(username="robo", scopes=scopes, public_key=base64_of(PUBLIC_KEY))
        yield World(node, owner, cast("BotIssued", await node.chat.handle(owner, command)))


async def test_by_public_key(world: World) -> None:
    """A public key stands for the same bot as its API key, with the same scopes, by a sign-in of its own."""
    by_key, by_public_key = await world.by_key(), await world.by_public_key()
    assert by_public_key.user == by_key.user
    assert by_public_key.scopes == by_key.scopes == frozenset(world.bot.scopes)
    assert by_public_key.token_expires_at is None
    assert by_public_key.sign_in_id != by_key.sign_in_id
    with pytest.raises(ChatError, match="AUTH_TOKEN_INVALID"):
        await world.node.chat.authenticate_key(OTHER_KEY)


async def test_rotating_leaves_the_public_key(world: World) -> None:
    """A new API key closes the sockets of the old one; who came by the public key stays."""
    by_key, by_public_key = await world.both()
    await world.do(RotateBot(bot_id=world.bot.id))
    assert [by_key.closed, by_public_key.closed] == [CloseCode.auth_failed, None]
    assert (await world.by_public_key()).user.id == world.bot.id


@pytest.mark.parametrize("key", [None, base64_of(OTHER_KEY)])
async def test_another_public_key_leaves_the_api_key(world: World, key: str | None) -> None:
    """Without its public key, or with another, a bot is out by the old one; who came by the API key stays."""
    by_key, by_public_key = await world.both()
    await world.do(UpdateBot(bot_id=world.bot.id, public_key=base64_of(PUBLIC_KEY)))
    assert [by_key.closed, by_public_key.closed] == [None, None]
    await world.do(UpdateBot(bot_id=world.bot.id, public_key=key))
    assert [by_key.closed, by_public_key.closed] == [None, CloseCode.auth_failed]
    with pytest.raises(ChatError, match="AUTH_TOKEN_INVALID"):
        await world.by_public_key()


async def test_revoking_ends_both(world: World) -> None:
    """A revoked bot is out by either key, and its sessions are gone."""
    sockets = await world.both()
    await world.do(RevokeBot(bot_id=world.bot.id))
    assert [socket.closed for socket in sockets] == [CloseCode.auth_failed] * 2
    assert not world.node.hub.sessions
    for way in (world.by_key, world.by_public_key):
        with pytest.raises(ChatError, match="AUTH_TOKEN_INVALID"):
            await way()


async def test_other_scopes_concern_both(world: World) -> None:
    """Who has come by either key has to come again when the scopes change, and then has the new ones."""
    sockets = await world.both()
    await world.do(UpdateBot(bot_id=world.bot.id, scopes=["manage"]))
    assert [socket.closed for socket in sockets] == [CloseCode.session_reset] * 2
    assert (await world.by_key()).scopes == (await world.by_public_key()).scopes == frozenset({"manage"})


@pytest.mark.parametrize("command", [UpdateBot, RotateBot, RevokeBot])
async def test_a_change_between_key_and_session(world: World, command: type[Command]) -> None:
    """Whose key or scopes change after the key was looked at and before the session is known gets no session."""
    actor = await world.by_key()
    fields: dict[str, Any] = {"scopes": ["read"]} if command is UpdateBot else {}
    await world.do(command(bot_id=world.bot.id, **fields))
    with pytest.raises(ChatError, match="AUTH_TOKEN_INVALID"):
        await world.open(actor)
    assert not world.node.hub.sessions


async def test_a_session_keeps_its_scopes(world: World) -> None:
    """A live session takes no key with other scopes, for it may hear what these do not allow."""
    reader = Reader(world.node, world.api_key)
    await reader.open()
    (session,) = world.node.hub.sessions.values()
    session.scopes = frozenset({"read"})  # as if the change had not reached this session yet
    reader.command("authenticate", token=world.api_key)
    await reader.wait_for("error")
    assert reader.frames["error"]["code"] == "AUTH_TOKEN_INVALID"
