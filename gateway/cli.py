"""The command line: `parley serve`, `parley chat`, `parley migrate`, `parley keys …`, `parley users …`,
`parley files …`.

Other packages add commands by entry points of the group `parley.commands`, as `parley bench` is.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
import uvloop

from crypto import keyfile
from crypto.keyfile import Keys, SecretError
from crypto.sealing import MasterKeyMissing
from crypto.tokens import AccessTokens
from gateway import logs
from gateway.client import ClientClosed
from gateway.config import Config, ConfigError
from gateway.urls import key_text
from gateway.worker import Worker, WorkerRefusedError
from protocol.errors import ChatError
from storage import activation
from storage.database import Database, DatabaseError, check_migrated, migrate
from storage.embedded import EmbeddedPostgresError, database_url
from storage.embedded_valkey import EmbeddedValkeyError
from storage.redis_client import RedisUrlError

if TYPE_CHECKING:
    from gateway.files.collector import Swept


class Refusal(click.ClickException):
    """One line for a person: what is wrong, and what to do."""


ADDED = "parley.commands"
"""The group of entry points whose objects are click commands."""


class BadSetting(Refusal):
    """A refusal with a setting at fault."""

    exit_code = 2


class Commands(click.Group):
    """Commands whose expected failures are told in a line, not in a traceback; those of other packages among them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our own, and those that were added."""
        return sorted({*super().list_commands(ctx), *entry_points(group=ADDED).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Loads a command of another package when it is asked for, so that the others start as fast as before."""
        if own := super().get_command(ctx, cmd_name):
            return own
        added: click.Command | None = next((it.load() for it in entry_points(group=ADDED, name=cmd_name)), None)
        return added

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (ConfigError, SecretError, RedisUrlError) as error:
            raise BadSetting(str(error)) from error
        except (DatabaseError, EmbeddedPostgresError, EmbeddedValkeyError, MasterKeyMissing, ChatError) as error:
            raise Refusal(str(error)) from error
        except WorkerRefusedError as refused:  # the worker has said why
            ctx.exit(refused.status)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="parley", message="%(prog)s %(version)s")
def main() -> None:
    """Parley, a real-time messaging server. Settings are environment variables; README.md lists them."""


@main.command()
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes that share the ports and the work; one for each core is a good number.",
)
def serve(workers: int) -> None:
    """Start the server, and run until SIGTERM or Ctrl-C."""
    config = _config(sys.stdout)
    if workers > 1:
        from gateway.workers import serve_workers

        uvloop.run(serve_workers(config, workers))
        return
    from gateway.__main__ import serve as run  # the wiring imports everything; the other commands need little

    uvloop.run(run(config))


@main.command(hidden=True)
@click.argument("number", type=int)
@click.argument("count", type=int)
@click.argument("directory", type=click.Path(path_type=Path))
def worker(number: int, count: int, directory: Path) -> None:
    """Run one of the workers of `parley serve --workers`, which alone can start it."""
    from gateway.__main__ import serve as run

    config = _config(sys.stdout, worker=number)
    uvloop.run(run(config, Worker.of_parent(number, count, directory)))


@main.command()
@click.argument("room", required=False)
@click.option("--url", default="ws://127.0.0.1:8000/ws", show_default=True, help="Where the server is.")
@click.option("--user", help="The user name; it is asked for otherwise.")
def chat(room: str | None, url: str, user: str | None) -> None:
    """Talk in the terminal, in ROOM if you are a member.

    The password is asked for, or taken from PARLEY_PASSWORD. PARLEY_TOKEN may hold an access token or an API key
    instead.
    """
    from gateway.terminal.account import Rest  # the server needs none of this
    from gateway.terminal.shell import run as talk
    from gateway.terminal.sign_in import sign_in

    try:
        rest = Rest.beside(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--url") from error
    try:
        asyncio.run(talk(url, sign_in(rest, user, os.environ), room))
    except ClientClosed as closed:
        raise Refusal(f"The server ended the session: {closed.reason or closed.code}.") from closed


@main.command(name="migrate")
def migrate_() -> None:
    """Bring the database's schema up to date."""
    for name in asyncio.run(_migrate(_config(sys.stderr))) or ["nothing to do"]:
        click.echo(name)


@main.group()
def keys() -> None:
    """The keys behind tokens and stored messages."""


@keys.command()
def show() -> None:
    """List the ids of the keys, newest first, and the public Noise key. Secrets are not shown."""
    _print_ids(_config(sys.stderr).load_keys())


@keys.command()
def rotate() -> None:
    """Put new keys in front of the old ones. A running server takes them on SIGHUP. The Noise key stays."""
    config = _config(sys.stderr)
    if config.production or config.master_keys or config.jwt_keys:
        raise ConfigError(
            "Keys that come from PARLEY_MASTER_KEYS and PARLEY_JWT_KEYS are rotated there: put a new one in front."
        )
    keyfile.ensure(config.key_directory)
    _print_ids(keyfile.rotate(config.key_directory))


@main.group()
def users() -> None:
    """The accounts of people and bots."""


@users.command()
@click.argument("name")
def deactivate(name: str) -> None:
    """Take the account NAME (a user name or an e-mail address) out of use, and its bots.

    Its sign-ins end, and a running server closes its sockets within 2 seconds. What it wrote stays.
    """
    click.echo(f"{asyncio.run(_set_active(_config(sys.stderr), name, is_active=False))} is deactivated")


@users.command()
@click.argument("name")
def activate(name: str) -> None:
    """Give the account NAME back. Its user signs in again; the keys of its bots are good as before."""
    click.echo(f"{asyncio.run(_set_active(_config(sys.stderr), name, is_active=True))} is active")


@main.group()
def files() -> None:
    """The files that people have uploaded."""


@files.command()
@click.option(
    "--age",
    type=click.FloatRange(min=0),
    default=3_600.0,
    show_default=True,
    help="Seconds that bytes which belong to no file are left alone: an upload may be about to name them.",
)
def sweep(age: float) -> None:
    """Remove at once what a running server removes within an hour: what nobody needs, and what is left of crashes."""
    swept = asyncio.run(_sweep(_config(sys.stderr), age))
    for count, what in zip(swept, ("unused", "expired", "blobs without a file", "left in the spool"), strict=True):
        click.echo(f"{count} {what}")


def _config(log: TextIO, **fields: object) -> Config:
    config = Config.from_env()
    logs.set_up(config.log_level, log, **fields)
    return config


def _print_ids(found: Keys) -> None:
    for name, _ in found.master:
        click.echo(f"master {name}")
    for key in AccessTokens(found.jwt_pems, "", 0).jwks()["keys"]:
        click.echo(f"jwt {key['kid']}")
    click.echo(f"noise {key_text(found.noise.public)}")


async def _migrate(config: Config) -> list[str]:
    async with _database(config) as database, database.acquire() as connection:
        return await migrate(connection)


async def _set_active(config: Config, name: str, *, is_active: bool) -> str:
    """Raises Refusal for a name that nobody has, and for a bot that has ended for good."""
    async with _database(config) as database, database.transaction() as connection:
        await check_migrated(connection)
        found = await activation.find(connection, name)
        if found is None:
            raise Refusal(f"There is no user {name}.")
        if found.is_revoked:
            raise Refusal(f"{found.username} is a bot that its owner has revoked: it is deactivated for good.")
        await (activation.activate if is_active else activation.deactivate)(connection, found.id)
    return found.username


async def _sweep(config: Config, age: float) -> Swept:
    from gateway.files.collector import Collector  # the other commands need none of this
    from gateway.files.place import open_blobs
    from gateway.metrics import Metrics

    async with _database(config) as database, open_blobs(config) as blobs:
        async with database.acquire() as connection:
            await check_migrated(connection)
        return await Collector(database, blobs, config.unused_files, Metrics().files).sweep(age)


@asynccontextmanager
async def _database(config: Config) -> AsyncIterator[Database]:
    async with database_url(config.database_url, config.data) as url:
        database = await Database.open(url, pool_size=1)
        try:
            yield database
        finally:
            await database.close()
