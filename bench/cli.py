"""`parley bench …`: what Parley costs, measured from outside."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import msgspec
import uvloop

from bench import files, histories, report_html, scenarios, storms
from bench import mixed as mixed_days
from bench import nodes as several
from bench.display import Display, print_table
from bench.durations import duration
from bench.environment import environment
from bench.faults.run import Options as FaultOptions
from bench.faults.run import faults as run_faults
from bench.files import FileOptions
from bench.histories import PLACES
from bench.nodes import NodeOptions
from bench.parley import TRANSPORTS, ParleyDeployment
from bench.peers import pairs
from bench.results import Comparison, Report, Run, read_json, write_json
from bench.scenarios import Scenario, Sizes
from bench.stage import staged
from bench.target import TargetError

R = TypeVar("R")
Command = Callable[..., None]
Option = Callable[[Command], Command]

POSITIVE = click.IntRange(min=1)
VOID = 3
"""Exit code of a run in which the generator was too busy to measure."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Load for a Parley server. bench/README.md tells what is measured, and how."""


_OUT = (
    click.option("--json", "json", type=click.Path(dir_okay=False, path_type=Path), help="Results for machines."),
    click.option("--report", "html", type=click.Path(dir_okay=False, path_type=Path), help="A page with plots."),
)
_URL = click.option("--url", help="A running server, as in http://127.0.0.1:8000. Without it one is started.")
_LOAD = (
    click.option("--transport", type=click.Choice(TRANSPORTS), default="ws", show_default=True),
    click.option("--processes", type=POSITIVE, default=1, show_default=True, help="Generator processes."),
    click.option("--duration", type=duration, default="10s", show_default=True, help="What is measured: 10s, 5m, 8h."),
)
_RATE = click.option(
    "--rate", "rates", type=click.FloatRange(0.1, 1e6), multiple=True, help="Messages a second. May be repeated."
)
_PEERS = (
    click.option(
        "--peers",
        default="",
        callback=lambda _context, _option, given: _known(given),
        help=f"Other servers that get the same load by turns: {','.join(pairs.NAMES)}. Parley stands beside each.",
    ),
    click.option("--rounds", type=POSITIVE, default=5, show_default=True, help="Turns of each server, with --peers."),
)
_USERS = click.option("--users", type=POSITIVE, default=50, show_default=True, help="Accounts that sessions belong to.")


def _in_flight(*default: int) -> Option:
    text = ", ".join(map(str, default))
    return click.option(
        "--in-flight",
        type=POSITIVE,
        multiple=True,
        help=f"Messages under way, always. May be repeated.  [default: {text}, without --rate]",
        callback=lambda context, _option, given: given or (() if context.params.get("rates") else default),
    )


def _known(given: str) -> list[str]:
    """The names in a list. Raises click.BadParameter."""
    names = list(dict.fromkeys(filter(None, given.split(","))))
    if unknown := set(names) - set(pairs.NAMES):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: there is only {', '.join(pairs.NAMES)}")
    return names


def _with(*options: Option) -> Option:
    """All of these options."""
    return lambda command: reduce(lambda made, option: option(made), reversed(options), command)


_DAY = _with(
    _URL,
    click.option("--transport", type=click.Choice(["ws", "ws-msgpack"]), default="ws", show_default=True),
    *_LOAD[1:],
    click.option("--connections", type=POSITIVE, default=1000, show_default=True, help="Sessions, each of an account."),
    click.option(
        "--rate",
        type=click.FloatRange(0.1, 1e6),
        help="Messages a second; all else goes with it.  [default: connections / 100]",
    ),
)


@main.command()
@_with(_URL, *_LOAD, _RATE, _in_flight(1, 50), _USERS, *_PEERS, *_OUT)
@click.option("--connections", type=POSITIVE, default=1000, show_default=True, help="Sessions that hear the chatroom.")
def fanout(connections: int, users: int, **given: Any) -> None:
    """One chatroom that everyone hears."""
    _load("fanout", partial(scenarios.Fanout, Sizes(connections, users)), connections=connections, users=users, **given)


@main.command()
@_with(_URL, *_LOAD, _RATE, _in_flight(256), *_PEERS, *_OUT)
@click.option("--connections", type=POSITIVE, default=1000, show_default=True, help="Sessions, each of an account.")
@click.option("--rooms", type=POSITIVE, default=1000, show_default=True, help="Chatrooms.")
@click.option("--members", type=POSITIVE, default=10, show_default=True, help="Sessions that hear each.")
def rooms(connections: int, rooms: int, members: int, **given: Any) -> None:
    """Many chatrooms of a few."""
    sizes = Sizes(connections, connections, rooms, members)
    _load("rooms", partial(scenarios.Rooms, sizes), connections=connections, rooms=rooms, members=members, **given)


@main.command()
@_with(_URL, *_LOAD, _RATE, _in_flight(256), *_PEERS, *_OUT)
@click.option("--rooms", type=POSITIVE, default=100, show_default=True, help="Chatrooms.")
@click.option("--members", type=POSITIVE, default=2, show_default=True, help="Sessions that hear each.")
def durable(rooms: int, members: int, **given: Any) -> None:
    """Messages that are acked when they are on disk."""
    sizes = Sizes(rooms * members, rooms * members, rooms, members)
    _load("durable", partial(scenarios.Rooms, sizes), rooms=rooms, members=members, **given)


@main.command()
@_with(_URL, *_LOAD[1:], _RATE, _in_flight(1, 50), *_OUT)
@click.option("--connections", type=POSITIVE, default=500, show_default=True, help="Bots, each with one session.")
def tcp(connections: int, url: str | None, in_flight: tuple[int, ...], rates: tuple[float, ...], **given: Any) -> None:
    """Bots in one chatroom over TCP, without Noise and with it."""
    duration, processes = given["duration"], given["processes"]
    scenario = scenarios.Fanout(Sizes(connections, connections), in_flight, rates, duration)
    server = ParleyDeployment(url, "tcp")
    options = {"url": url, "connections": connections, "in_flight": in_flight, "rates": rates, **given}

    async def both(display: Display) -> Measured:
        runs = await scenarios.clear_and_sealed(server, scenario, processes, display)
        return Measured(runs, {server.name: server.about()})

    _show("tcp", options, both)


@main.command()
@_with(_URL, *_LOAD, _USERS, *_PEERS, *_OUT)
@click.option(
    "--connections",
    "steps",
    type=POSITIVE,
    multiple=True,
    default=(1000, 5000, 10_000, 15_000),
    show_default=True,
    help="Sessions, step by step. May be repeated.",
)
@click.option("--rooms", type=POSITIVE, default=1, show_default=True, help="Chatrooms that each of them is in.")
def idle(steps: tuple[int, ...], users: int, rooms: int, **given: Any) -> None:
    """Sessions that do nothing, and the memory they take."""
    scenario = scenarios.Idle(Sizes(max(steps), users, rooms), steps, given["duration"])
    _measure("idle", scenario, connections=steps, users=users, rooms=rooms, **given)


@main.command()
@_with(_URL, _LOAD[1], _USERS, *_OUT)
@click.option("--transport", type=click.Choice(storms.TRANSPORTS), default="ws", show_default=True)
@click.option("--connections", type=POSITIVE, default=5000, show_default=True, help="Sessions that are cut.")
@click.option("--missed", type=POSITIVE, default=100, show_default=True, help="Messages that each of them misses.")
@click.option(
    "--within", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, help="Seconds in which all come back."
)
def storm(connections: int, users: int, missed: int, within: float, **given: Any) -> None:
    """Everyone is cut at once, misses messages, and comes back."""
    scenario = storms.Storm(connections, users, missed, within)
    _measure("storm", scenario, connections=connections, users=users, missed=missed, within=within, **given)


@main.command()
@_with(_URL, *_LOAD, *_OUT)
@click.option("--messages", type=POSITIVE, default=100_000, show_default=True, help="Messages in the chatroom.")
@click.option("--rate", type=click.FloatRange(0.1, 1e5), default=100.0, show_default=True, help="Pages a second.")
@click.option(
    "--place",
    "places",
    type=click.Choice(list(PLACES)),
    multiple=True,
    default=list(PLACES),
    show_default=True,
    help="Where the pages lie. May be repeated.",
)
def history(messages: int, rate: float, places: tuple[str, ...], **given: Any) -> None:
    """Pages of 50 messages, over sockets and by REST."""
    scenario = histories.History(messages, places, rate, given["duration"])
    _measure("history", scenario, messages=messages, rate=rate, places=places, **given)


@main.command()
@_with(_DAY, *_OUT)
def mixed(connections: int, rate: float | None, **given: Any) -> None:
    """A day in the life: most only hear, some write, type, read, come, go, and send files."""
    scenario = mixed_days.Mixed(connections, rate, given["duration"])
    _measure("mixed", scenario, connections=connections, rate=rate, **given)


@main.command()
@_with(_DAY, *_OUT)
def soak(connections: int, rate: float | None, **given: Any) -> None:
    """The same for long: does memory grow?"""
    scenario = mixed_days.Soak(connections, rate, given["duration"])
    _measure("soak", scenario, connections=connections, rate=rate, **given)


@main.command(name="files")
@_with(_URL, *_OUT)
@click.option(
    "--duration", type=click.FloatRange(0.1, 600), default=3.0, show_default=True, help="Seconds of each measurement."
)
@click.option("--size", type=POSITIVE, default=1000, show_default=True, help="MB of the file for memory.")
@click.option("--transfers", type=POSITIVE, default=20, show_default=True, help="Transfers beside chat.")
@click.option("--rate", type=click.FloatRange(0.001), default=1.0, show_default=True, help="MB/s of each, in one run.")
def of_files(json: Path | None, html: Path | None, **given: Any) -> None:
    """Files in and out, and what they do to chat and memory."""
    _show("files", {"json": json, "html": html, **given}, _plainly(partial(files.files, FileOptions(**given))))


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


@main.command()
def peers() -> None:
    """Which other servers are installed for --peers, and how to get those that are not."""
    print("\n".join(pairs.listed()))


@main.group()
def nodes() -> None:
    """Two nodes, as workers of a server of our own: what the second brings, and what it costs."""


@nodes.command(name="fanout")
@_with(*_LOAD, *_OUT)
@click.option("--connections", type=POSITIVE, default=2000, show_default=True, help="Sessions, on each of the servers.")
@click.option("--rooms", type=POSITIVE, default=20, show_default=True, help="Chatrooms that they hear, one each.")
@click.option("--in-flight", type=POSITIVE, default=40, show_default=True)
@click.option("--rounds", type=POSITIVE, default=3, show_default=True, help="Turns of each server.")
def nodes_fanout(json: Path | None, html: Path | None, **given: Any) -> None:
    """Many chatrooms, on one process and on two workers by turns."""
    work = partial(several.fanout, NodeOptions(**given))
    _show("nodes fanout", {"json": json, "html": html, **given}, _plainly(work))


@nodes.command(name="hop")
@_with(_LOAD[0], _LOAD[2], *_OUT)
def nodes_hop(json: Path | None, html: Path | None, **given: Any) -> None:
    """How much later the other node has an event."""
    _show("nodes hop", {"json": json, "html": html, **given}, _plainly(partial(several.hop, NodeOptions(**given))))


@nodes.command(name="idle")
@_with(*_LOAD, _USERS, *_OUT)
@click.option("--sessions", type=POSITIVE, multiple=True, default=(1000, 2000, 4000), show_default=True)
@click.option("--rooms", type=POSITIVE, multiple=True, default=(1000, 4000, 16000), show_default=True)
def nodes_idle(
    sessions: tuple[int, ...], rooms: tuple[int, ...], json: Path | None, html: Path | None, **given: Any
) -> None:
    """What nodes use that have nothing to do."""
    work = partial(several.idle, NodeOptions(**given), sessions=sorted(sessions), rooms=sorted(rooms))
    _show("nodes idle", {"json": json, "html": html, "sessions": sessions, "rooms": rooms, **given}, _plainly(work))


class Measured(NamedTuple):
    """Runs, what the servers say about themselves, by name, and how they compare."""

    runs: list[Run]
    about: Mapping[str, Mapping[str, str]] = {}
    comparisons: Sequence[Comparison] = ()


def _load(name: str, scenario: Callable[..., Scenario], **given: Any) -> None:
    """A scenario that takes loads."""
    _measure(name, scenario(given["in_flight"], given["rates"], given["duration"]), **given)


def _measure(name: str, scenario: Scenario, **given: Any) -> None:
    """A scenario on Parley, or by turns on Parley and on others."""
    server = ParleyDeployment(given["url"], given["transport"])
    names = given.get("peers") or []

    async def alone(display: Display) -> Measured:
        async with staged(server, given["processes"], display) as stage:
            await scenario.prepare(stage)
            return Measured(await scenario.runs(stage), {server.name: server.about()})

    async def by_turns(display: Display) -> Measured:
        servers = [server, *map(pairs.peer, names)]
        return Measured(*await pairs.paired(scenario, servers, given["rounds"], given["processes"], display))

    _show(name, given, by_turns if names else alone)


def _plainly(work: Callable[[Display], Awaitable[list[Run]]]) -> Callable[[Display], Awaitable[Measured]]:
    """Work with servers that say nothing about themselves."""

    async def measured(display: Display) -> Measured:
        return Measured(await work(display))

    return measured


def _show(name: str, given: dict[str, Any], work: Callable[[Display], Awaitable[Measured]]) -> None:
    """Does it, prints the table, writes what was asked for. Exits with 1 when anything was wrong, and 3 when void."""
    with Display() as display:
        runs, about, comparisons = _complete(work(display))
    options = {key: value for key, value in given.items() if key not in ("json", "html")}
    report = Report(name, options, environment(about), runs, list(comparisons))
    print_table(report)
    if given["json"] is not None:
        write_json(report, given["json"])
    if given["html"] is not None:
        report_html.write(report, given["html"])
    sys.exit(1 if not report.clean else VOID if report.void else 0)


def _complete(work: Awaitable[R]) -> R:
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
