from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from protocol.framing import Preface
from tests.fuzz.targets import SAID, TARGETS, call, stream

RUNS = 3_000


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    """Each parser takes what it is made for, and no single byte cut off or changed makes it fail otherwise."""
    target = TARGETS[name]()
    for seed in target.seeds:
        target.check(seed)
        target.check(seed[:-1])
        target.check(seed[:-1] + bytes((seed[-1] ^ 1,)))


@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris has wheels for CPython on Linux x86-64 only")
def test_fuzz(tmp_path: Path) -> None:
    """Some thousand inputs for each parser, made by what they reach in the code, bring nothing to light."""
    bounds = [f"--runs={RUNS}", "--seconds=6", "--seed=1"]
    command = [sys.executable, "-m", "tests.fuzz", *bounds, f"--keep={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-4_000:]
    assert len(re.findall(r"^Done \d+ runs", done.stderr, re.MULTILINE)) == len(TARGETS)


def test_a_client_s_stream_is_heard() -> None:
    """The streams that fuzzing begins with come through the server's pump whole, so that their mutations go deep."""
    for preface in (Preface(msgpack=True), Preface(noise=True), Preface(noise=True, keyed=True)):
        for piece in (1, 7, 10_000):
            heard = call(stream(preface, SAID), piece, clear=True)
            assert heard.payloads == SAID
