"""Loses some of the commands on their way to a Redis, whole ones, and nothing of the others.

A client waits for one reply to each command, in order. So a lost PUBLISH is not cut
out: its channel gets another name, which nobody listens to. Redis itself answers it,
in its place, with the number of receivers, 0, and nobody hears the message.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

LOST = b"lost:"
"""What stands before the name of a channel that nobody listens to."""

PUBLISHES = frozenset({b"PUBLISH", b"SPUBLISH"})


class CommandReader:
    """Splits a stream into commands, which are arrays of bulk strings in RESP. Raises ValueError for anything else."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[list[bytes]]:
        """The commands that are whole with these bytes."""
        self._data += data
        while (found := self._next()) is not None:
            words, end = found
            self._data = self._data[end:]
            yield words

    def _next(self) -> tuple[list[bytes], int] | None:
        head = self._number(0, b"*")
        if head is None:
            return None
        count, at = head
        words = []
        for _ in range(count):
            size = self._number(at, b"$")
            if size is None or len(self._data) < size[1] + size[0] + 2:
                return None
            length, at = size
            words.append(self._data[at : at + length])
            at += length + 2
        return words, at

    def _number(self, at: int, kind: bytes) -> tuple[int, int] | None:
        """The number of a line that begins at an offset, and where the line after it begins."""
        end = self._data.find(b"\r\n", at)
        if end < 0:
            return None
        if self._data[at : at + 1] != kind:
            raise ValueError(f"this is no command of Redis: {self._data[at : at + 16]!r}")
        return int(self._data[at + 1 : end]), end + 2


def command(words: list[bytes]) -> bytes:
    """A command as it goes over the line."""
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)])


class LosePublishes:
    """A filter for the way up to a Redis: a share of the publishes reach nobody. `share` may change at any time."""

    def __init__(self, dice: random.Random, share: float = 0.0) -> None:
        self.share = share
        self.seen = 0
        self.lost = 0
        self._dice = dice

    def line(self) -> _Losing:
        """The filter of one line."""
        return _Losing(self)

    def change(self, words: list[bytes]) -> list[bytes]:
        """The command as it goes on. The channel keeps its slot in a cluster: the tag in braces decides that."""
        if words[0].upper() not in PUBLISHES:
            return words
        self.seen += 1
        if self._dice.random() >= self.share:
            return words
        self.lost += 1
        channel = words[1] if b"{" in words[1] else b"{%b}" % words[1]
        return [words[0], LOST + channel, *words[2:]]


class _Losing:
    def __init__(self, shared: LosePublishes) -> None:
        self._shared = shared
        self._commands = CommandReader()

    def feed(self, data: bytes) -> bytes:
        """Whole commands go on; what is not whole yet waits."""
        return b"".join(command(self._shared.change(words)) for words in self._commands.feed(data))
