"""Two people talk end to end: the server passes on what it cannot read.

    python examples/end_to_end.py http://127.0.0.1:8000

Makes two accounts and a chatroom on a running Parley, has each write to the other from a device of
their own, shows what the server has of it, and stops. The devices are files in a directory that is
removed at the end; an application keeps them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

from gateway.client import Client, Device, connect
from protocol.commands import CreateChatroom
from protocol.models import EncryptedContent, Message

SECONDS = 60.0
"""How long all of it may take."""


def register(url: str, name: str) -> str:
    """Makes an account, and returns its access token."""
    username = f"{name}-{uuid4().hex[:8]}"
    body = {"username": username, "email": f"{username}@example.com", "password": uuid4().hex, "display_name": name}
    request = urllib.request.Request(
        f"{url}/api/v1/auth/register", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        token: str = json.load(answer)["data"]["access_token"]
        return token


async def next_message(client: Client) -> Message:
    """The next message of somebody else."""
    async for event in client:
        if event.event == "message_received" and event.data.message.user_id != client.user.id:
            message: Message = event.data.message
            return message
    raise RuntimeError("the client ended")


async def talk(ann: Client, bob: Client) -> None:
    """A chatroom that takes encrypted content only, a message and its answer."""
    made: Any = await ann.call(CreateChatroom(name="Tea", encryption_enabled=True, user_ids=[bob.user.id]))
    room_id = made.chatroom.id

    await ann.room(room_id).send_encrypted("Hello Bob, only you can read this.")
    received = await next_message(bob)
    assert isinstance(received.content, EncryptedContent)
    print(f"The server has: {received.content.encrypted_data[:40]}… under key {received.content.key_version}")
    print(f"Bob reads: {await bob.room(room_id).open(received)}")

    await bob.room(room_id).send_encrypted("Hello Ann. Nobody else can.", reply_to=received.id)
    print(f"Ann reads: {await ann.room(room_id).open(await next_message(ann))}")


async def main(url: str) -> None:
    """Both people, each with a device of their own."""
    url = url.rstrip("/")
    tokens = [await asyncio.to_thread(register, url, name) for name in ("Ann", "Bob")]
    with tempfile.TemporaryDirectory() as directory:
        devices = [Device.load(Path(directory) / f"{name}.device") for name in ("ann", "bob")]
        async with (
            asyncio.timeout(SECONDS),
            connect(f"{url}/ws", tokens[0], device=devices[0]) as ann,
            connect(f"{url}/ws", tokens[1], device=devices[1]) as bob,
        ):
            print(f"Ann's device: {ann.keys.fingerprint}")
            print(f"Bob's device: {bob.keys.fingerprint}")
            await talk(ann, bob)
            for mine, other in ((ann, bob), (bob, ann)):
                for known in await mine.keys.fingerprints(other.user.id):
                    print(f"{mine.user.display_name} knows {known.fingerprint} ({known.trust})")
            print("Safety number, the same at both ends if nobody stands between:")
            print(f"  Ann sees {await ann.keys.safety_number(bob.user.id)}")
            print(f"  Bob sees {await bob.keys.safety_number(ann.user.id)}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
