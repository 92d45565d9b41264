from __future__ import annotations

import asyncio
import sys

import pytest

from tests.e2e.server import Server


@pytest.mark.parametrize("arguments", [(), ("--workers", "2")], ids=["one", "workers"])
@pytest.mark.parametrize("setting", ["PARLEY_HTTP", "PARLEY_TCP"])
async def test_a_taken_port(common_server: Server, setting: str, arguments: tuple[str, ...]) -> None:
    """A port that is taken is a refusal to start in one line, which names the setting."""
    address = f"127.0.0.1:{common_server.port}"
    free = {"PARLEY_HTTP": "127.0.0.1:0", "PARLEY_TCP": "127.0.0.1:0"}
    env = {**common_server.environment(), **free, setting: address}
    second = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "serve",
        *arguments,
        env=env,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(second.communicate(), 30)
    assert second.returncode == 2
    assert said.decode().startswith(f"Error: {setting} is {address}, where Parley cannot listen:")
    assert len(said.decode().splitlines()) == 1
