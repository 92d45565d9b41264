"""A bot that answers with a file: whoever says `!transcript` gets what was said lately, as a text file.

    PARLEY_TOKEN=ply_… python examples/transcript_bot.py ws://127.0.0.1:8000/ws

It answers in every chatroom that it is a member of, until Ctrl-C or SIGTERM. PARLEY_TOKEN holds a bot's API key with
the scopes `read` and `write`: the second one uploads, too.

What it shows:

- A file is made on disk and sent in one call. The client streams it, and goes on by itself if the connection breaks.
- The answer has a `client_id` made from the message that it answers, so that one message has one answer. A second copy
  of the bot uploads a file that stands in no message then, and the server drops it after a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

from gateway.client import ChatError, Client, connect
from protocol.models import Message

WORD = "!transcript"
LATELY = 100


async def transcript(client: Client, message: Message) -> str:
    """The messages before this one, oldest first, a line each."""
    page = await client.fetch_messages(message.chatroom_id, before=message.seq, limit=LATELY)
    said = [one for one in reversed(page.messages) if isinstance(one.content, str)]
    return "".join(f"{one.created_at:%Y-%m-%d %H:%M} {one.username}: {one.content}\n" for one in said)


async def answer(client: Client, message: Message, folder: Path) -> None:
    """Answers one message, if it is for us. A refusal, as of too many uploads, is no reason to stop."""
    if message.user_id == client.user.id or message.content != WORD:
        return
    path = folder / f"{message.id}.txt"
    try:
        path.write_text(await transcript(client, message), "utf-8")
        await client.send_file(
            message.chatroom_id,
            path,
            name="transcript.txt",
            reply_to=message.id,
            client_id=f"transcript-{message.id}",
        )
    except ChatError as error:
        print(f"not answered: {error}", file=sys.stderr)
    finally:
        path.unlink(missing_ok=True)


async def run(url: str, token: str) -> None:
    """Answers one message after the other."""
    with tempfile.TemporaryDirectory() as folder:
        async with connect(url, token) as client:
            print(f"{client.user.username} listens in {len(client.chatrooms)} chatrooms", flush=True)
            async for event in client:
                if event.event == "message_received":
                    await answer(client, event.data.message, Path(folder))


async def main(url: str) -> None:
    """Runs until it is told to stop."""
    running = asyncio.create_task(run(url, os.environ["PARLEY_TOKEN"]))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
