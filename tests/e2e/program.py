"""Programs in processes of their own: an example, started as its docstring says, and commands beside a server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.e2e.server import Server

ROOT = Path(__file__).parents[2]


class Program:
    """A running example."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def prints(self, text: str) -> None:
        """Waits for a line that holds this."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while text not in (line := (await self.process.stdout.readline()).decode()):
                assert line, f"it ended without {text!r}"

    async def stop(self, number: signal.Signals) -> None:
        """Tells it to stop; it has to do so by itself, and in good order."""
        self.process.send_signal(number)
        async with asyncio.timeout(20):
            output, _ = await self.process.communicate()
        assert self.process.returncode == 0
        assert b"Traceback" not in output

    async def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def running(name: str, token: str, *arguments: str) -> AsyncIterator[Program]:
    """Starts an example: its file, its token, its arguments."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "examples" / name), *arguments),
        env={**os.environ, "PYTHONPATH": str(ROOT), "PARLEY_TOKEN": token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def parley(server: Server, *arguments: str, status: int = 0) -> str:
    """What a command prints that has to end with this status, beside the running server."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        env=server.environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode == status, output
    return output.decode()
