from __future__ import annotations

import asyncio
import signal
from uuid import UUID

from gateway.client import connect
from tests.e2e.bots import make_bot
from tests.e2e.program import running
from tests.e2e.server import Person, Server


async def copied(server: Server, person: Person, room: UUID, last: str) -> list[str]:
    """Waits until this has been copied into a chatroom; all copies in it, in order."""
    async with asyncio.timeout(20):
        while True:
            found = await server.history(person, room)
            copies = [message["content"] for message in found if message["user_id"] != str(person.id)]
            if last in copies:
                return copies
            await asyncio.sleep(0.05)


async def test_bridge(common_server: Server) -> None:
    """Killed and started again, even twice, it copies what was written meanwhile: all, once, in order, no copies."""
    ann, bob = await common_server.people(2)
    bot = await make_bot(common_server, ann)
    tea, ink = await common_server.chatroom(ann, bot), await common_server.chatroom(bob, bot)
    arguments = ("bridge.py", bot.token, common_server.ws, str(tea), str(ink))
    async with connect(common_server.ws, ann.token) as a, connect(common_server.ws, bob.token) as b:
        async with running(*arguments) as program:
            await program.prints("the bridge is open")
            for n in range(10):
                await a.send_message(tea, f"one {n}")
            await copied(common_server, bob, ink, f"{ann.username}: one 3")
            await program.kill()
        await b.send_message(ink, "hello from here")
        for n in range(110):  # more than a page
            await a.send_message(tea, f"two {n}")
        async with running(*arguments) as program, running(*arguments) as twin:
            await program.prints("the bridge is open")
            await twin.prints("the bridge is open")
            await a.send_message(tea, "x" * 16_384)
            await a.send_message(tea, "the end")
            at_bob = await copied(common_server, bob, ink, f"{ann.username}: the end")
            at_ann = await copied(common_server, ann, tea, f"{bob.username}: hello from here")
            await program.stop(signal.SIGTERM)
            await twin.stop(signal.SIGINT)
    texts = [*(f"one {n}" for n in range(10)), *(f"two {n}" for n in range(110)), "(a very long message)", "the end"]
    assert at_bob == [f"{ann.username}: {text}" for text in texts]
    assert at_ann == [f"{bob.username}: hello from here"]


async def test_one_end(common_server: Server) -> None:
    """With one end that it may not write to it ends, and says why."""
    ann, bob = await common_server.people(2)
    bot = await make_bot(common_server, ann)
    tea, ink = await common_server.chatroom(ann, bot), await common_server.chatroom(bob, bot)
    async with running("bridge.py", bot.token, common_server.ws, str(tea), str(ink)) as program:
        await program.prints("the bridge is open")
        await common_server.data("DELETE", f"/chatrooms/{ink}/members/{bot.id}", bob.token)
        await common_server.data("POST", f"/chatrooms/{tea}/messages", ann.token, {"content": "anyone?"})
        output, _ = await asyncio.wait_for(program.process.communicate(), 20)
    assert program.process.returncode == 1
    assert b"CHATROOM_NOT_FOUND" in output
