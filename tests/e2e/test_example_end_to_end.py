"""The example of an end-to-end encrypted conversation runs as it says."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.e2e.server import Server

ROOT = Path(__file__).parents[2]


async def test_end_to_end(common_server: Server) -> None:
    """It shows fingerprints, what the two read, and one safety number at both ends, and stops by itself."""
    program = ROOT / "examples" / "end_to_end.py"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(program),
        common_server.http,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    async with asyncio.timeout(90):
        out, _ = await process.communicate()
    printed = out.decode()
    assert process.returncode == 0
    fingerprints = dict(re.findall(r"^(Ann|Bob)'s device: ((?:[0-9a-f]{4} ){9}[0-9a-f]{4})$", printed, re.MULTILINE))
    assert f"Ann knows {fingerprints['Bob']} (first_use)" in printed
    assert f"Bob knows {fingerprints['Ann']} (first_use)" in printed
    assert "Bob reads: Hello Bob, only you can read this." in printed
    assert "Ann reads: Hello Ann. Nobody else can." in printed
    numbers = re.findall(r"^  (?:Ann|Bob) sees ((?:\d{5} ){11}\d{5})$", printed, re.MULTILINE)
    assert len(numbers) == 2
    assert len(set(numbers)) == 1
