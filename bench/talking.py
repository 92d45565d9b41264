"""Parley's wire for sessions that do more than write: answers are decoded, and go to the Errands that wait for them."""

from __future__ import annotations

from typing import Any

from bench.dialect import Line, Talk
from bench.errands import Errands
from bench.generator import Generator
from bench.parley import ParleyDialect
from bench.session import Reading, Session
from protocol.events import EPHEMERAL, UNCOUNTED_EVENTS


class Talking(ParleyDialect):
    """A session keeps its `errands`, and counts `others`: frames that are no message, but count for a resume."""

    def __init__(self, url: str, transport: str, tcp_port: int = 0, key: bytes = b"") -> None:
        super().__init__(url, transport, tcp_port, key)
        self._layout = self._layout._replace(ack=b"\0")  # no frame begins so: none is skimmed as an ack

    def told(self, session: Talk, frame: Any) -> None:
        """Answers, and what is heard of others in an open chatroom."""
        kept = session.kept
        kept["others"] = kept.get("others", 0) + (frame.event not in UNCOUNTED_EVENTS)
        if frame.event == "ack" or (frame.event == "pong" and frame.id is not None):
            kept["errands"].answered(int(frame.id), frame.data)
        elif frame.event == "error" and frame.id is not None:
            kept["errands"].refused(int(frame.id), frame.data["code"])
        elif frame.event not in EPHEMERAL:
            super().told(session, frame)


class Resuming(Talking):
    """Resumes instead of signing in."""

    def line(self, credential: str) -> Line:
        """A WebSocket without a token."""
        return self.line_without_token()

    def told(self, session: Talk, frame: Any) -> None:
        """`hello` is answered, and what was missed is checked against what came before."""
        if frame.event == "hello":
            session.send(self.resume(session, session.kept["others"]))
        elif frame.event == "resumed":
            assert isinstance(session, Session)
            session.ready({})
            session.checks = session.kept["checks"]
        elif frame.event == "session_reset":
            session.failed(f"not resumed: {frame.data['reason']}")
        else:
            super().told(session, frame)


def received(session: Session) -> int:
    """How many frames have come that count for a resume."""
    return int(session.kept.get("others", 0)) + session.delivered


async def talk(generator: Generator) -> None:
    """Sessions of this process that are opened from now on decode their answers."""
    assert isinstance(generator.dialect, ParleyDialect)
    generator.dialect = generator.reading.dialect = Talking(*generator.dialect.made_of)


def attend(generator: Generator, errands: Errands) -> None:
    """From now on answers go there."""
    generator.reading.load = errands
    for session in generator.sessions.values():
        session.kept["errands"] = errands


async def resume(generator: Generator, former: Session) -> Session:
    """The session of one that was cut, on another socket. Raises TargetError, OSError, TimeoutError."""
    assert isinstance(generator.dialect, ParleyDialect)
    dialect = Resuming(*generator.dialect.made_of)
    session = Session(Reading(dialect, generator.load), former.credential, read_fully=former.read_fully)
    session.timed = former.timed
    session.kept = {**former.kept, "others": received(former), "checks": former.checks}
    return await _connected(generator, session)


async def anew(generator: Generator, former: Session) -> Session:
    """A new session of the same user. Raises TargetError, OSError, TimeoutError."""
    session = Session(generator.reading, former.credential, read_fully=former.read_fully)
    session.timed = former.timed
    session.kept = {"errands": former.kept["errands"]}
    return await _connected(generator, session)


async def _connected(generator: Generator, session: Session) -> Session:
    try:
        await generator.connect(session)
    except BaseException:
        session.close()
        raise
    return session
