from dataclasses import fields
from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, settings_table
from storage.places import Bucket


def test_defaults() -> None:
    """Nothing has to be set on a laptop."""
    config = Config.from_env({})
    assert config == Config()
    assert config.http_address == ("127.0.0.1", 8000)
    assert not config.production


def test_values() -> None:
    """Every kind of setting is read as what it is."""
    config = Config.from_env(
        {
            "PARLEY_ENV": "production",
            "PARLEY_DATA": "/srv/parley",
            "PARLEY_HTTP": "[::1]:0",
            "PARLEY_ORIGINS": "https://a.example, https://b.example,",
            "PARLEY_HEARTBEAT_INTERVAL": "2.5",
            "PARLEY_LIMIT_FRAME": "1024",
        }
    )
    assert config.production
    assert config.data == Path("/srv/parley")
    assert config.key_directory == Path("/srv/parley/keys")
    assert config.http_address == ("::1", 0)
    assert config.origins == ("https://a.example", "https://b.example")
    assert config.heartbeat_interval == 2.5
    assert config.limit_frame == 1024


def test_empty_is_unset() -> None:
    """An empty variable, as compose files make them, is the default."""
    assert Config.from_env({"PARLEY_HTTP": "", "PARLEY_ORIGINS": ""}) == Config()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PARLEY_ENV", "staging"),
        ("PARLEY_HTTP", "8000"),
        ("PARLEY_TCP", "8001"),
        ("PARLEY_TCP_CLEAR", "perhaps"),
        ("PARLEY_HTTP", "localhost"),
        ("PARLEY_HTTP", "127.0.0.1:http"),
        ("PARLEY_HTTP", "127.0.0.1:65536"),
        ("PARLEY_LOG_LEVEL", "loud"),
        ("PARLEY_PROXIES", "10.0.0.0/8,proxy.example.com"),
        ("PARLEY_PROXIES", "10.0.0.1/8"),
        ("PARLEY_LIMIT_FRAME", "64k"),
        ("PARLEY_LIMIT_FRAME", "1.5"),
        ("PARLEY_LIMIT_FRAME", "-1"),
        ("PARLEY_HEARTBEAT_INTERVAL", "soon"),
        ("PARLEY_HEARTBEAT_INTERVAL", "nan"),
        ("PARLEY_HEARTBEAT_INTERVAL", "inf"),
    ],
)
def test_wrong_values_are_named(variable: str, value: str) -> None:
    """A value that makes no sense is refused with the name of its variable."""
    with pytest.raises(ConfigError, match=f"^{variable} is"):
        Config.from_env({variable: value})


def test_secret_from_a_file(tmp_path: Path) -> None:
    """A secret may stand in a file, as orchestrators mount them; the end of its line is not part of it."""
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    assert Config.from_env({"PARLEY_REFRESH_SECRET_FILE": str(file)}).refresh_secret == "s3cret"


def test_variable_beats_file(tmp_path: Path) -> None:
    """Where both are set, the variable counts."""
    env = {"PARLEY_REFRESH_SECRET": "a", "PARLEY_REFRESH_SECRET_FILE": str(tmp_path / "none")}
    assert Config.from_env(env).refresh_secret == "a"


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    """A secret's file that cannot be read is a refusal, not an unset secret."""
    with pytest.raises(ConfigError, match=r"DATABASE_URL_FILE names .*cannot be read"):
        Config.from_env({"DATABASE_URL_FILE": str(tmp_path / "none")})


def test_only_secrets_come_from_files(tmp_path: Path) -> None:
    """`_FILE` behind any other variable means nothing."""
    assert Config.from_env({"PARLEY_HTTP_FILE": str(tmp_path / "none")}) == Config()


def test_every_variable_is_one_setting() -> None:
    """No variable is read twice, and every secret is marked as one."""
    variables = [field.metadata["env"] for field in fields(Config)]
    assert len(set(variables)) == len(variables)
    secret = {field.name for field in fields(Config) if field.metadata["secret"]}
    assert secret == {"database_url", "redis_url", "master_keys", "jwt_keys", "refresh_secret", "noise_key"}


def test_table_has_every_setting() -> None:
    """The table of the README names each variable, its default and its meaning."""
    rows = settings_table().splitlines()[2:]
    assert len(rows) == len(fields(Config))
    assert all(row.count("|") >= 4 and not row.endswith("|  |") for row in rows)


@pytest.mark.parametrize(
    ("env", "clear"),
    [
        ({}, True),
        ({"PARLEY_TCP": "[::1]:1"}, True),
        ({"PARLEY_TCP": "localhost:1"}, True),
        ({"PARLEY_TCP": "0.0.0.0:1"}, False),
        ({"PARLEY_TCP": "chat.example.com:1"}, False),
        ({"PARLEY_TCP": "0.0.0.0:1", "PARLEY_TLS_CERT": "c", "PARLEY_TLS_KEY": "k"}, True),
        ({"PARLEY_TCP": "0.0.0.0:1", "PARLEY_TLS_CERT": "c", "PARLEY_TLS_KEY": "k", "PARLEY_TCP_CLEAR": "yes"}, True),
        ({"PARLEY_TCP_CLEAR": "no"}, False),
        ({"PARLEY_TCP": "off"}, False),
    ],
)
def test_tcp_goes_without_noise_only_where_nobody_reads_along(env: dict[str, str], clear: bool) -> None:
    """On loopback and under TLS it may, unless that is switched off; elsewhere it may not."""
    assert Config.from_env(env).tcp_may_be_clear is clear


def test_asking_for_clear_tcp_elsewhere_is_a_refusal_to_start() -> None:
    """The refusal says why, and what to do instead."""
    with pytest.raises(
        ConfigError, match=r"PARLEY_TCP_CLEAR is yes, and PARLEY_TCP is 0\.0\.0\.0:1: without Noise or TLS"
    ):
        Config.from_env({"PARLEY_TCP": "0.0.0.0:1", "PARLEY_TCP_CLEAR": "yes"})


def test_tcp_has_an_address_or_is_off() -> None:
    """Both are values of one setting."""
    assert Config.from_env({"PARLEY_TCP": "127.0.0.1:9"}).tcp_address == ("127.0.0.1", 9)
    assert Config.from_env({"PARLEY_TCP": "off"}).tcp_address is None


@pytest.mark.parametrize(
    ("blobs", "place"),
    [
        ("", Path("/srv/parley/files")),
        ("file:/srv/blobs", Path("/srv/blobs")),
        ("s3://bucket", Bucket("bucket")),
        ("s3://bucket/some/place/", Bucket("bucket", "some/place/")),
        (
            "s3://bucket/place?endpoint_url=http://127.0.0.1:9000&region=eu-west-1&timeout=2.5",
            Bucket("bucket", "place/", "http://127.0.0.1:9000", "eu-west-1", 2.5),
        ),
    ],
)
def test_files_are_in_a_directory_or_a_bucket(blobs: str, place: Path | Bucket) -> None:
    """One setting names either."""
    config = Config.from_env({"PARLEY_DATA": "/srv/parley", "PARLEY_BLOBS": blobs})
    assert (config.blob_place, config.spool) == (place, Path("/srv/parley/spool"))


@pytest.mark.parametrize(
    "blobs",
    [
        "/srv/blobs",
        "file:",
        "ftp://host/blobs",
        "s3:bucket",
        "s3:///prefix",
        "s3://bucket/prefix#part",
        "s3://bucket?endpoint=http://127.0.0.1:9000",
        "s3://bucket?endpoint_url=127.0.0.1:9000",
        "s3://bucket?timeout=0",
        "s3://bucket?timeout=soon",
        "s3://bucket?timeout=inf",
        "s3://key:planted-secret@bucket",
    ],
)
def test_no_place_for_files(blobs: str) -> None:
    """What is neither a directory nor a bucket is refused at the start; what might be a secret is not repeated."""
    with pytest.raises(ConfigError, match=r"^PARLEY_BLOBS is no place for files: ") as raised:
        Config.from_env({"PARLEY_BLOBS": blobs})
    assert "planted-secret" not in str(raised.value)


def test_direct_uploads_go_to_a_bucket() -> None:
    """They are for S3 alone, and only where they are asked for."""
    assert Config.from_env({"PARLEY_BLOBS": "s3://bucket", "PARLEY_BLOBS_DIRECT": "yes"}).blob_place == Bucket(
        "bucket", direct=True
    )
    with pytest.raises(ConfigError, match=r"^PARLEY_BLOBS_DIRECT is yes, and PARLEY_BLOBS is a directory"):
        Config.from_env({"PARLEY_BLOBS_DIRECT": "yes"})
    with pytest.raises(ConfigError, match=r"^PARLEY_BLOBS_DIRECT is 'perhaps'"):
        Config.from_env({"PARLEY_BLOBS": "s3://bucket", "PARLEY_BLOBS_DIRECT": "perhaps"})
