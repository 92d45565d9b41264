"""A client that runs in a process of its own: `python -m tests.faults.listener URL TOKEN CHATROOM`.

It prints where the chatroom stands, and then the seq of each event.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from gateway.client import connect


async def listen(url: str, token: str, room: UUID) -> None:
    """Until it is killed."""
    async with connect(url, token) as client:
        print(client.chatrooms[room].seq, flush=True)  # noqa: T201  it is what the program is for
        async for event in client:
            if event.chatroom_id == room:
                print(event.seq, flush=True)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(listen(sys.argv[1], sys.argv[2], UUID(sys.argv[3])))
