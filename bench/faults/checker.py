"""Judges a history: what was lost, repeated, out of order, made up, or told wrongly. Pure.

The last reading of a chatroom's history is what the server stands by; acks,
deliveries and earlier readings are held against it, and it against what was attempted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from bench.faults.history import (
    Ack,
    Attempt,
    Delivery,
    Entry,
    Follow,
    Gap,
    History,
    Reading,
    Refusal,
    ResumeVerdict,
    Room,
    SyncVerdict,
    Wrong,
)

Kind = Literal["lost", "unexpected", "repeated", "reordered", "hole", "diverged", "wrong_verdict", "unanswered"]
KINDS: dict[Kind, str] = {
    "lost": "acked, or delivered to someone, and missing elsewhere",
    "unexpected": "there, though nobody sent it or it was refused",
    "repeated": "came twice, or stands twice in history",
    "reordered": "came after a later one",
    "hole": "a seq that nobody has ever seen",
    "diverged": "under one seq here and another there",
    "wrong_verdict": "what the server said of a resume or a sync is not what came",
    "unanswered": "sent, and never answered",
}
SHOWN = 20
"""Violations that a report lists one by one."""


class Violation(NamedTuple):
    """One thing that is wrong. `client` is empty where it concerns them all."""

    kind: Kind
    client: str
    room: Room
    what: str


class Report(NamedTuple):
    """The judgement, and how much it stands on."""

    violations: list[Violation]
    attempts: int
    acks: int
    refusals: int
    deliveries: int
    resumes: int
    syncs: int
    gaps: int

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations

    def __str__(self) -> str:
        counts = Counter(violation.kind for violation in self.violations)
        lines = [f"{name:<14}{value:>8}" for name, value in zip(self._fields[1:], self[1:], strict=True)]
        lines += [f"{kind.replace('_', ' '):<14}{counts[kind]:>8}  {meaning}" for kind, meaning in KINDS.items()]
        lines += [f"  {v.kind}: {v.client or 'all'}, {v.room}: {v.what}" for v in self.violations[:SHOWN]]
        return "\n".join(lines)


def check(history: History, *, settled: bool = True) -> Report:
    """Judges a run. Unless it is `settled`, commands may still be without an answer."""
    truth = _Truth(history)
    violations = [
        *truth.itself(),
        *_acks(history, truth),
        *_deliveries(history, truth),
        *_followers(history, truth),
        *_syncs(history.of(SyncVerdict)),
        *_resumes(history.of(ResumeVerdict)),
        *(Violation("wrong_verdict", wrong.client, "", wrong.told) for wrong in history.of(Wrong)),
        *(_unanswered(history) if settled else ()),
    ]
    kinds: tuple[type[Entry], ...] = (Attempt, Ack, Refusal, Delivery, ResumeVerdict, SyncVerdict, Gap)
    return Report(list(dict.fromkeys(violations)), *(sum(1 for _ in history.of(kind)) for kind in kinds))


class _Truth:
    """What the server stands by in the end: for each chatroom its messages and its newest seq."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.heads: dict[Room, int] = {}
        self.keys: dict[Room, dict[int, str]] = {}
        self.seqs: dict[Room, dict[str, int]] = {}
        self._readings: dict[Room, Reading] = {}
        for reading in history.of(Reading):
            self._readings[reading.room] = reading
            self.heads[reading.room] = reading.head
            self.keys[reading.room] = dict(reading.messages)
            self.seqs[reading.room] = {key: seq for seq, key in reading.messages}

    def itself(self) -> Iterator[Violation]:
        """What is wrong with history, whoever reads it."""
        attempted = {(entry.room, entry.key) for entry in self._history.of(Attempt)}
        refused = {(entry.room, entry.key) for entry in self._history.of(Refusal)}
        for room, reading in self._readings.items():
            yield from _order(reading)
            for seq, key in reading.messages:
                if (room, key) not in attempted:
                    yield Violation("unexpected", "", room, f"seq {seq} in history, which nobody sent")
                if (room, key) in refused:
                    yield Violation("unexpected", "", room, f"{key} in history, which was refused")
        for earlier in self._history.of(Reading):
            for seq, key in earlier.messages:
                yield from self.holds(earlier.client, earlier.room, seq, key, "in an earlier reading")

    def holds(self, client: str, room: Room, seq: int, key: str, where: str) -> Iterator[Violation]:
        """Whether history has this message at this seq."""
        if room not in self.keys or self.keys[room].get(seq) == key:
            return
        if (other := self.seqs[room].get(key)) is not None:
            yield Violation("diverged", client, room, f"{key} has seq {seq} {where} and {other} in history")
        elif seq in self.keys[room]:
            yield Violation("diverged", client, room, f"seq {seq} is {key} {where}, {self.keys[room][seq]} in history")
        else:
            yield Violation("lost", client, room, f"{key}, seq {seq}, {where} and not in history")


def _order(reading: Reading) -> Iterator[Violation]:
    keys: dict[str, int] = {}
    last = 0
    for seq, key in reading.messages:
        if key in keys:
            yield Violation("repeated", "", reading.room, f"{key} in history as seq {keys[key]} and {seq}")
        if seq <= last:
            kind: Kind = "repeated" if seq == last else "reordered"
            yield Violation(kind, "", reading.room, f"seq {seq} in history behind {last}")
        keys[key] = last = seq


def _acks(history: History, truth: _Truth) -> Iterator[Violation]:
    known: dict[tuple[Room, str], int] = {}
    for ack in history.of(Ack):
        yield from truth.holds(ack.client, ack.room, ack.seq, ack.key, "in its ack")
        if known.setdefault((ack.room, ack.key), ack.seq) != ack.seq:
            yield Violation("diverged", ack.client, ack.room, f"{ack.key} was acked as {ack.seq} and as another")


def _deliveries(history: History, truth: _Truth) -> Iterator[Violation]:
    attempted = {(entry.room, entry.key) for entry in history.of(Attempt)}
    for event in history.of(Delivery):
        if event.key is None:
            continue
        yield from truth.holds(event.client, event.room, event.seq, event.key, "as it was delivered")
        if (event.room, event.key) not in attempted:
            yield Violation("unexpected", event.client, event.room, f"seq {event.seq}, which nobody sent")


def _followers(history: History, truth: _Truth) -> Iterator[Violation]:
    """What each client had, against all that there is."""
    streams: dict[tuple[str, Room], _Stream] = {}
    seen: dict[Room, set[int]] = defaultdict(set)
    for entry in history.entries:
        if isinstance(entry, Follow):
            streams[entry.client, entry.room] = _Stream(entry)
        elif isinstance(entry, Delivery):
            seen[entry.room].add(entry.seq)
            yield from streams[entry.client, entry.room].take(entry.seq)
        elif isinstance(entry, Gap):
            streams[entry.client, entry.room].excused.update(range(entry.from_seq + 1, entry.to_seq + 1))
    for room, messages in truth.keys.items():
        seen[room].update(messages)
    for (_, room), stream in streams.items():
        yield from stream.end(truth.heads.get(room, 0), seen[room])


class _Stream:
    """The events of one chatroom at one client."""

    def __init__(self, begin: Follow) -> None:
        self._client, self._room = begin.client, begin.room
        self._first = self._last = begin.seq
        self._had: set[int] = set()
        self.excused: set[int] = set()

    def take(self, seq: int) -> Iterator[Violation]:
        """The next event."""
        if seq in self._had:
            yield self._violation("repeated", f"seq {seq} came again")
        elif seq <= self._last:
            yield self._violation("reordered", f"seq {seq} came behind {self._last}")
        self._had.add(seq)
        self._last = max(self._last, seq)

    def end(self, head: int, seen: set[int]) -> Iterator[Violation]:
        """Nothing more comes, and the chatroom is at `head`."""
        for seq in range(self._first + 1, max(head, self._last) + 1):
            if seq in self._had or seq in self.excused:
                continue
            if seq in seen:
                yield self._violation("lost", f"seq {seq} never came")
            else:
                yield Violation("hole", "", self._room, f"nobody has seen seq {seq}")

    def _violation(self, kind: Kind, what: str) -> Violation:
        return Violation(kind, self._client, self._room, what)


def _syncs(verdicts: Iterable[SyncVerdict]) -> Iterator[Violation]:
    """A `complete` sync has brought every event of its range."""
    for sync in verdicts:
        missing = sorted(set(range(sync.from_seq + 1, sync.to_seq + 1)) - set(sync.had))
        if sync.verdict == "complete" and missing:
            told = f"complete from {sync.from_seq} to {sync.to_seq}, without {missing[:5]}"
            yield Violation("wrong_verdict", sync.client, sync.room, told)
        if sync.to_seq < sync.from_seq:
            told = f"synced from {sync.from_seq} to {sync.to_seq}"
            yield Violation("wrong_verdict", sync.client, sync.room, told)


def _resumes(verdicts: Iterable[ResumeVerdict]) -> Iterator[Violation]:
    """The lost frames have come, and the commands that were taken are some that were sent."""
    for resume in verdicts:
        if resume.replayed < resume.missed:
            told = f"resumed with {resume.missed} missed, and {resume.replayed} came"
            yield Violation("wrong_verdict", resume.client, "", told)
        if not resume.answered <= resume.handled <= resume.sent:
            told = f"resumed with {resume.handled} handled: {resume.sent} were sent, {resume.answered} had an answer"
            yield Violation("wrong_verdict", resume.client, "", told)


def _unanswered(history: History) -> Iterator[Violation]:
    done: set[tuple[Room, str]] = {(entry.room, entry.key) for entry in history.of(Ack)}
    done |= {(entry.room, entry.key) for entry in history.of(Refusal)}
    for attempt in history.of(Attempt):
        if (attempt.room, attempt.key) not in done:
            yield Violation("unanswered", attempt.client, attempt.room, attempt.key)
