"""Carries out what the user types and shows what happens, until either has an end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from gateway.client import ChatError, Client, ClientClosed, ClientEvent, FileChanged, connect
from gateway.terminal.account import Account
from gateway.terminal.screen import Pipes, Screen, Terminal
from gateway.terminal.text import plain
from gateway.terminal.typed import HELP, Do, Say, Typed, Typist, Wrong, first_word, parse
from gateway.terminal.view import View
from protocol import commands
from protocol.commands import Command
from protocol.events import MessageSent

PAGE = 20
"""Messages of history shown at once."""

LAST_EVENTS = 5.0
"""Seconds at the end in which what was sent may still come back and be shown."""

READ_EVERY = 1.0
"""Seconds between two read positions that are told; commands are limited, and only the newest position counts."""

TICK = 1.0
"""Seconds between two looks at whether the user still types."""


async def run(url: str, account: Account, room: str | None) -> None:
    """A conversation, until stdin ends or the user quits. Raises ClientClosed if the server ends it for good."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal without UTF-8 is no reason to fail
    async with connect(url, account.token) as client:
        view = View(client.user, client.chatrooms, datetime.now, time.monotonic)
        await Shell(client, account, view).run(room)


class Shell:
    """The client, what the user sees of it, and the tasks between."""

    def __init__(self, client: Client, account: Account, view: View) -> None:
        self._client = client
        self._account = account
        self._view = view
        self._typist = Typist()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sent: dict[UUID, int] = {}
        self._heard: dict[UUID, int] = {}
        self._came = asyncio.Event()
        self._reading: asyncio.Queue[tuple[UUID, int]] = asyncio.Queue(1)
        self._screen: Screen = (
            Terminal(view.status, self._typed) if sys.stdin.isatty() and sys.stdout.isatty() else Pipes()
        )
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "rooms": self._rooms,
            "join": self._join,
            "create": self._create,
            "invite": self._invite,
            "mute": self._mute,
            "unmute": self._unmute,
            "ban": self._ban,
            "unban": self._unban,
            "send": self._send,
            "save": self._save,
            "who": self._who,
            "history": self._history,
            "help": self._help,
        }

    async def run(self, room: str | None) -> None:
        """Begins with the list of chatrooms, or in this one."""
        logging.getLogger("parley.client").addHandler(_Told(self._screen))
        hearing = asyncio.create_task(self._hear())
        aside = [asyncio.create_task(self._watch_typing()), asyncio.create_task(self._tell_read())]
        talking = asyncio.create_task(self._talk(room))
        try:
            await asyncio.wait({hearing, talking}, return_when=asyncio.FIRST_COMPLETED)
            for task in (hearing, talking):
                if task.done():
                    task.result()
        finally:
            for task in (hearing, talking, *aside, *self._tasks):
                task.cancel()
            await asyncio.gather(hearing, talking, *aside, *self._tasks, return_exceptions=True)

    # --- out: what happens ---------------------------------------------------------------------

    async def _hear(self) -> None:
        async for event in self._client:
            self._show(self._view.event(event))
            if event.chatroom_id is not None and event.seq is not None:
                self._take(event.chatroom_id, event.seq, event)

    def _take(self, chatroom_id: UUID, seq: int, event: ClientEvent) -> None:
        self._heard[chatroom_id] = seq
        self._came.set()
        by_others = event.event == "message_received" and event.data.message.user_id != self._client.user.id
        if by_others and chatroom_id == self._view.open:
            if self._reading.full():
                self._reading.get_nowait()
            self._reading.put_nowait((chatroom_id, seq))

    async def _tell_read(self) -> None:
        while True:
            chatroom_id, seq = await self._reading.get()
            with contextlib.suppress(ChatError, ClientClosed):
                await self._client.message_read(chatroom_id, seq=seq)
            await asyncio.sleep(READ_EVERY)

    def _show(self, lines: list[str]) -> None:
        self._screen.show(lines)

    def _soon(self, doing: Coroutine[Any, Any, Any]) -> None:
        """Does something that nobody waits for, and that is no loss if it fails."""

        async def do() -> None:
            with contextlib.suppress(ChatError, ClientClosed):
                await doing

        task = asyncio.create_task(do())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- in: what the user types -----------------------------------------------------------------

    async def _talk(self, room: str | None) -> None:
        self._show([f"You are {plain(self._client.user.username)}. /help lists what you can do."])
        await self._do(Do("join", room) if room else Do("rooms"))
        async for line in self._screen.lines():
            self._tell_typing(self._typist.stopped())
            typed = parse(line)
            if typed == Do("quit"):
                break
            await self._do(typed)
        await self._until_heard()

    async def _do(self, typed: Typed) -> None:
        try:
            match typed:
                case Say(text):
                    await self._say(text)
                case Do(name, argument):
                    await self._commands[name](argument)
                case Wrong(why):
                    self._show([f"! {plain(why)}"])
        except ChatError as error:
            unsent = f" (not sent: {plain(typed.text)})" if isinstance(typed, Say) else ""
            self._show([f"! {plain(error.message)}{unsent}"])
        except (OSError, FileChanged) as error:
            self._show([f"! {plain(str(error))}"])

    async def _until_heard(self) -> None:
        """What the user sent is shown when it comes back; at the end that is waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_EVENTS):
                while any(seq > self._heard.get(room, 0) for room, seq in self._sent.items()):
                    self._came.clear()
                    await self._came.wait()

    def _opened(self) -> UUID:
        if self._view.open is None:
            raise ChatError("CHATROOM_NOT_FOUND", "No chatroom is open: /rooms lists yours, /join ROOM opens one.")
        return self._view.open

    # --- typing --------------------------------------------------------------------------------

    def _typed(self, text: str) -> None:
        self._tell_typing(self._typist.changed(text, time.monotonic()))

    async def _watch_typing(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._tell_typing(self._typist.tick(time.monotonic()))

    def _tell_typing(self, types: bool | None) -> None:
        room = self._view.open
        if room is not None and types is not None:
            self._soon(self._client.typing_start(room) if types else self._client.typing_stop(room))

    # --- commands ------------------------------------------------------------------------------

    async def _say(self, text: str) -> None:
        self._note(await self._client.send_message(self._opened(), text))

    def _note(self, sent: MessageSent) -> None:
        self._sent[sent.message.chatroom_id] = sent.message.seq

    async def _send(self, argument: str) -> None:
        path, words = first_word(argument)
        self._note(await self._client.send_file(self._opened(), _path(path), words))

    async def _save(self, argument: str) -> None:
        number, path = first_word(argument)
        file = self._view.file(number)
        if file is None:
            raise ChatError("FILE_NOT_FOUND", f"No file {number} was shown.")
        saved = await self._client.download_file(file, _path(first_word(path)[0] or "."))
        self._show([f"* saved as {plain(str(saved))}"])

    async def _rooms(self, _: str) -> None:
        listed = await self._client.call(commands.ListChatrooms(limit=100))
        self._show(self._view.rooms(listed.chatrooms))

    async def _join(self, words: str) -> None:
        found = self._view.find(words)
        if not found:
            raise ChatError("CHATROOM_NOT_FOUND", f"You are in no chatroom {words}: /rooms lists yours.")
        if len(found) > 1:
            raise ChatError("CHATROOM_NOT_FOUND", f"Several are called {words}: /rooms, then /join and its number.")
        await self._open(found[0])

    async def _open(self, chatroom_id: UUID) -> None:
        if self._view.open not in (None, chatroom_id):
            await self._client.leave_chatroom(self._opened())
        opened = await self._client.join_chatroom(chatroom_id)
        fetched = await self._client.call(commands.GetChatroom(chatroom_id=chatroom_id))
        page = await self._client.fetch_messages(chatroom_id, limit=PAGE)
        self._show(self._view.opened(fetched, opened, reversed(page.messages)))
        await self._client.message_read(chatroom_id, seq=fetched.chatroom.seq)

    async def _create(self, name: str) -> None:
        changed = await self._client.call(commands.CreateChatroom(name=name))
        await self._open(changed.chatroom.id)

    async def _invite(self, username: str) -> None:
        chatroom_id = self._opened()
        user_id = await self._account.find(username)
        added = await self._client.call(commands.AddMembers(chatroom_id=chatroom_id, user_ids=[user_id]))
        if not added.added:
            self._show([f"* {plain(username)} is a member already"])

    async def _mute(self, username: str) -> None:
        await self._moderate(commands.MuteMember, username, duration_seconds=None)

    async def _unmute(self, username: str) -> None:
        await self._moderate(commands.UnmuteMember, username)

    async def _ban(self, username: str) -> None:
        await self._moderate(commands.BanMember, username)
        self._show([f"* {plain(username)} is banned"])

    async def _unban(self, username: str) -> None:
        await self._moderate(commands.UnbanMember, username)
        self._show([f"* {plain(username)} is no longer banned"])

    async def _moderate(self, kind: Callable[..., Command], username: str, **more: Any) -> None:
        chatroom_id = self._opened()
        user_id = await self._account.find(username)
        await self._client.call(kind(chatroom_id=chatroom_id, user_id=user_id, **more))

    async def _who(self, _: str) -> None:
        fetched = await self._client.call(commands.GetChatroom(chatroom_id=self._opened()))
        self._show(self._view.who(fetched.members))

    async def _history(self, _: str) -> None:
        before = self._view.oldest or None
        page = await self._client.fetch_messages(self._opened(), before=before, limit=PAGE)
        self._show(self._view.history(reversed(page.messages)))

    async def _help(self, _: str) -> None:
        self._show(HELP.splitlines())


def _path(typed: str) -> Path:
    """As a shell would take it."""
    return Path(typed).expanduser()


class _Told(logging.Handler):
    """What the client logs, such as that it connects again, among the other lines."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Shows one record."""
        self._screen.show([f"! {plain(record.getMessage())}"])
