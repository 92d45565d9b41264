"""The history checker: a run in which all went well is clean, and each planted fault is found as what it is."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.faults.checker import KINDS, Kind, check
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
    SyncVerdict,
    Wrong,
)

ROOM = "room"


def _attempt(key: str) -> Attempt:
    return Attempt(client="ann", room=ROOM, key=key)


def _ack(key: str, seq: int) -> Ack:
    return Ack(client="ann", room=ROOM, key=key, seq=seq)


def _heard(client: str, seq: int, key: str | None) -> Delivery:
    return Delivery(client=client, room=ROOM, seq=seq, key=key)


def _read(*messages: tuple[int, str], head: int | None = None) -> Reading:
    return Reading(client="bob", room=ROOM, messages=list(messages), head=head or max(seq for seq, _ in messages))


BEGIN = (Follow(client="ann", room=ROOM, seq=3), Follow(client="bob", room=ROOM, seq=3))
SENT = (_attempt("a"), _attempt("b"), _ack("a", 4), _ack("b", 6))
ANN = (_heard("ann", 4, "a"), _heard("ann", 5, None), _heard("ann", 6, "b"))
BOB = (_heard("bob", 4, "a"), _heard("bob", 5, None), _heard("bob", 6, "b"))
READ = _read((4, "a"), (6, "b"))
SYNC = SyncVerdict(client="bob", room=ROOM, from_seq=3, to_seq=6, verdict="complete", had=[4, 5, 6])
RESUME = ResumeVerdict(client="bob", missed=2, handled=5, sent=6, answered=5, replayed=3)


def _history(*entries: Entry) -> History:
    ticks = iter(range(1_000_000))
    history = History(clock=lambda: float(next(ticks)))
    for entry in entries:
        history.add(entry)
    return history


def _without(entries: Iterable[Entry], *which: int) -> list[Entry]:
    return [entry for place, entry in enumerate(entries) if place not in which]


def test_a_good_run() -> None:
    """Two messages and another event, which both clients had, a sync and a resume that add up."""
    report = check(_history(*BEGIN, *SENT, *ANN, *BOB, SYNC, RESUME, READ))
    assert report.clean, str(report)
    assert report[1:] == (2, 2, 0, 6, 1, 1, 0)


def test_a_message_without_an_ack_may_be_there() -> None:
    """Attempted, never acked, delivered to all and in history: the ack was lost, no more, if the run is cut short."""
    history = _history(*BEGIN, *_without(SENT, 3), *ANN, *BOB, READ)
    assert check(history, settled=False).clean
    assert [violation.kind for violation in check(history).violations] == ["unanswered"]


def test_a_gap_that_was_told() -> None:
    """What the client was told not to expect is not lost; what lies beyond is."""
    gap = Gap(client="bob", room=ROOM, from_seq=3, to_seq=5)
    assert check(_history(*BEGIN, *SENT, *ANN, gap, BOB[2], READ)).clean
    short = Gap(client="bob", room=ROOM, from_seq=3, to_seq=4)
    assert [v.kind for v in check(_history(*BEGIN, *SENT, *ANN, short, BOB[2], READ)).violations] == ["lost"]


PLANTED: dict[str, tuple[Kind, list[Entry]]] = {
    "acked, not in history": ("lost", [*BEGIN, *SENT, *ANN[:2], *BOB[:2], _read((4, "a"))]),
    "delivered, not in history": (
        "lost",
        [*BEGIN, *_without(SENT, 3), Refusal(client="ann", room=ROOM, key="b", code="X"), *ANN, *BOB, _read((4, "a"))],
    ),
    "read earlier, not in history": (
        "lost",
        [
            *BEGIN,
            *SENT[:1],
            SENT[2],
            _attempt("c"),
            _ack("c", 7),
            ANN[0],
            BOB[0],
            _read((4, "a"), (7, "c")),
            _read((4, "a")),
        ],
    ),
    "in history, never at one client": ("lost", [*BEGIN, *SENT, *ANN, *_without(BOB, 0), READ]),
    "the last one never came": ("lost", [*BEGIN, *SENT, *ANN, *BOB[:2], READ]),
    "an event that is no message never came": ("lost", [*BEGIN, *SENT, *ANN, *_without(BOB, 1), READ]),
    "nobody sent it": (
        "unexpected",
        [*BEGIN, *SENT, *ANN, *BOB, _heard("ann", 7, "x"), _heard("bob", 7, "x"), _read((4, "a"), (6, "b"), (7, "x"))],
    ),
    "it was refused": (
        "unexpected",
        [*BEGIN, *SENT, Refusal(client="ann", room=ROOM, key="b", code="X"), *ANN, *BOB, READ],
    ),
    "one client had it twice": ("repeated", [*BEGIN, *SENT, *ANN, *BOB, BOB[2], READ]),
    "history has it twice": (
        "repeated",
        [*BEGIN, *SENT, *ANN, *BOB, _heard("ann", 7, "b"), _heard("bob", 7, "b"), _read((4, "a"), (6, "b"), (7, "b"))],
    ),
    "out of order at one client": ("reordered", [*BEGIN, *SENT, *ANN, BOB[1], BOB[0], BOB[2], READ]),
    "out of order in history": ("reordered", [*BEGIN, *SENT, *ANN, *BOB, _read((6, "b"), (4, "a"))]),
    "a seq is missing everywhere": ("hole", [*BEGIN, *SENT, *_without(ANN, 1), *_without(BOB, 1), READ]),
    "acked under another seq": ("diverged", [*BEGIN, *_without(SENT, 3), _ack("b", 5), *ANN, *BOB, READ]),
    "acked twice, differently": ("diverged", [*BEGIN, *SENT, _ack("b", 9), *ANN, *BOB, READ]),
    "two messages under one seq": (
        "diverged",
        [*BEGIN, *SENT, *ANN, BOB[0], BOB[1], _heard("bob", 6, "a"), READ],
    ),
    "complete, and not all came": (
        "wrong_verdict",
        [
            *BEGIN,
            *SENT,
            *ANN,
            *BOB,
            SyncVerdict(client="bob", room=ROOM, from_seq=3, to_seq=6, verdict="complete", had=[4, 6]),
            READ,
        ],
    ),
    "synced backwards": (
        "wrong_verdict",
        [
            *BEGIN,
            *SENT,
            *ANN,
            *BOB,
            SyncVerdict(client="bob", room=ROOM, from_seq=6, to_seq=3, verdict="complete", had=[]),
            READ,
        ],
    ),
    "resumed with frames that did not come": (
        "wrong_verdict",
        [
            *BEGIN,
            *SENT,
            *ANN,
            *BOB,
            ResumeVerdict(client="bob", missed=2, handled=5, sent=6, answered=5, replayed=1),
            READ,
        ],
    ),
    "resumed with more handled than sent": (
        "wrong_verdict",
        [
            *BEGIN,
            *SENT,
            *ANN,
            *BOB,
            ResumeVerdict(client="bob", missed=0, handled=7, sent=6, answered=5, replayed=0),
            READ,
        ],
    ),
    "resumed with less handled than answered": (
        "wrong_verdict",
        [
            *BEGIN,
            *SENT,
            *ANN,
            *BOB,
            ResumeVerdict(client="bob", missed=0, handled=4, sent=6, answered=5, replayed=0),
            READ,
        ],
    ),
    "seen to be wrong": ("wrong_verdict", [*BEGIN, *SENT, *ANN, *BOB, READ, Wrong(client="bob", told="chatroom_lost")]),
    "never answered": ("unanswered", [*BEGIN, *SENT, _attempt("c"), *ANN, *BOB, READ]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault(name: str) -> None:
    """It is found, and the report shows it."""
    kind, entries = PLANTED[name]
    report = check(_history(*entries))
    assert kind in {violation.kind for violation in report.violations}, str(report)
    assert f"  {kind}: " in str(report)


def test_every_kind_is_planted() -> None:
    """No judgement is untested."""
    assert {kind for kind, _ in PLANTED.values()} == set(KINDS)


@pytest.mark.parametrize(
    "name", [name for name, (kind, _) in PLANTED.items() if kind not in ("diverged", "unexpected")]
)
def test_nothing_else_is_found(name: str) -> None:
    """A fault is told as one thing; only a message under a wrong seq is wrong in several ways."""
    kind, entries = PLANTED[name]
    assert {violation.kind for violation in check(_history(*entries)).violations} == {kind}


def test_a_history_on_disk(tmp_path: Path) -> None:
    """What is saved is judged as it was."""
    history = _history(*BEGIN, *SENT, *ANN, *BOB, SYNC, RESUME, BOB[2], READ)
    history.save(tmp_path / "history.jsonl")
    again = History.load(tmp_path / "history.jsonl")
    assert again.entries == history.entries
    assert check(again) == check(history)


def test_the_longest_silence() -> None:
    """It is counted from the beginning, between deliveries and up to the end, also for who hears nothing at all."""
    history = _history(*BEGIN, *ANN, _heard("ann", 7, None))  # at 0, 1, then 2, 3, 4, 5
    history.entries[-1] = Delivery(at=9.0, client="ann", room=ROOM, seq=7, key=None)
    assert history.longest_silence(1.0, 10.0) == {"ann": 5.0, "bob": 9.0}
