"""A member of a run that talks by the Python client."""

from __future__ import annotations

import asyncio
from uuid import UUID

from bench.faults.history import Reading
from bench.faults.talker import Talker
from gateway.client import ChatError, Client, ClientClosed, ClientEvent, HistoryGap, connect
from protocol.commands import GetChatroom
from protocol.errors import ERRORS

PAGE = 100
"""Messages in one page of history."""
AGAIN = 0.05
"""Seconds before a message is sent again whose error does not say."""


class ClientTalker(Talker):
    """Leaves reconnecting, resuming and catching up to the client, and writes down what its user gets to see."""

    client: Client | None = None

    def waits(self) -> int:
        """How many messages have no answer yet."""
        return len(self._sending)

    async def run(self, writing: asyncio.Event, stop: asyncio.Event) -> None:
        """Hears from its opening on, and writes between the two moments."""
        self._sending: set[asyncio.Task[None]] = set()
        try:
            member = self.member
            async with connect(member.url, member.token, codec=member.codec, tls=member.tls) as client:
                self.client = client
                for room in self.rooms:
                    self.follow(room, client.chatrooms[room].seq)
                self.opened.set()
                await self._talk(client, writing, stop)
        except ClientClosed as closed:
            self.wrong(f"the client was ended: {closed}")
            self.opened.set()

    async def _talk(self, client: Client, writing: asyncio.Event, stop: asyncio.Event) -> None:
        write = asyncio.create_task(self.write(writing, stop))
        try:
            async for event in client:
                if event.chatroom_id in self.seqs:
                    self._hear(event.chatroom_id, event)
        finally:
            for task in (write, *self._sending):
                task.cancel()

    def _hear(self, room: UUID, event: ClientEvent) -> None:
        if event.seq is not None:
            self.heard(room, event.seq, event.data.message.content if event.event == "message_received" else None)
        elif isinstance(event.data, HistoryGap):
            self.gap(room, event.data.from_seq, event.data.to_seq)
        elif event.event in ("chatroom_lost", "chatroom_gained"):
            self.wrong(f"{event.event}, though the membership never changed")

    # --- writing -------------------------------------------------------------------------------

    def begin_send(self, room: UUID, key: str) -> None:
        """In a task of its own: later messages do not wait for this one."""
        task = asyncio.create_task(self._send(room, key))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self, room: UUID, key: str) -> None:
        assert self.client is not None
        while True:
            try:
                sent = await self.client.send_message(room, key, client_id=key)
            except ClientClosed:
                return
            except ChatError as error:
                if error.code not in ERRORS or not error.kind.retryable:
                    self.refused(room, key, error.code)
                    return
                await asyncio.sleep(min(error.retry_after or AGAIN, 1.0))
            else:
                self.acked(room, key, sent.message.seq)
                return

    # --- reading -------------------------------------------------------------------------------

    async def read(self, room: UUID) -> int:
        """Reads the whole history of a chatroom; the seq of its newest event. Raises ChatError, ClientClosed."""
        assert self.client is not None
        head: int = (await self.client.call(GetChatroom(chatroom_id=room))).chatroom.seq
        messages: list[tuple[int, str]] = []
        more = True
        while more:
            page = await self.client.fetch_messages(room, after=messages[-1][0] if messages else 0, limit=PAGE)
            messages += [(message.seq, str(message.content)) for message in page.messages]
            more = page.pagination.has_more
        self.history.add(Reading(client=self.member.name, room=str(room), messages=messages, head=head))
        return head
