"""When messages go, and what is counted of their answers. Times are microseconds of `bench.clock`."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from bench.clock import Alarm, now_us

Send = Callable[[int, int], None]
"""Writes the message with a number and a stamp to some session's socket."""


class Buckets(defaultdict[int, int]):
    """How often each time was seen, to eleven binary digits: as exact as the histogram that they end in."""

    def __init__(self) -> None:
        super().__init__(int)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def count(self, us: int) -> None:
        """One more."""
        shift = us.bit_length() - 11
        self[us if shift <= 0 else us >> shift << shift] += 1


class Window(NamedTuple):
    """The measured time: a message that should have gone in it counts, whenever its answer comes."""

    begin: int
    end: int


class Load:
    """Counts what was sent and what came. Subclasses say when the next message goes, and what else is waited for."""

    listens = False
    """Whether `heard` has to be told of every read."""

    def __init__(self, send: Send, first: int, window: Window, clock: Callable[[], int] = now_us) -> None:
        self._send = send
        self._next = first
        self._window = window
        self._clock = clock
        self._starts: dict[int, int] = {}
        self.sent = 0
        self.acks = 0
        self.delivered = 0
        self.fully_read = 0
        self.ack = Buckets()
        self.delivery = Buckets()
        self.waits: dict[str, Buckets] = {}
        self.failures: Counter[str] = Counter()

    def start(self) -> None:
        """The first messages go."""

    def stop(self) -> None:
        """Sends no more."""

    def acked(self, numbers: Iterable[int]) -> None:
        """Answers have come; a second answer to the same message is a failure."""
        now, (begin, end) = self._clock(), self._window
        for number in numbers:
            started = self._starts.pop(number, None)
            if started is None:
                self.failed("an ack that nobody waits for")
                continue
            self.acks += 1
            if begin <= started < end:
                self.ack.count(now - started)

    def arrived(self, stamps: Iterable[int]) -> None:
        """Events have come to a receiver that looks at when they should have gone."""
        now, (begin, end) = self._clock(), self._window
        for stamp in stamps:
            if begin <= stamp < end:
                self.delivery.count(now - stamp)

    def heard(self, before: int, last: int) -> None:
        """A receiver that had a chatroom's events up to `before` has those up to `last`."""

    def failed(self, what: str) -> None:
        """Something came that should not have, or a connection ended: counted, and told at the end."""
        self.failures[what] += 1

    def _go(self, due: int) -> None:
        number = self._next
        self._next += 1
        self._starts[number] = due
        self.sent += 1
        self._send(number, due)


class Scheduled(Load, ABC):
    """What is sent goes at moments that are set before, by an alarm."""

    def __init__(self, send: Send, first: int, window: Window, clock: Callable[[], int] = now_us) -> None:
        super().__init__(send, first, window, clock)
        self._alarm: Alarm | None = None

    def start(self) -> None:
        """Sets the alarm for the first."""
        self._alarm = Alarm(self.go)
        self.go()

    def stop(self) -> None:
        """What is due before the end has gone: the schedule never loses anything."""
        if self._alarm is not None:
            self.go()
            self._alarm.close()
            self._alarm = None

    @abstractmethod
    def go(self) -> None:
        """Everything that is due by now; then it sets the alarm for the next."""


class Paced(Scheduled):
    """An open loop: messages go when they are due, whatever became of those before. Latency runs from that moment.

    Of `rate` messages a second this is the part that begins `offset` messages late and has each `step`-th.
    """

    def __init__(
        self,
        send: Send,
        first: int,
        window: Window,
        rate: float,
        start: int,
        offset: int = 0,
        step: int = 1,
        clock: Callable[[], int] = now_us,
    ) -> None:
        super().__init__(send, first, window, clock)
        self._interval = step * 1e6 / rate
        self._begin = start + offset * 1e6 / rate

    def go(self) -> None:
        """Everything that is due by now."""
        last = min(self._clock(), self._window.end - 1)
        while (due := int(self._begin + self.sent * self._interval)) <= last:
            self._go(due)
        if self._alarm is not None and due < self._window.end:
            self._alarm.set(due)


class Closed(Load):
    """So many messages are in flight, and the next goes when one is done. Latency runs from then to the ack."""

    def __init__(
        self, send: Send, first: int, window: Window, in_flight: int, clock: Callable[[], int] = now_us
    ) -> None:
        super().__init__(send, first, window, clock)
        self.in_flight = in_flight
        self._running = False

    def start(self) -> None:
        """Fills the slots."""
        self._running = True
        self._refill()

    def stop(self) -> None:
        """Slots stay empty."""
        self._running = False

    def done(self) -> int:
        """How many messages have left their slots."""
        return self.acks

    def acked(self, numbers: Iterable[int]) -> None:
        """Answers let the next ones go."""
        super().acked(numbers)
        self._refill()

    def _free(self) -> int:
        """How many may go."""
        return self.in_flight - self.sent + self.done()

    def _refill(self) -> None:
        free = self._free()
        if not self._running or free <= 0:
            return
        now = self._clock()
        for _ in range(free):
            self._go(now)


class Lowest:
    """How far the slowest of some receivers is, of one chatroom's events."""

    def __init__(self, heads: Iterable[int]) -> None:
        self._receivers = dict(Counter(heads))  # how many receivers have got just so far
        self.seq = min(self._receivers, default=sys.maxsize)

    def moved(self, before: int, last: int) -> bool:
        """A receiver has moved on; whether it was the slowest, and no other waits where it was."""
        receivers = self._receivers
        left = receivers[before] = receivers[before] - 1
        receivers[last] = receivers.get(last, 0) + 1
        if left or before != self.seq:
            return False
        while not receivers.get(self.seq):
            receivers.pop(self.seq, None)
            self.seq += 1
        return True


class UntilHeard(Closed):
    """A message is in flight until it is acked and every receiver of the one chatroom has it."""

    listens = True

    def __init__(
        self,
        send: Send,
        first: int,
        window: Window,
        in_flight: int,
        heads: Iterable[int],
        clock: Callable[[], int] = now_us,
    ) -> None:
        super().__init__(send, first, window, in_flight, clock)
        self._lowest = Lowest(heads)
        self._base = self._lowest.seq

    def done(self) -> int:
        """What the slowest receiver has, if the acks are there too."""
        return min(self.acks, self._lowest.seq - self._base)

    def heard(self, before: int, last: int) -> None:
        """Moves a receiver on; when it was the slowest, the next message may go."""
        if self._lowest.moved(before, last):
            self._refill()


class Listening(Load):
    """Sends nothing, and tells how far the slowest of its receivers is."""

    listens = True

    def __init__(self, window: Window, heads: Iterable[int], tell: Callable[[int], None]) -> None:
        super().__init__(lambda _number, _stamp: None, 0, window)
        self._lowest = Lowest(heads)
        self._tell = tell

    def heard(self, before: int, last: int) -> None:
        """Moves a receiver on."""
        if self._lowest.moved(before, last):
            self._tell(self._lowest.seq)
