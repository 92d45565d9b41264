"""Clocks that are wrong: one node's is an hour behind and another's a day ahead, and it does not matter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.server import Server
from tests.faults.conftest import MakeCluster

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        sys.platform != "linux" or shutil.which("cc") is None,
        reason="a clock is shifted by a library that is preloaded, and that a C compiler makes",
    ),
]

SHIFT = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) { const char *by = getenv("CLOCK_SHIFT"); return by ? atol(by) : 0; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(now, zone);
    if (!failed) now->tv_sec += shift();
    return failed;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
"""
HOUR, DAY = 3_600, 86_400
WEEK = {"PARLEY_ACCESS_TOKEN_LIFE": str(7 * DAY)}
"""Tokens that live as long as this are good on all of these clocks."""


@pytest.fixture
def shifting(tmp_path: Path) -> Path:
    """A library that shifts the time of day of a process it is loaded into first. Clocks that only count stay."""
    source, made = tmp_path / "clock.c", tmp_path / "clock.so"
    source.write_text(SHIFT)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


async def _clock(server: Server) -> datetime:
    """What a node takes for the time."""
    _, answer = await server.call("GET", "/health")
    return datetime.fromisoformat(answer["data"]["timestamp"])


async def test_wrong_clocks(cluster: MakeCluster, shifting: Path) -> None:
    """One node is an hour behind, another a day ahead, a third right: sessions move, and nothing is wrong."""
    made = await cluster(1, settings=WEEK)
    for seconds in (-HOUR, DAY):
        await made.add(settings={"LD_PRELOAD": str(shifting), "CLOCK_SHIFT": str(seconds), **WEEK})
    await made.reopen()
    right, behind, ahead = [await _clock(server) for server in made.servers]
    assert behind < right - timedelta(seconds=HOUR / 2)
    assert ahead > right + timedelta(seconds=DAY / 2)
    load = await made.load()
    await made.note_levels()
    async with load.running():
        for _ in range(5):
            await load.acked(40)
            made.balancer.reset_lines(0.5)
        await load.acked(40)
    report = await made.judge(load)
    assert report.resumes > 0
