import asyncio
from base64 import b64decode, urlsafe_b64decode
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result

from crypto.noise import PrivateKey
from gateway.cli import main
from storage.database import migrations


class Cli:
    """The command line, with an environment of its own."""

    def __init__(self, data: Path) -> None:
        self.env: dict[str, str | None] = {"PARLEY_DATA": str(data), "DATABASE_URL": None, "PARLEY_ENV": None}

    def run(self, *arguments: str) -> Result:
        """What `parley ARGUMENTS` does."""
        return CliRunner().invoke(main, arguments, env=self.env, prog_name="parley")


@pytest.fixture
def cli(tmp_path: Path, own_logging: None) -> Cli:
    """The command line on an empty data directory."""
    return Cli(tmp_path / "data")


def _refused(result: Result, status: int, words: str) -> None:
    assert result.exit_code == status
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert result.stderr.count("\n") == 1


def test_help_names_the_commands(cli: Cli) -> None:
    """`parley --help` shows what there is."""
    result = cli.run("--help")
    assert result.exit_code == 0
    assert all(command in result.output for command in ("serve", "migrate", "keys", "users"))


def test_bench_is_a_command(cli: Cli) -> None:
    """`parley bench` is the load generator, listed among the others, with its own scenarios and options."""
    assert "bench" in cli.run("--help").output
    assert "fanout" in cli.run("bench", "--help").output
    assert "--in-flight" in cli.run("bench", "fanout", "--help").output
    assert cli.run("no-such-command").exit_code == 2


def test_migrate_makes_a_database(cli: Cli) -> None:
    """Without DATABASE_URL, migrate works on the embedded server and stops it again. Once is enough."""
    result = cli.run("migrate")
    assert result.stdout.splitlines() == [migration.name for migration in migrations()]
    assert not (Path(str(cli.env["PARLEY_DATA"])) / "postgres" / "postmaster.pid").exists()
    assert cli.run("migrate").stdout == "nothing to do\n"


def test_migrate_uses_database_url(cli: Cli, database_url: str) -> None:
    """With DATABASE_URL, nothing is started."""
    cli.env["DATABASE_URL"] = database_url
    assert cli.run("migrate").stdout == "nothing to do\n"
    assert not Path(str(cli.env["PARLEY_DATA"])).exists()


def test_database_away(cli: Cli, tmp_path: Path) -> None:
    """A database that does not answer is told in one line."""
    cli.env["DATABASE_URL"] = f"postgresql://parley@/parley?host={tmp_path}"
    _refused(cli.run("migrate"), 1, "DATABASE_URL cannot be used")


@pytest.mark.parametrize("command", ["activate", "deactivate"])
def test_a_user_who_is_not_there(cli: Cli, database_url: str, command: str) -> None:
    """A name that nobody has is told in one line; so is an address."""
    cli.env["DATABASE_URL"] = database_url
    _refused(cli.run("users", command, "nobody"), 1, "There is no user nobody")
    _refused(cli.run("users", command, "no@body"), 1, "There is no user no@body")


def test_a_database_that_is_not_up_to_date(cli: Cli, database_url: str) -> None:
    """Accounts are changed in a database that this Parley knows, and nothing is migrated on the way."""
    cli.env["DATABASE_URL"] = database_url
    asyncio.run(_forget_migrations(database_url))
    _refused(cli.run("users", "deactivate", "ann"), 1, "run `parley migrate`")
    assert asyncio.run(_forget_migrations(database_url)) == "DELETE 0"


async def _forget_migrations(url: str) -> str:
    connection = await asyncpg.connect(url)
    status: str = await connection.execute("DELETE FROM schema_migrations")
    await connection.close()
    return status


def test_wrong_setting(cli: Cli) -> None:
    """A wrong setting is told in one line that names it, with a status of its own."""
    cli.env["PARLEY_HTTP"] = "nowhere"
    _refused(cli.run("serve"), 2, "PARLEY_HTTP")


@pytest.mark.parametrize("command", [["serve"], ["keys", "show"]])
def test_production_needs_secrets(cli: Cli, command: list[str]) -> None:
    """In production no key is made up: the missing setting is named, and no key file appears."""
    cli.env["PARLEY_ENV"] = "production"
    _refused(cli.run(*command), 2, "PARLEY_MASTER_KEYS is not set")
    assert not (Path(str(cli.env["PARLEY_DATA"])) / "keys").exists()


def test_keys_show_ids_only(cli: Cli) -> None:
    """Keys are listed by id, the Noise key by its public half in base64url; no secret is printed."""
    result = cli.run("keys", "show")
    kinds = [line.split()[0] for line in result.stdout.splitlines()]
    assert kinds == ["master", "jwt", "noise"]
    directory = Path(str(cli.env["PARLEY_DATA"])) / "keys"
    assert (directory / "master.keys").read_text().strip().split(":")[1] not in result.output
    noise = (directory / "noise.key").read_text().strip()
    assert noise not in result.output
    assert urlsafe_b64decode(result.stdout.split()[-1] + "=") == PrivateKey(b64decode(noise)).public


def test_keys_rotate(cli: Cli) -> None:
    """After a rotation new keys stand in front, and the old ones are still there."""
    before = cli.run("keys", "show").stdout.splitlines()
    after = cli.run("keys", "rotate").stdout.splitlines()
    assert [line.split()[0] for line in after] == ["master", "master", "jwt", "jwt", "noise"]
    assert [after[1], *after[3:]] == before
    assert cli.run("keys", "show").stdout.splitlines() == after


def test_keys_from_settings_are_rotated_there(cli: Cli) -> None:
    """Keys that come from the environment are not ours to change."""
    cli.env["PARLEY_MASTER_KEYS"] = "a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
    _refused(cli.run("keys", "rotate"), 2, "PARLEY_MASTER_KEYS")
