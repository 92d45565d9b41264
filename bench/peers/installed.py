"""Where the other servers' programs are, and how to get those that are not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec

from bench.target import TargetError

HERE = Path(__file__).parent
"""The small servers, and the package.json with their versions."""
FOLDER = "PARLEY_BENCH_PEERS"
"""Environment variable: the folder whose `node_modules` are used, where it is not the one of the servers."""
EJABBERD = "apt install ejabberd erlang-p1-pgsql"


class NotInstalledError(TargetError):
    """Something that a server needs is missing; the message says what, and how to get it."""


def modules() -> Path:
    """The `node_modules` in use, whether it is there or not."""
    return Path(os.environ.get(FOLDER) or HERE) / "node_modules"


def package(name: str) -> str:
    """The version of an npm package that is installed. Raises NotInstalledError."""
    found = modules() / name / "package.json"
    if not found.is_file():
        raise NotInstalledError(f"{name} is not in {modules()}. Install it with: {npm_install()}")
    return str(msgspec.json.decode(found.read_bytes())["version"])


def npm_install() -> str:
    """The command that installs what the small servers run on."""
    pinned = msgspec.json.decode((HERE / "package.json").read_bytes())["dependencies"]
    versions = " ".join(f"{name}@{version}" for name, version in pinned.items())
    return f"npm install --no-save --no-package-lock --prefix {modules().parent} {versions}"


def program(name: str, how: str) -> Path:
    """A program on the path. Raises NotInstalledError."""
    found = shutil.which(name)
    if found is None:
        raise NotInstalledError(f"{name} is not installed. Install it with: {how}")
    return Path(found)


def node() -> Path:
    """Node itself. Raises NotInstalledError."""
    return program("node", "apt install nodejs npm")


def bun() -> Path:
    """Bun, which comes as an npm package. Raises NotInstalledError."""
    package("bun")
    return modules() / ".bin" / "bun"


def ejabberd() -> Path:
    """The folder of ejabberd's own modules, as Debian's package has it. Raises NotInstalledError."""
    program("erl", EJABBERD)
    found = sorted(Path("/usr/lib").glob("*/ejabberd-*/ebin/ejabberd.app"))
    if not found or not schema().is_file():
        raise NotInstalledError(f"ejabberd is not installed. Install it with: {EJABBERD}")
    return found[-1].parent


def schema() -> Path:
    """ejabberd's tables for PostgreSQL."""
    return Path("/usr/share/ejabberd/sql/pg.sql")
