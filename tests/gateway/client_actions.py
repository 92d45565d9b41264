"""What may happen to a client, for tests that let it happen in any order."""

from __future__ import annotations

from collections.abc import Callable

from protocol import commands
from tests.gateway.client_shapes import OTHER, ROOM, send
from tests.gateway.client_world import World

ACTIONS: dict[str, Callable[[World, int], object]] = {
    "say": lambda world, _: world.server.say(ROOM),
    "lose": lambda world, _: world.server.say(ROOM, lost=True),
    "join or leave": lambda world, _: world.server.toggle(OTHER),
    "send": lambda world, number: world.submit(send(f"m{number}")),
    "create": lambda world, number: world.submit(commands.CreateChatroom(name=f"r{number}")),
    "answer syncs": lambda world, _: world.server.run_syncs(),
    "client": lambda world, _: world.step_client(),
    "server": lambda world, _: world.step_server(),
    "cut": lambda world, _: world.cut(),
    "forget": lambda world, _: world.server.forget(),
    "lag": lambda world, _: world.server.lag(),
    "drained": lambda world, _: world.server.drained(),
    "wait": lambda world, _: world.wait(8.0),
}
"""What may happen; the number tells one time from another."""

OFTEN = ["say", "client", "client", "client", "client", "server", "server", "wait"]
