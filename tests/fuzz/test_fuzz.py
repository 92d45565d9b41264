from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

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
@pytest.mark.parametrize("name", TARGETS)
def test_fuzz(name: str, tmp_path: Path) -> None:
    """Some thousand inputs, made by what they reach in the code, bring nothing to light."""
    command = [sys.executable, "-m", "tests.fuzz", name, f"--runs={RUNS}", "--seconds=60", "--seed=1"]
    done = subprocess.run([*command, f"--keep={tmp_path}"], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-4_000:]
    assert "Done " in done.stderr
