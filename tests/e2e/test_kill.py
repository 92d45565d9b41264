"""kill -9 at random moments, under load: the promise that an ack means "on disk", and that nothing comes twice."""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from itertools import cycle, product
from typing import Literal
from uuid import UUID

import pytest

from gateway.client import Client, connect
from tests.e2e.conftest import StartServer
from tests.e2e.server import Person, Server

log = logging.getLogger(__name__)

SENDERS = 20
READERS = 4
KILLS = 20
ROOMS = 4
CODECS: tuple[Literal["json", "msgpack"], ...] = ("json", "msgpack")


class Ledger:
    """What the senders were told: the seq of each acked text, and who has had an ack since it was last asked."""

    def __init__(self) -> None:
        self.acked: dict[str, tuple[UUID, int]] = {}
        self.active: set[int] = set()

    async def send_until(self, stop: asyncio.Event, client: Client, number: int, room: UUID) -> None:
        """One sender at full speed: the next message as soon as the last one is acked."""
        count = 0
        while not stop.is_set():
            text = f"{number}-{count}"
            sent = await client.send_message(room, text)
            assert text not in self.acked
            self.acked[text] = room, sent.message.seq
            self.active.add(number)
            count += 1


class Reader:
    """Follows its rooms by `async for` alone and writes down every seq."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.first = {room: state.seq for room, state in client.chatrooms.items()}
        self.seqs: dict[UUID, list[int]] = defaultdict(list)
        self.texts: dict[UUID, list[str]] = defaultdict(list)

    async def read(self) -> None:
        """Until it is cancelled."""
        async for event in self.client:
            assert event.event == "message_received", event
            assert event.chatroom_id is not None
            assert event.seq is not None
            self.seqs[event.chatroom_id].append(event.seq)
            self.texts[event.chatroom_id].append(event.data.message.content)

    async def caught_up(self, heads: dict[UUID, int]) -> None:
        """Waits until it has come as far as these."""
        while any((self.seqs[room] or [0])[-1] < head for room, head in heads.items()):
            await asyncio.sleep(0.05)


async def _kill_and_restart(server: Server, ledger: Ledger, dice: random.Random) -> None:
    """Kills at a random moment: mostly under full load, at times while clients are still coming back."""
    ledger.active.clear()
    wanted = dice.choice([0, 1, SENDERS // 2, SENDERS // 2, SENDERS // 2])
    async with asyncio.timeout(20):
        while len(ledger.active) < wanted:
            await asyncio.sleep(0.01)
    await asyncio.sleep(dice.uniform(0.0, 0.4))
    await server.kill()
    await server.start()


async def _urls(server: Server) -> list[str]:
    """Every way in: clear and under Noise, whose key is pinned for the one and looked up for the other."""
    key = base64.urlsafe_b64encode(await server.noise_key()).decode()
    return [server.ws, f"{server.ws}?key={key}", server.tcp, server.sealed]


async def _rooms(server: Server, senders: list[Person], readers: list[Person]) -> list[UUID]:
    """Each sender writes in one room; the readers hear them all."""
    return [await server.chatroom(readers[0], *readers[1:], *senders[place::ROOMS]) for place in range(ROOMS)]


@pytest.mark.timeout(240)
async def test_kill_loses_nothing(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """20 senders at full speed, 20 kills: every acked message is in history once, every reader has every seq once.

    The senders share all transports, clear and under Noise, in both encodings; so do the readers.
    """
    # The test is about kills, not about waiting.
    monkeypatch.setattr("gateway.client_commands.RETRY_BASE", 0.05)
    monkeypatch.setattr("gateway.client_commands.DELAY_CAP", 0.3)
    caplog.set_level(logging.ERROR, "parley.client")  # it says each time that the server cannot be reached
    seed = random.randrange(2**32)
    log.warning("seed %d", seed)
    dice = random.Random(seed)
    ledger, stop = Ledger(), asyncio.Event()
    # A reader may miss more than a sync brings; that verdict has tests of its own.
    server = await start_server(PARLEY_LIMIT_SYNC="1000000")
    people = await server.people(SENDERS + READERS)
    ways = list(product(await _urls(server), CODECS))
    assert len(ways) <= min(SENDERS, len(people))
    rooms = await _rooms(server, people[:SENDERS], people[SENDERS:])
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect(url, person.token, codec=codec))
            for person, (url, codec) in zip(people, cycle(ways), strict=False)
        ]
        readers = [Reader(client) for client in clients[SENDERS:]]
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(reader.read()) for reader in readers]
            sending = [
                group.create_task(ledger.send_until(stop, client, number, rooms[number % ROOMS]))
                for number, client in enumerate(clients[:SENDERS])
            ]
            for _ in range(KILLS):
                await _kill_and_restart(server, ledger, dice)
            stop.set()
            async with asyncio.timeout(20):
                await asyncio.gather(*sending)
            history = {room: await server.history(people[-1], room) for room in rooms}
            heads = {room: history[room][-1]["seq"] for room in rooms}
            async with asyncio.timeout(20):
                await asyncio.gather(*(reader.caught_up(heads) for reader in readers))
            for task in reading:
                task.cancel()
    written = {m["content"]: (room, m["seq"]) for room in rooms for m in history[room]}
    repeated = [text for text, n in Counter(m["content"] for room in rooms for m in history[room]).items() if n > 1]
    assert repeated == []
    assert {text: where for text, where in ledger.acked.items() if written.get(text) != where} == {}
    for room in rooms:
        for reader in readers:
            assert reader.seqs[room] == list(range(reader.first[room] + 1, heads[room] + 1))
            assert reader.texts[room] == [m["content"] for m in history[room]]
    assert len(ledger.acked) > KILLS * SENDERS
