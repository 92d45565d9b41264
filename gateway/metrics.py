"""What an operator can watch: counters and gauges in Prometheus' text format, all named `parley_…`.

Each Metrics has a registry of its own. Labels take few values: kinds of
commands, codes, routes; never users, chatrooms or addresses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Never

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from gateway.file_metrics import FileMetrics

LAG_INTERVAL = 0.05
"""Seconds between two looks at how late the event loop is."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class _Children(dict[tuple[str, ...], Histogram]):
    """The children of a histogram by their labels; looking one up here costs a tenth of `labels()`."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram

    def __missing__(self, labels: tuple[str, ...]) -> Histogram:
        child = self[labels] = self._histogram.labels(*labels)
        return child


class _Tally(dict[tuple[str, ...], int]):
    """What is new of a counter, by its labels, for the event loop's thread alone.

    Adding here costs a tenth of `inc()`, which takes a lock.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def __missing__(self, labels: tuple[str, ...]) -> int:
        self._child(labels)  # it says since when it counts
        return 0

    def _child(self, labels: tuple[str, ...]) -> Counter:
        return self._counter.labels(*labels) if labels else self._counter

    def flush(self) -> None:
        """Hands it to the counter."""
        for labels, count in self.items():
            self._child(labels).inc(count)
        self.clear()


class Metrics:
    """The metrics of one process. Every method is cheap enough for the hot path, except `render`."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._tallies: list[_Tally] = []
        self.files = FileMetrics(registry)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._sessions = Gauge(
            "parley_sessions", "Sessions, attached to a socket or waiting for one", ["state"], registry=registry
        )
        self._openings = Gauge(
            "parley_openings", "Clients that open or resume a session, by what they do", ["state"], registry=registry
        )
        self._online = Gauge(
            "parley_online_users", "Users who are online, by where they are", ["where"], registry=registry
        )
        self._commands = self._counter(
            "parley_commands", "Commands by kind and outcome: ok or an error code", "kind", "outcome"
        )
        self._deliveries = self._counter("parley_deliveries", "Events handed to sessions")
        self._drops = self._counter("parley_outbox_drops", "Events kept from slow readers", "why")
        self._resumes = self._counter("parley_resumes", "Resumes by verdict", "verdict")
        self._closes = self._counter("parley_closes", "Connections closed by the server, by reason", "reason")
        self._syncs = self._counter("parley_syncs", "Synced chatrooms by verdict", "verdict")
        self._bus = self._counter("parley_bus_messages", "Hints between nodes, by what became of them", "what")
        self._batches = Histogram(
            "parley_commit_batch_size", "Durable events a commit", buckets=_BATCH, registry=registry
        )
        self._commits = Histogram("parley_commit_seconds", "Time a commit takes", buckets=_SECONDS, registry=registry)
        self._lag = Histogram(
            "parley_loop_lag_seconds", "How late the event loop is", buckets=_SECONDS, registry=registry
        )
        self._bus_connected = Gauge(
            "parley_bus_connected",
            "1 while hints of other nodes come; else events are swept for",
            registry=registry,
        )
        self._nodes = Gauge("parley_nodes", "Other nodes that were alive at the last beat", registry=registry)
        self._tasks = Gauge("parley_tasks", "Tasks of the event loop", registry=registry)
        self._requests = _Children(
            Histogram(
                "parley_http_request_seconds",
                "HTTP requests by route, method and status",
                ["route", "method", "status"],
                buckets=_SECONDS,
                registry=registry,
            )
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> _Tally:
        self._tallies.append(_Tally(Counter(name, meaning, labels, registry=self._registry)))
        return self._tallies[-1]

    def watch_sessions(self, attached: Callable[[], float], detached: Callable[[], float]) -> None:
        """Asks these for the number of sessions with a socket, and without one, whenever metrics are read."""
        self._sessions.labels("attached").set_function(attached)
        self._sessions.labels("detached").set_function(detached)

    def watch_online(self, here: Callable[[], float], elsewhere: Callable[[], float]) -> None:
        """Asks these, whenever metrics are read, for the number of users who are online here, and on other nodes."""
        self._online.labels("here").set_function(here)
        self._online.labels("elsewhere").set_function(elsewhere)

    def watch_bus(self, connected: Callable[[], float], nodes: Callable[[], float]) -> None:
        """Asks these, whenever metrics are read, whether the bus is connected and how many other nodes there are."""
        self._bus_connected.set_function(connected)
        self._nodes.set_function(nodes)

    def bus(self, what: str, count: int) -> None:
        """So many hints were `sent`, `received`, `dropped` since Redis was away, or `unreadable`."""
        self._bus[what,] += count

    def watch_openings(self, working: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Asks these for the number of clients that are being let in, and of those that wait for it."""
        self._openings.labels("working").set_function(working)
        self._openings.labels("waiting").set_function(waiting)

    def command(self, kind: str, outcome: str) -> None:
        """A command was handled: `ok`, or refused with an error code."""
        self._commands[kind, outcome] += 1

    def delivered(self, count: int) -> None:
        """An event went into the outboxes of `count` sessions."""
        self._deliveries[()] += count

    def dropped(self, why: str, count: int) -> None:
        """So many events were kept from a slow reader: `ephemeral` ones, or all while it is `lagging`."""
        self._drops[why,] += count

    def resumed(self, verdict: str) -> None:
        """A client asked to resume: `resumed`, or the reason of the reset."""
        self._resumes[verdict,] += 1

    def closed(self, reason: str) -> None:
        """The server closed a connection, for one of the reasons in the table of close codes."""
        self._closes[reason,] += 1

    def sync(self, verdict: str) -> None:
        """A chatroom was synced, with this verdict."""
        self._syncs[verdict,] += 1

    def committed(self, events: int, seconds: float) -> None:
        """A commit of so many durable events took so long."""
        self._batches.observe(events)
        self._commits.observe(seconds)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """An HTTP request was answered. `route` is the template, not the path."""
        self._requests[route, method, str(status)].observe(seconds)

    async def watch_loop(self) -> Never:
        """Measures for ever how late the event loop is, and counts its tasks when asked; run it as a task."""
        loop = asyncio.get_running_loop()
        self._tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._lag.observe(loop.time() - due)

    def render(self) -> bytes:
        """All of them in Prometheus' text format, version 0.0.4."""
        for tally in self._tallies:
            tally.flush()
        return generate_latest(self._registry)
