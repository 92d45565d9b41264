"""A bot that joins two chatrooms into one: what is written in either is copied to the other.

    PARLEY_TOKEN=ply_… python examples/bridge.py ws://127.0.0.1:8000/ws CHATROOM CHATROOM

It has to be a member of both, and runs until Ctrl-C or SIGTERM. PARLEY_TOKEN holds a bot's API key with the scopes
`read` and `write`, or the access token of an account of its own: what that account writes is not copied.

What it shows: nothing is lost and nothing comes twice, whenever it is stopped, killed or cut off.

- How far it got is its read position in each chatroom, which the server keeps. It begins there by reading the history;
  a `history_gap` is filled in the same way.
- A copy's `client_id` is made from the id of the message, so copying again changes nothing.
- Messages are copied one after the other, so copies have the order of the originals.
- Its own messages are the copies, and stay where they are: two chatrooms make no loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from uuid import UUID

from gateway.client import ChatError, Client, connect
from protocol.models import Message


class Bridge:
    """Copies between two chatrooms. `done` says up to which seq of each."""

    def __init__(self, client: Client, one: UUID, other: UUID) -> None:
        self._client = client
        self._across = {one: other, other: one}
        self._done = {room: client.chatrooms[room].last_read_seq for room in (one, other)}

    async def run(self) -> None:
        """What was written while nobody listened, and then what comes."""
        for room in self._across:
            await self._catch_up(room)
        print("the bridge is open", flush=True)
        async for event in self._client:
            if event.chatroom_id not in self._across:
                continue
            if event.event == "message_received":
                await self._copy(event.data.message)
            elif event.event == "history_gap":
                await self._catch_up(event.chatroom_id)

    async def _catch_up(self, room: UUID) -> None:
        """Reads the history on from where copying has come to; oldest first, page by page."""
        more = True
        while more:
            page = await self._client.fetch_messages(room, after=self._done[room], limit=100)
            for message in page.messages:
                await self._copy(message)
            more = page.pagination.has_more

    async def _copy(self, message: Message) -> None:
        """Copies one message, unless that is done, and then says how far it has come."""
        room = message.chatroom_id
        if message.seq <= self._done[room]:
            return
        if message.user_id != self._client.user.id and message.message_type == "text":
            await self._send(self._across[room], message)
        self._done[room] = message.seq
        await self._client.message_read(room, seq=message.seq)

    async def _send(self, room: UUID, message: Message) -> None:
        text = message.content if isinstance(message.content, str) else "(only members of the other chatroom can read)"
        copy_id = f"bridge-{message.id}"
        try:
            await self._client.send_message(room, f"{message.username}: {text}", client_id=copy_id)
        except ChatError as error:
            if error.code != "MESSAGE_TOO_LONG":
                raise  # such as no longer being a member: a bridge with one end is none
            await self._client.send_message(room, f"{message.username}: (a very long message)", client_id=copy_id)


async def bridge(url: str, token: str, one: UUID, other: UUID) -> None:
    """One connection hears and writes in both chatrooms."""
    async with connect(url, token) as client:
        await Bridge(client, one, other).run()


async def main(url: str, one: str, other: str) -> None:
    """Runs until it is told to stop. What is under way then is done again at the next start."""
    running = asyncio.create_task(bridge(url, os.environ["PARLEY_TOKEN"], UUID(one), UUID(other)))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
