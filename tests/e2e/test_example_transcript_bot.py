from __future__ import annotations

import signal
from pathlib import Path

from gateway.client import connect
from tests.e2e.bots import make_bot
from tests.e2e.program import running
from tests.e2e.server import Server
from tests.e2e.test_client_files import next_message


async def test_transcript(common_server: Server, tmp_path: Path) -> None:
    """It answers its word with a file that holds what was said before; it stops when told."""
    ann = await common_server.person()
    bot = await make_bot(common_server, ann)
    room = await common_server.chatroom(ann, bot)
    async with (
        connect(common_server.ws, ann.token) as client,
        running("transcript_bot.py", bot.token, common_server.ws) as program,
    ):
        await program.prints(f"{bot.username} listens in 1 chatrooms")
        for text in ("first", "zweitens: naïve"):
            await client.send_message(room, text)
        asked = (await client.send_message(room, "!transcript")).message
        while (message := await next_message(client, room)).user_id == ann.id:
            pass
        assert (message.message_type, message.reply_to) == ("file", asked.id)
        (attached,) = message.attachments
        saved = await client.download_file(attached, tmp_path)
        await program.stop(signal.SIGTERM)
    assert saved.name == "transcript.txt"
    lines = saved.read_text("utf-8").splitlines()
    assert [line.partition(f"{ann.username}: ")[2] for line in lines] == ["first", "zweitens: naïve"]
