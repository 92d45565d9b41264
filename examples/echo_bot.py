"""A bot that says again what it is told: `!echo hello` is answered with `hello`.

    PARLEY_TOKEN=ply_… python examples/echo_bot.py ws://127.0.0.1:8000/ws

It answers in every chatroom that it is a member of, until Ctrl-C or SIGTERM. PARLEY_TOKEN holds a bot's API key with
the scopes `read` and `write`, or an access token. Any URL of gateway/client_address.py will do.

What it shows:

- Reconnecting, catching up and sending again are the client's business; the loop below is all there is.
- Each answer has a `client_id` made from the message that it answers. Whatever happens in between, one message has one
  answer, even if two copies of this bot run.
- A bot that answers anything at all answers other bots, too, for ever. This one wants a word, and its answers lose it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

from gateway.client import ChatError, Client, connect
from protocol.models import Message

WORD = "!echo "


async def answer(client: Client, message: Message) -> None:
    """Answers one message, if it is for us. A refusal, as in a chatroom that was just left, is no reason to stop."""
    content = message.content
    if message.user_id == client.user.id or not isinstance(content, str) or not content.startswith(WORD):
        return
    text = content.removeprefix(WORD)
    try:
        await client.send_message(message.chatroom_id, text, reply_to=message.id, client_id=f"echo-{message.id}")
    except ChatError as error:
        print(f"not answered: {error}", file=sys.stderr)


async def echo(url: str, token: str) -> None:
    """Answers one message after the other, so that answers have the order of what they answer."""
    async with connect(url, token) as client:
        print(f"{client.user.username} listens in {len(client.chatrooms)} chatrooms", flush=True)
        async for event in client:
            if event.event == "message_received":
                await answer(client, event.data.message)


async def main(url: str) -> None:
    """Runs until it is told to stop."""
    running = asyncio.create_task(echo(url, os.environ["PARLEY_TOKEN"]))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
