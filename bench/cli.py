"""`parley bench …`: what Parley costs, measured from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import uvloop

from bench import files, report, report_html, scenarios, storms
from bench import nodes as several
from bench.faults.run import Options as FaultOptions
from bench.faults.run import faults as run_faults
from bench.files import FileOptions
from bench.report import Result
from bench.results import read_json
from bench.scenarios import Options
from bench.target import TargetError

Given = TypeVar("Given", Options, FileOptions)
R = TypeVar("R")

POSITIVE = click.IntRange(min=1)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load for a Parley server. bench/README.md tells what is measured, and how."""


_OPTIONS = (
    click.option("--url", help="A running server, as in http://127.0.0.1:8000. Without it one is started."),
    click.option("--codec", type=click.Choice(["json", "msgpack"]), default="json", show_default=True),
    click.option(
        "--duration", type=click.FloatRange(0.1, 3600), default=10.0, show_default=True, help="Seconds measured."
    ),
    click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="Results for machines."),
)


def _common(command: Callable[..., None]) -> Callable[..., None]:
    for option in _OPTIONS:
        command = option(command)
    return command


@main.command()
@_common
@click.option("--connections", type=POSITIVE, default=1000, show_default=True, help="Sessions that hear the chatroom.")
@click.option("--users", type=POSITIVE, default=50, show_default=True, help="Accounts that the sessions belong to.")
@click.option("--in-flight", type=POSITIVE, multiple=True, default=(1, 50), show_default=True, help="May be repeated.")
def fanout(url: str | None, codec: str, duration: float, out: Path | None, **given: Any) -> None:
    """One chatroom that everyone hears."""
    _run(scenarios.fanout, Options(url=url, codec=codec, duration=duration, rooms=1, **given), out)


@main.command()
@_common
@click.option("--connections", type=POSITIVE, default=500, show_default=True, help="Bots, each with one session.")
@click.option("--in-flight", type=POSITIVE, multiple=True, default=(1, 50), show_default=True, help="May be repeated.")
def tcp(url: str | None, codec: str, duration: float, out: Path | None, **given: Any) -> None:
    """Bots in one chatroom over TCP, without Noise and with it."""
    _run(scenarios.tcp, Options(url=url, codec=codec, duration=duration, rooms=1, users=1, **given), out)


@main.command()
@_common
@click.option("--rooms", type=POSITIVE, default=100, show_default=True, help="Chatrooms of two.")
@click.option("--users", type=click.IntRange(min=2), help="Accounts, each with one session.  [default: two a chatroom]")
@click.option("--in-flight", type=POSITIVE, multiple=True, default=(256,), show_default=True, help="May be repeated.")
def durable(url: str | None, codec: str, duration: float, out: Path | None, rooms: int, **given: Any) -> None:
    """Messages that are acked when they are on disk."""
    users = given["users"] or 2 * rooms
    options = Options(url, users, given["in_flight"], rooms, users, duration, codec)
    _run(scenarios.durable, options, out)


@main.command()
@_common
@click.option("--connections", type=POSITIVE, default=5000, show_default=True, help="Sessions.")
@click.option("--users", type=POSITIVE, default=50, show_default=True, help="Accounts that the sessions belong to.")
@click.option("--rooms", type=POSITIVE, default=1, show_default=True, help="Chatrooms that each of them is in.")
def idle(url: str | None, codec: str, duration: float, out: Path | None, **given: Any) -> None:
    """Sessions that do nothing, and the memory they take."""
    _run(scenarios.idle, Options(url=url, codec=codec, duration=duration, in_flight=(), **given), out)


@main.command()
@_common
@click.option("--connections", type=POSITIVE, default=5000, show_default=True, help="Sessions that are cut.")
@click.option("--users", type=POSITIVE, default=50, show_default=True, help="Accounts that the sessions belong to.")
def storm(url: str | None, codec: str, duration: float, out: Path | None, **given: Any) -> None:
    """Everyone is cut at once and comes back within --duration."""
    _run(storms.storm, Options(url=url, codec=codec, duration=duration, rooms=1, in_flight=(), **given), out)


@main.command(name="files")
@_OPTIONS[0]
@click.option(
    "--duration", type=click.FloatRange(0.1, 600), default=3.0, show_default=True, help="Seconds of each measurement."
)
@click.option("--size", type=POSITIVE, default=1000, show_default=True, help="MB of the file for memory.")
@click.option("--transfers", type=POSITIVE, default=20, show_default=True, help="Transfers beside chat.")
@click.option("--rate", type=click.FloatRange(0.001), default=1.0, show_default=True, help="MB/s of each, in one run.")
@_OPTIONS[3]
def of_files(out: Path | None, **given: Any) -> None:
    """Files in and out, and what they do to chat and memory."""
    _run(files.files, FileOptions(**given), out)


@main.command()
@click.option("--url", help="A running server, as in ws://127.0.0.1:8000/ws. Without it one is started.")
@click.option("--clients", type=POSITIVE, default=9, show_default=True, help="Bots that write and hear.")
@click.option("--rooms", type=POSITIVE, default=2, show_default=True, help="Chatrooms that all of them are in.")
@click.option("--rate", type=click.FloatRange(0.1, 10_000), default=9.0, show_default=True, help="Messages a second.")
@click.option("--duration", type=click.FloatRange(0.1, 86_400), default=30.0, show_default=True, help="Seconds.")
@click.option("--seed", type=int, envvar="PARLEY_SEED", help="Repeats a run's faults and messages.")
@click.option(
    "--history", type=click.Path(dir_okay=False, path_type=Path), help="Everything that happened, as JSON lines."
)
def faults(seed: int | None, **given: Any) -> None:
    """A bad network before a server: is anything lost, repeated or told wrongly?"""
    options = FaultOptions(seed=secrets.randbits(32) if seed is None else seed, **given)
    print(f"seed {options.seed}", flush=True)
    with _quiet(logging.getLogger("parley.client")):  # it tells of every connection that we break
        judged = _complete(run_faults(options))
    print(judged)
    sys.exit(0 if judged.clean else 1)


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@main.command(name="report")
@click.argument("results", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="The page.  [default: beside RESULTS]")
def of_results(results: Path, html: Path | None) -> None:
    """Draws RESULTS, which --json wrote earlier, as a page."""
    try:
        found = read_json(results)
    except msgspec.DecodeError as error:
        raise click.ClickException(f"{results} has no results of parley bench: {error}") from error
    html = html or results.with_suffix(".html")
    report_html.write(found, html)
    print(html)


@main.group()
def nodes() -> None:
    """Two nodes, as workers of a server of our own: what the second brings, and what it costs."""


def _of_nodes(command: Callable[..., None]) -> Callable[..., None]:
    for option in _OPTIONS[1:]:  # without --url
        command = option(command)
    return command


@nodes.command(name="fanout")
@_of_nodes
@click.option("--connections", type=POSITIVE, default=2000, show_default=True, help="Sessions, on each of the servers.")
@click.option("--rooms", type=POSITIVE, default=20, show_default=True, help="Chatrooms that they hear, one each.")
@click.option("--in-flight", type=POSITIVE, default=40, show_default=True)
@click.option("--rounds", type=POSITIVE, default=3, show_default=True, help="Turns of each server.")
def nodes_fanout(codec: str, duration: float, out: Path | None, in_flight: int, rounds: int, **given: int) -> None:
    """Many chatrooms, on one process and on two workers by turns."""
    options = Options(None, given["connections"], (in_flight,), given["rooms"], 0, duration, codec)
    _run(partial(several.fanout, rounds=rounds), options, out, "nodes fanout")


@nodes.command(name="hop")
@_of_nodes
def nodes_hop(codec: str, duration: float, out: Path | None) -> None:
    """How much later the other node has an event."""
    _run(several.hop, Options(None, 2, (), 1, 2, duration, codec), out, "nodes hop")


@nodes.command(name="idle")
@_of_nodes
@click.option("--sessions", type=POSITIVE, multiple=True, default=(1000, 2000, 4000), show_default=True)
@click.option("--rooms", type=POSITIVE, multiple=True, default=(1000, 4000, 16000), show_default=True)
@click.option("--users", type=POSITIVE, default=50, show_default=True, help="Accounts that the sessions belong to.")
def nodes_idle(
    codec: str, duration: float, out: Path | None, sessions: tuple[int, ...], rooms: tuple[int, ...], users: int
) -> None:
    """What nodes use that have nothing to do."""
    options = Options(None, 0, (), 1, users, duration, codec)
    _run(partial(several.idle, sessions=sorted(sessions), rooms=sorted(rooms)), options, out, "nodes idle")


def _run(
    scenario: Callable[[Given], Coroutine[Any, Any, list[Result]]],
    options: Given,
    out: Path | None,
    name: str | None = None,
) -> None:
    """Runs it, prints the table, and exits with 1 when anything was lost, repeated or out of order."""
    environment = report.environment()
    results = _complete(scenario(options))
    name = name or scenario.__name__
    print(report.table(name, results))
    if out is not None:
        whole = {"scenario": name, "options": asdict(options), "environment": environment}
        out.write_text(json.dumps({**whole, "runs": [asdict(result) for result in results]}, indent=2) + "\n")
    sys.exit(0 if all(result.clean for result in results) else 1)


def _complete(work: Coroutine[Any, Any, R]) -> R:
    """Runs it to its end, or until Ctrl-C."""
    _allow_many_sockets()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_interruptible(work))
    except TargetError as error:
        raise click.ClickException(str(error)) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise click.Abort from None


async def _interruptible(work: Awaitable[R]) -> R:
    """SIGTERM ends us as Ctrl-C does: what we have started is stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _allow_many_sockets() -> None:
    """Lifts our soft limit on open files to the hard one; a server that we start has it from us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
