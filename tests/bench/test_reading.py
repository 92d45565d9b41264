"""How a generator reads many sockets: alarms are not held up, and what the servers use is counted."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from bench import usage
from bench.clock import Alarm, now_us
from bench.dialect import Dialect
from bench.generator import LOOK_US, LagWatch, Sampler
from bench.load import Load, Window
from bench.session import ROW, Reading, Session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs epoll(7) and proc(5)")


class Hearing:
    """A session that does something with each read."""

    def __init__(self, heard: Callable[[], Any]) -> None:
        self._heard = heard

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes are there."""
        self._heard()


@asynccontextmanager
async def reading_for(heard: Callable[[socket.socket], Any]) -> AsyncIterator[list[socket.socket]]:
    """As many sessions as are read in a row; these are the other ends of their sockets."""
    reading = Reading(cast("Dialect", None), Load(lambda _number, _stamp: None, 0, Window(0, 0)))
    transports, others = [], []
    for _ in range(ROW):
        here, there = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=here)
        reading.read_for(cast("Session", Hearing(partial(heard, there))), transport)
        transports.append(transport)
        others.append(there)
    yield others
    for transport in transports:
        transport.abort()
    await asyncio.sleep(0)
    for there in others:
        there.close()


async def test_an_alarm_rings_while_bytes_come_without_end() -> None:
    """Reading makes room for it, however much there is to read."""
    rung: asyncio.Queue[int] = asyncio.Queue()
    end = now_us() + 5_000_000

    def more(there: socket.socket) -> None:
        if now_us() < end:
            there.send(b"more")

    async with reading_for(more) as others:
        for there in others:
            there.send(b"first")
        alarm = Alarm(lambda: rung.put_nowait(now_us()))
        alarm.set(now_us())
        assert await rung.get() < end
        alarm.close()


async def test_a_stall_is_as_many_late_looks_as_it_is_long() -> None:
    """A generator that stands still for a while was late all that time, and not once."""
    sampler = Sampler()
    watch = LagWatch(sampler)
    stalled = now_us() + 7 * LOOK_US
    while now_us() < stalled:
        pass
    async with asyncio.timeout(20):
        while not sampler.lag:
            await asyncio.sleep(0)
    watch.close()
    assert sum(sampler.lag.values()) >= 7
    assert max(sampler.lag) >= 6 * LOOK_US - LOOK_US // 100  # as exact as buckets are


def test_cpu_counts_all_processes_below() -> None:
    """Also a child's child, and what one has used that has ended."""
    burn = "import time\nwhile time.process_time() < 0.15: pass\n"
    child = f"{burn}{_run(burn)}print('done', flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", _run(_run(child))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"done\n"
        assert usage.cpu_of_tree(process.pid) >= 0.25
        assert process.stdin is not None
        process.stdin.close()
    assert usage.cpu_of_tree(process.pid) == 0


@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="the kernel does not tell")
def test_time_in_which_others_have_the_core_is_told() -> None:
    """Beside another program on its core a generator waits for its turns."""
    before, all_cores = usage.waited(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cores)})
    try:
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
            end = now_us() + 20_000_000
            while usage.waited() < before + 0.01 and now_us() < end:
                pass
            other.kill()
    finally:
        os.sched_setaffinity(0, all_cores)
    assert now_us() < end


def _run(code: str) -> str:
    """Code that runs this in a process of its own."""
    return f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {code!r}])\n"
