"""What clients did and what they were told, as it happened: the material that the checker judges.

A message is known by its *key*, which is its `client_id` and its text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import msgspec

Room = str
"""A chatroom's id."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, tag_field="what"):
    """One thing that happened: `at` is in seconds of the monotonic clock."""

    at: float = 0.0
    client: str


class Attempt(Entry, frozen=True, kw_only=True, tag="attempt"):
    """A message is about to be sent; the same one may be sent often."""

    room: Room
    key: str


class Ack(Entry, frozen=True, kw_only=True, tag="ack"):
    """The server has said that the message is on disk, under this seq."""

    room: Room
    key: str
    seq: int


class Refusal(Entry, frozen=True, kw_only=True, tag="refusal"):
    """The server has said for good that the message is not taken."""

    room: Room
    key: str
    code: str


class Follow(Entry, frozen=True, kw_only=True, tag="follow"):
    """From now on the client is to have each event of the chatroom above this seq."""

    room: Room
    seq: int


class Delivery(Entry, frozen=True, kw_only=True, tag="delivery"):
    """An event has come; `key` is None where it is no message."""

    room: Room
    seq: int
    key: str | None


class Gap(Entry, frozen=True, kw_only=True, tag="gap"):
    """The client was told that events above `from_seq` and up to `to_seq` do not come."""

    room: Room
    from_seq: int
    to_seq: int


class Reading(Entry, frozen=True, kw_only=True, tag="reading"):
    """The whole history of a chatroom: its messages as (seq, key), and the seq of its newest event."""

    room: Room
    messages: list[tuple[int, str]]
    head: int


class SyncVerdict(Entry, frozen=True, kw_only=True, tag="sync"):
    """A sync's answer, and the seqs above `from_seq` that the client had when it came."""

    room: Room
    from_seq: int
    to_seq: int
    verdict: str
    had: list[int]


class ResumeVerdict(Entry, frozen=True, kw_only=True, tag="resume"):
    """A resume's answer, beside what is known here.

    `sent` commands had been sent and the `answered`-th was the last with an answer.
    `replayed` counted frames have come before the answer to a ping sent right behind.
    """

    missed: int
    handled: int
    sent: int
    answered: int
    replayed: int


class Wrong(Entry, frozen=True, kw_only=True, tag="wrong"):
    """Something that must never happen, as it was seen."""

    told: str


AnyEntry = Attempt | Ack | Refusal | Follow | Delivery | Gap | Reading | SyncVerdict | ResumeVerdict | Wrong
E = TypeVar("E", bound=Entry)


class History:
    """The log of one run, in the order of time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Writes an entry down, with the time."""
        self.entries.append(msgspec.structs.replace(entry, at=self._clock()))

    def of(self, kind: type[E]) -> Iterator[E]:
        """The entries of a kind."""
        return (entry for entry in self.entries if isinstance(entry, kind))

    def save(self, path: Path) -> None:
        """Writes it to a file, an entry a line, to look for the cause of what the checker found."""
        encode = msgspec.json.Encoder().encode
        path.write_bytes(b"".join(encode(entry) + b"\n" for entry in self.entries))

    @classmethod
    def load(cls, path: Path) -> History:
        """Reads what `save` has written."""
        history, decode = cls(), msgspec.json.Decoder(AnyEntry).decode
        history.entries = [decode(line) for line in path.read_bytes().splitlines()]
        return history

    def longest_silence(self, since: float, until: float) -> dict[str, float]:
        """The longest time in seconds that each client heard nothing, between two times."""
        heard: dict[str, list[float]] = {follow.client: [since] for follow in self.of(Follow)}
        for event in self.of(Delivery):
            if since <= event.at <= until:
                heard[event.client].append(event.at)
        return {
            client: max(later - earlier for earlier, later in pairwise([*times, until]))
            for client, times in heard.items()
        }
