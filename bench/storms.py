"""The storm: sessions are cut in one moment, miss messages, and come back within a window.

Somebody who was not cut pings meanwhile.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID

from bench.clock import now_us
from bench.dialect import STAMP_WIDTH, TEXT, Line, Span, Talk
from bench.generator import Generator, LagWatch, Sample, Sampler
from bench.load import Buckets
from bench.parley import ParleyDeployment, ParleyDialect
from bench.rest import Account
from bench.results import Figure, Run, Verdict, distributions
from bench.series import added
from bench.session import Reading, Session
from bench.stage import Stage
from bench.target import TargetError
from bench.validity import percentile, reasons
from protocol.commands import Ping

TRANSPORTS = ("ws", "ws-msgpack")
"""Those whose sessions come back here."""
AWAY = 1.0
"""Seconds between the cut and the first message that all of them miss."""
CATCH_UP_SECONDS = 30.0
"""How long what a session has missed may take behind its `resumed`, until it counts as lost."""
PROBE_US = 20_000
"""Microseconds between two pings of the one who was not cut; they do not wait for each other."""
BACKOFF = 1.0
"""Seconds, at most, after which one comes again that was not told when."""
SETTLE_SECONDS = 120.0
"""How long it may take until all are back."""
LATE_US = 20_000
"""Microseconds by which the generator's timers may be late (p99): what is timed here are seconds.

A session that decodes a hundred messages keeps the others waiting for two milliseconds.
"""
LAG = "parley_loop_lag_seconds"


class Returning(ParleyDialect):
    """Resumes instead of signing in. A session keeps how it was taken up, and when to try again if it was not."""

    def line(self, credential: str) -> Line:
        """A WebSocket without a token."""
        return self.line_without_token()

    def told(self, session: Talk, frame: Any) -> None:
        """`hello` is answered, and what follows is a verdict or an error."""
        if frame.event == "hello":
            session.send(self.resume(session, session.kept["received"]))
        elif frame.event == "resumed":
            session.kept["verdict"] = "resumed"
            session.ready(session.kept["heads"])
        elif frame.event == "session_reset":
            session.kept["verdict"] = frame.data["reason"]
        elif frame.event == "error":
            session.kept["retry_after"] = frame.data.get("retry_after")
            session.failed(frame.data["code"])
        else:
            super().told(session, frame)


class Probing(ParleyDialect):
    """Pings: a session keeps when each was due, and how many microseconds later its answer came."""

    def told(self, session: Talk, frame: Any) -> None:
        """Takes the answers."""
        if frame.event == "pong" and frame.id is not None:
            session.kept["waited"].count(now_us() - session.kept["due"].pop(frame.id))
        else:
            super().told(session, frame)


class Comeback(Session):
    """Another socket for a session that was cut. `caught_up` is done when all it has missed is there."""

    __slots__ = ("_until", "caught_up")

    def __init__(self, reading: Reading, former: Session, until: Mapping[bytes, int]) -> None:
        super().__init__(reading, former.credential, read_fully=former.read_fully)
        heads = {room: check.last for room, check in former.checks.items()}
        self.kept = {**former.kept, "received": former.delivered, "heads": heads}
        self.caught_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._until = until

    def _take(self, span: Span) -> None:
        super()._take(span)
        if not self.caught_up.done() and all(check.last >= self._until[room] for room, check in self.checks.items()):
            self.caught_up.set_result(None)


@dataclass
class Returns:
    """What became of the sessions of one process that came back.

    `took` is from each one's first try to its `resumed`, `caught_up` to the last of what it had missed. `back_us` and
    `us` are when the last one was there, and had caught up, since the window began.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    took: Buckets = field(default_factory=Buckets)
    caught_up: Buckets = field(default_factory=Buckets)
    waited: dict[int, int] = field(default_factory=dict)
    lost: int = 0
    repeated: int = 0
    reordered: int = 0
    back_us: int = 0
    us: int = 0
    sample: Sample | None = None


# --- in a generator process ----------------------------------------------------------------------


async def cut(generator: Generator) -> None:
    """All sockets are gone; what the sessions had is kept."""
    for session in generator.sessions.values():
        session.close()


async def come_back(generator: Generator, window: float, prober: str, heads: Mapping[bytes, int]) -> Returns:
    """Brings all back, at random moments of the window, until their chatrooms are at these heads.

    Raises TargetError when some do not come.
    """
    returns, sampler = Returns(), Sampler()
    dialect = Returning(*generator.dialect.made_of)  # type: ignore[attr-defined]
    watch = LagWatch(sampler)
    began = now_us()
    way = _Way(generator, Reading(dialect, generator.load), heads, returns, began)
    async with _probing(generator, prober) as waited:
        former = generator.sessions
        gc.disable()
        try:
            async with asyncio.timeout(SETTLE_SECONDS), asyncio.TaskGroup() as group:
                tasks = {
                    number: group.create_task(way.one(session, window * random.random()))
                    for number, session in former.items()
                }
        except TimeoutError as error:
            raise TargetError(f"{len(former) - sum(returns.verdicts.values())} sessions did not come back") from error
        finally:
            gc.enable()
        generator.sessions = {number: task.result() for number, task in tasks.items()}
    returns.us, returns.waited, returns.sample = now_us() - began, dict(waited), sampler.take(generator.load)
    watch.close()
    _check(generator, returns, heads)
    return returns


@asynccontextmanager
async def _probing(generator: Generator, credential: str) -> AsyncIterator[Buckets]:
    """Somebody pings meanwhile."""
    dialect = Probing(*generator.dialect.made_of)  # type: ignore[attr-defined]
    probe = Session(Reading(dialect, generator.load), credential)
    probe.kept = {"waited": Buckets(), "due": {}}
    await generator.connect(probe)
    task = asyncio.create_task(_ping_for_ever(dialect, probe))
    try:
        yield probe.kept["waited"]
    finally:
        task.cancel()
        probe.close()


async def _ping_for_ever(dialect: ParleyDialect, probe: Session) -> None:
    """One ping an interval, whatever became of those before."""
    began = now_us()
    for number in count():
        due = began + number * PROBE_US
        await asyncio.sleep(max(0, due - now_us()) / 1e6)
        probe.kept["due"][str(number)] = due
        probe.send(dialect.command("ping", Ping(), str(number)))


@dataclass
class _Way:
    """How the sessions of one process come back, and what is noted of it."""

    generator: Generator
    reading: Reading
    heads: Mapping[bytes, int]
    returns: Returns
    began: int

    async def one(self, former: Session, delay: float) -> Session:
        """Tries until it is there, and waits until it has caught up."""
        await asyncio.sleep(delay)
        returns, began = self.returns, now_us()
        while (session := await self._try(former)) is None:
            pass
        returns.took.count(now_us() - began)
        returns.back_us = now_us() - self.began
        returns.verdicts[session.kept["verdict"]] += 1
        if session.kept["verdict"] == "resumed":
            with suppress(TimeoutError):
                await asyncio.wait_for(session.caught_up, CATCH_UP_SECONDS)
                returns.caught_up.count(now_us() - began)
        return session

    async def _try(self, former: Session) -> Comeback | None:
        session = Comeback(self.reading, former, self.heads)
        try:
            await self.generator.connect(session)
        except (OSError, TargetError) as error:
            self.returns.refused[str(error)] += 1
            session.close()
            await asyncio.sleep(session.kept.get("retry_after") or BACKOFF * random.random())
            return None
        return session


def _check(generator: Generator, returns: Returns, heads: Mapping[bytes, int]) -> None:
    checks = [item for session in generator.sessions.values() for item in session.checks.items()]
    returns.lost = sum(check.lost(heads[room]) for room, check in checks)
    returns.repeated = sum(check.repeated for _, check in checks)
    returns.reordered = sum(check.reordered for _, check in checks)
    returns.failures = generator.load.failures


# --- the scenario --------------------------------------------------------------------------------


class Storm:
    """Everyone is cut, misses messages, and comes back; someone who was not cut sees how busy the server is."""

    def __init__(self, connections: int, accounts: int, missed: int, window: float) -> None:
        self._connections = connections
        self._accounts = accounts
        self._missed = missed
        self._window = window

    async def prepare(self, stage: Stage) -> None:
        """One chatroom that all hear."""
        accounts = min(self._accounts, self._connections)
        seats = await stage.seat(accounts, [range(accounts)])
        self._credentials, self._room = seats.credentials, seats.rooms[0]
        await stage.open(seats.credentials, self._connections)

    async def runs(self, stage: Stage) -> list[Run]:
        """Once."""
        assert isinstance(stage.deployment, ParleyDeployment)
        server = stage.deployment
        lag, before = await server.rest.histogram(LAG), server.usage()
        stage.display.say("cutting all of them")
        await stage.crew.all(cut)
        await asyncio.sleep(AWAY)
        cut_off = server.usage()
        await self._write(stage, server)
        stage.display.say("letting them come back")
        usage = server.usage()
        returns = await stage.crew.all(come_back, self._window, self._credentials[0], stage.heads)
        used, after = server.usage(), await server.rest.histogram(LAG)
        figures: dict[str, Figure] = {
            "loop_lag_p50_ms": quantile_ms(lag, after, 0.5),
            "loop_lag_p99_ms": quantile_ms(lag, after, 0.99),
            "cut_process_cpu_s": cut_off.since(before).server if cut_off and before else None,
            "process_cpu_s": used.since(usage).server if used and usage else None,
            "postgres_cpu_s": used.since(usage).postgres if used and usage else None,
        }
        return [stormed(returns, self._connections, figures)]

    async def _write(self, stage: Stage, server: ParleyDeployment) -> None:
        """The messages that they miss."""
        stage.display.say(f"writing {self._missed} messages that all of them miss")
        writer, room = Account("", self._credentials[0]), UUID(self._room)
        texts = [f"{now_us():0{STAMP_WIDTH}}{TEXT}"] * self._missed
        await asyncio.gather(*(server.rest.message(writer, room, text) for text in texts))
        stage.heads[self._room.encode()] += self._missed


def stormed(returns: Sequence[Returns], sessions: int, figures: dict[str, Figure]) -> Run:
    """Clean: all resumed, and all had once what they had missed."""
    verdicts = sum((each.verdicts for each in returns), Counter[str]())
    refused = sum((each.refused for each in returns), Counter[str]())
    failures = sum((each.failures for each in returns), Counter[str]())
    wrong = {name: sum(getattr(each, name) for each in returns) for name in ("lost", "repeated", "reordered")}
    samples = [each.sample for each in returns if each.sample]
    shares = [each.sample.cpu / (each.us / 1e6) for each in returns if each.sample]
    counts = {"sessions": sessions, "turned_away": refused.total(), "reset": verdicts.total() - verdicts["resumed"]}
    resumed = {"resumed": verdicts["resumed"]}
    clean = verdicts["resumed"] == sessions and not any(wrong.values()) and not failures
    lags = [sample.lag for sample in samples]
    late = percentile(added(lags), 0.99)
    latency = {
        "back_after": added(each.took for each in returns),
        "caught_up_after": added(each.caught_up for each in returns),
        "others_wait": added(each.waited for each in returns),
    }
    return Run(
        title="coming back",
        verdict=Verdict(
            clean,
            reasons(shares, lags, LATE_US),
            **wrong,
            failures={**failures, **_told(verdicts, refused)},
            counts=resumed | counts,
        ),
        figures={
            "until_all_are_back_s": max(each.back_us for each in returns) / 1e6,
            "until_all_have_caught_up_s": max(each.us for each in returns) / 1e6,
            **figures,
            "generator_cpu_share": max(shares),
            "generator_lag_p99_ms": None if late is None else late / 1000,
        },
        latency=distributions(**latency),
    )


def _told(verdicts: Counter[str], refused: Counter[str]) -> dict[str, int]:
    """What was not as it should be, in the server's words."""
    return {name: number for name, number in (verdicts + refused).items() if name != "resumed"}


def quantile_ms(before: Mapping[float, float], after: Mapping[float, float], share: float) -> float | None:
    """A percentile of what a histogram has counted in between, as Prometheus' histogram_quantile estimates it."""
    counts = {bound: number - before.get(bound, 0.0) for bound, number in sorted(after.items())}
    wanted = share * counts.get(math.inf, 0.0)
    below, reached = 0.0, 0.0
    for bound, number in counts.items():
        if number and number >= wanted:
            inside = (wanted - reached) / (number - reached)
            return 1000 * (below if bound == math.inf else below + (bound - below) * inside)
        below, reached = bound, number
    return None
