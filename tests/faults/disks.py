"""A disk that is soon full."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

SIZE = 48
"""Megabytes of the disk: the schema and its indexes take some twelve."""


@contextmanager
def mounted_disk() -> Iterator[Path]:
    """A file system of its own, which PostgreSQL's account owns. Skips the test where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    with TemporaryDirectory(prefix="parley-disk-") as name:
        disk = Path(name)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", name], capture_output=True)
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
        try:
            owner = pwd.getpwnam("nobody")
            os.chown(disk, owner.pw_uid, owner.pw_gid)
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


def fill(disk: Path) -> Path:
    """A file that takes all that is left, to the last page."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as out:
        for size in (2**20, 2**12):
            try:
                while out.write(b"\0" * size):
                    pass
            except OSError:
                pass
    return ballast
