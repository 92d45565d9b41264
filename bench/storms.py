"""The storm: sessions are cut in one moment and come back within a window, while somebody else's pings are timed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from uuid import UUID

from bench import report
from bench.load import lag_of_this_loop
from bench.report import Result
from bench.scenarios import Options, Stage, staged
from bench.session import OPEN_SECONDS, BenchSession, Wire
from bench.target import TargetError
from protocol.codec import ClientFrame
from protocol.commands import Ping, Resume

AWAY = 1.0
"""Seconds between the cut and the first return: in between a message is written that all of them miss."""
PROBE_INTERVAL = 0.02
"""Seconds between two pings of the one who was not cut; they do not wait for each other."""
BACKOFF = 1.0
"""Seconds, at most, after which one comes again that was not told when."""
SETTLE_SECONDS = 120.0
"""How long it may take until all are back."""
LAG = "parley_loop_lag_seconds"


class Comeback(BenchSession):
    """Another socket for a session that was cut. `verdict` is how it was taken up; `retry_after` when it was not."""

    def __init__(self, wire: Wire, former: BenchSession) -> None:
        super().__init__(wire, former.token, read_fully=False, line=wire.line(None))
        self.checks = former.checks
        self.verdict = ""
        self.retry_after: float | None = None
        self._former = former
        self._connected = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._connected = True
        super().connection_made(transport)

    def close(self) -> None:
        """Drops the socket, if there was one."""
        self._closing = True
        if self._connected:
            self._transport.abort()

    def _other(self, payload: bytes) -> None:
        frame = self._wire.codec.decode_server(payload)
        if frame.event == "hello":
            self._resume()
        elif frame.event == "resumed":
            self.verdict = "resumed"
            self.opened.set_result(None)
        elif frame.event == "session_reset":
            self.verdict = frame.data["reason"]
        elif frame.event == "error":
            self.retry_after = frame.data.get("retry_after")
            self._fail(frame.data["code"])
        else:
            super()._other(payload)

    def _resume(self) -> None:
        former = self._former
        command = Resume(
            session_id=UUID(former.id), resume_token=former.resume_token, received=former.delivered, token=former.token
        )
        self.send(self._wire.pack(1, self._wire.codec.encode(ClientFrame("resume", command))))


class Probe(BenchSession):
    """Who was not cut, and pings. `waited` are the seconds from the moment each ping was due to its answer."""

    def __init__(self, wire: Wire, token: str) -> None:
        super().__init__(wire, token, read_fully=False)
        self.waited: list[float] = []
        self._due: dict[str, float] = {}

    def _other(self, payload: bytes) -> None:
        frame = self._wire.codec.decode_server(payload)
        if frame.event == "pong" and frame.id is not None:
            self.waited.append(time.perf_counter() - self._due.pop(frame.id))
        else:
            super()._other(payload)

    async def ping_for_ever(self) -> None:
        """One ping an interval, whatever became of those before."""
        began = time.perf_counter()
        for number in count():
            due = began + number * PROBE_INTERVAL
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self._due[str(number)] = due
            self.send(self._wire.pack(1, self._wire.codec.encode(ClientFrame("ping", Ping(), str(number)))))


@asynccontextmanager
async def probing(stage: Stage, token: str) -> AsyncIterator[list[float]]:
    """Somebody pings meanwhile."""
    wire = stage.wire
    probe = Probe(wire, token)
    await asyncio.get_running_loop().create_connection(lambda: probe, wire.host, wire.port, ssl=wire.tls)
    await probe.opened
    task = asyncio.create_task(probe.ping_for_ever())
    try:
        yield probe.waited
    finally:
        task.cancel()
        probe.close()


class Returns:
    """What became of those who came back: verdicts, refusals, and the seconds from each one's first try to its last."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.verdicts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.took: list[float] = []

    async def all(self, sessions: Sequence[BenchSession], window: float) -> list[BenchSession]:
        """Brings all of them back, at random moments of the window. Raises TargetError when some do not come."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS), asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(session, window * random.random())) for session in sessions]
        except TimeoutError as error:
            raise TargetError(f"{len(sessions) - len(self.took)} sessions did not come back") from error
        return [task.result() for task in tasks]

    async def _one(self, former: BenchSession, delay: float) -> BenchSession:
        await asyncio.sleep(delay)
        began = time.perf_counter()
        while (session := await self._try(former)) is None:
            pass
        self.took.append(time.perf_counter() - began)
        self.verdicts[session.verdict] += 1
        return session

    async def _try(self, former: BenchSession) -> Comeback | None:
        wire = self._stage.wire
        session = Comeback(wire, former)
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: session, wire.host, wire.port, ssl=wire.tls)
                await session.opened
        except (OSError, TargetError) as error:
            self.refused[str(error)] += 1
            session.close()
            await asyncio.sleep(session.retry_after or BACKOFF * random.random())
            return None
        return session


async def storm(options: Options) -> list[Result]:
    """Everyone is cut, misses a message, and comes back; someone who was not cut sees how busy the server is."""
    async with staged(options, apart=True) as stage:
        accounts = await stage.accounts(min(options.users, options.connections))
        room = await stage.rest.chatroom(accounts[0], accounts[1:])
        await stage.open(accounts, options.connections)
        cut, returns = stage.sessions, Returns(stage)
        async with probing(stage, accounts[0].token) as waited, lag_of_this_loop() as own_lag:
            lag, usage, own_cpu = await stage.rest.histogram(LAG), stage.server.usage(), time.process_time()
            report.progress("cutting all of them")
            for session in cut:
                session.close()
            await asyncio.sleep(AWAY)
            await stage.rest.message(accounts[0], room, "what everyone misses")
            report.progress("letting them come back")
            began = time.perf_counter()
            stage.sessions = await returns.all(cut, options.duration)
            seconds = time.perf_counter() - began
            after, used = await stage.rest.histogram(LAG), stage.server.usage()
            own_cpu = time.process_time() - own_cpu
        await _all_have_it(stage.sessions)
        return [
            report.stormed(
                stage.sessions,
                returns.verdicts,
                returns.refused,
                stage.idle.failures,
                {
                    "until_all_are_back_s": seconds,
                    **report.times("back_after", returns.took),
                    "loop_lag_p50_ms": report.quantile_ms(lag, after, 0.5),
                    "loop_lag_p99_ms": report.quantile_ms(lag, after, 0.99),
                    **report.times("others_wait", waited),
                    "parley_cpu_s": used.since(usage).server if used and usage else None,
                    "postgres_cpu_s": used.since(usage).postgres if used and usage else None,
                    "generator_cpu_share": own_cpu / (seconds + AWAY),
                    **report.times("generator_lag", own_lag),
                },
            )
        ]


async def _all_have_it(sessions: Sequence[BenchSession]) -> None:
    """The message that was missed comes right behind `resumed`."""
    deadline = time.perf_counter() + BACKOFF
    while any(not session.delivered for session in sessions) and time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
