"""Random faults on proxies, one after the other: what a bad network does to a server's clients."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from bench.faults.proxy import DIRECTIONS, Proxy

PAUSE = 0.5
"""Seconds between two faults of one proxy, at most."""


class Chaos:
    """Spoils proxies until it is cancelled. `done` counts what it has done, by name."""

    def __init__(self, proxies: Sequence[Proxy], dice: random.Random) -> None:
        self._proxies = list(proxies)
        self._dice = dice
        self.done: Counter[str] = Counter()

    async def run(self) -> None:
        """Each proxy has its own fault at any time. Cancelled, it leaves them as they are: `heal` them."""
        async with asyncio.TaskGroup() as tasks:
            for proxy in self._proxies:
                tasks.create_task(self._spoil(proxy, random.Random(self._dice.random())))

    async def _spoil(self, proxy: Proxy, dice: random.Random) -> None:
        while True:
            await asyncio.sleep(dice.uniform(0, PAUSE))
            name = dice.choice(list(FAULTS))
            self.done[name] += 1
            await FAULTS[name](proxy, dice)
            await proxy.heal()


async def _resets(proxy: Proxy, dice: random.Random) -> None:
    proxy.reset_lines(dice.random())


async def _latency(proxy: Proxy, dice: random.Random) -> None:
    proxy.faults.latency, proxy.faults.jitter = dice.uniform(0.01, 0.2), dice.uniform(0.0, 0.2)
    await asyncio.sleep(dice.uniform(1.0, 3.0))


async def _stall(proxy: Proxy, dice: random.Random) -> None:
    proxy.faults.stalled = True
    await asyncio.sleep(dice.uniform(0.3, 3.0))


async def _black_hole(proxy: Proxy, dice: random.Random) -> None:
    proxy.faults.black_hole = True
    await asyncio.sleep(dice.uniform(0.5, 3.0))


async def _refusal(proxy: Proxy, dice: random.Random) -> None:
    proxy.refuse()
    proxy.reset_lines()
    await asyncio.sleep(dice.uniform(0.3, 1.0))


async def _slices(proxy: Proxy, dice: random.Random) -> None:
    proxy.faults.slices = dice.randint(1, 7)
    await asyncio.sleep(dice.uniform(0.5, 2.0))


async def _cuts(proxy: Proxy, dice: random.Random) -> None:
    """Lines break after so many bytes, also in the middle of a frame or of a handshake."""
    proxy.reset_lines(0.5)
    proxy.faults.cut = dice.choice(DIRECTIONS), dice.randint(1, 8_000)
    await asyncio.sleep(dice.uniform(0.5, 2.0))


async def _half_closes(proxy: Proxy, dice: random.Random) -> None:
    for line in list(proxy.lines):
        line.half_close(dice.choice(DIRECTIONS))
    await asyncio.sleep(dice.uniform(0.1, 0.5))


async def _lost_replies(proxy: Proxy, dice: random.Random) -> None:
    """What is sent arrives, and its answers do not."""
    for line in list(proxy.lines):
        line.swallow("down")
    await asyncio.sleep(dice.uniform(0.3, 2.0))


FAULTS: dict[str, Callable[[Proxy, random.Random], Awaitable[None]]] = {
    "resets": _resets,
    "latency": _latency,
    "stalls": _stall,
    "black holes": _black_hole,
    "refusals": _refusal,
    "slices": _slices,
    "cuts": _cuts,
    "half closes": _half_closes,
    "lost replies": _lost_replies,
}
