"""The key directory, and the settings that stand for it."""

import base64
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from crypto.keyfile import FILES, JWT_KEYS_KEPT, BadSecret, Keys, MissingSecret, ensure, load, load_keys, rotate

MASTER = "PARLEY_MASTER_KEYS"
JWT = "PARLEY_JWT_KEYS"
REFRESH = "PARLEY_REFRESH_SECRET"
NOISE = "PARLEY_NOISE_KEY"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Good values of the four settings, by name."""
    directory = tmp_path_factory.mktemp("made") / "keys"
    ensure(directory)
    return {setting: (directory / name).read_text() for setting, name in FILES.items()}


def from_settings(texts: dict[str, str], directory: Path | None = None, production: bool = True) -> Keys:
    """The keys in a set of settings."""
    return load_keys(directory, texts.get(MASTER), texts.get(JWT), texts.get(REFRESH), texts.get(NOISE), production)


def test_keys_are_made_at_first_start_and_kept(tmp_path: Path) -> None:
    """A development install without settings gets keys, and the same ones at its next start."""
    first = load_keys(tmp_path / "data" / "keys", None, None, None, None, production=False)
    assert load_keys(tmp_path / "data" / "keys", None, None, None, None, production=False) == first
    assert len(first.master[0][1]) == len(first.refresh_secret) == len(first.noise.secret) == 32
    assert first.jwt_pems[0].startswith("-----BEGIN PRIVATE KEY-----")


def test_two_installs_share_no_secret(tmp_path: Path) -> None:
    """Every install makes keys of its own."""
    one, two = (load_keys(tmp_path / name, None, None, None, None, production=False) for name in ("one", "two"))
    of_one, of_two = ({keys.master, keys.jwt_pems, keys.refresh_secret, keys.noise} for keys in (one, two))
    assert not of_one & of_two


def test_nobody_else_can_read_the_keys(tmp_path: Path) -> None:
    """The directory has mode 0700 and its files 0600, whatever the umask; also after a rotation."""
    before = os.umask(0)
    try:
        ensure(tmp_path / "keys")
        rotate(tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "keys").iterdir()}
    assert modes == dict.fromkeys(FILES.values(), 0o600)


def test_two_first_starts_at_once_agree(tmp_path: Path) -> None:
    """Processes that start together end up with the same keys, and leave nothing else behind."""
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(lambda _: load_keys(tmp_path / "keys", None, None, None, None, production=False), range(4))
        )
    assert all(keys == made[0] for keys in made)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


@pytest.mark.parametrize(("setting", "file"), [(MASTER, "master.keys"), (JWT, "jwt.pem"), (REFRESH, "refresh.secret")])
def test_a_lost_file_is_not_made_anew(tmp_path: Path, setting: str, file: str) -> None:
    """One key file missing beside the others is a refusal that names it: a new key would not open the old data."""
    ensure(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(MissingSecret, match=file) as missing:
        load_keys(tmp_path, None, None, None, None, production=False)
    assert missing.value.setting == setting
    assert not (tmp_path / file).exists()


def test_keys_of_an_earlier_version_get_a_noise_key(tmp_path: Path) -> None:
    """A directory without a Noise key, as earlier versions made it, gets one; processes that start together agree."""
    ensure(tmp_path)
    before = load(tmp_path)
    (tmp_path / "noise.key").unlink()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: ensure(tmp_path), range(4)))
        loaded = list(pool.map(lambda _: load_keys(tmp_path, None, None, None, None, production=False), range(4)))
    assert replace(loaded[0], noise=before.noise) == before
    assert all(keys == loaded[0] for keys in loaded)
    assert stat.S_IMODE((tmp_path / "noise.key").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == set(FILES.values())


@pytest.mark.parametrize("setting", [MASTER, JWT, REFRESH, NOISE])
def test_production_refuses_to_start_without_a_secret(tmp_path: Path, texts: dict[str, str], setting: str) -> None:
    """In production each missing secret is named, even when a key directory is there, and none is made up."""
    ensure(tmp_path / "keys")
    given = {name: text for name, text in texts.items() if name != setting}
    with pytest.raises(MissingSecret, match=setting) as missing:
        from_settings(given, tmp_path / "keys")
    assert missing.value.setting == setting


def test_settings_are_enough(tmp_path: Path, texts: dict[str, str]) -> None:
    """With all four set no directory is needed, and none is made."""
    keys = from_settings(texts)
    assert keys == from_settings(texts, tmp_path / "keys", production=False)
    assert not (tmp_path / "keys").exists()


def test_a_setting_goes_before_the_directory(tmp_path: Path, texts: dict[str, str]) -> None:
    """In development the directory fills only the gaps."""
    keys = load_keys(tmp_path / "keys", texts[MASTER], None, None, None, production=False)
    assert keys.master == from_settings(texts).master
    assert keys.jwt_pems == load(tmp_path / "keys").jwt_pems


def test_settings_fit_on_one_line(texts: dict[str, str]) -> None:
    """Commas stand for ends of line between master keys, and a backslash with an n does in PEM."""
    key = base64.b64encode(bytes(32)).decode()
    one_line = texts | {MASTER: f"new:{key}, old:{key}", JWT: texts[JWT].replace("\n", "\\n")}
    keys = from_settings(one_line)
    assert keys.master == (("new", bytes(32)), ("old", bytes(32)))
    assert keys.jwt_pems == from_settings(texts).jwt_pems


BAD = [
    (MASTER, "secret-word"),
    (MASTER, "id:c2VjcmV0LXdvcmQ="),
    (MASTER, f":{base64.b64encode(bytes(32)).decode()}"),
    (MASTER, f"a:{base64.b64encode(bytes(32)).decode()},a:{base64.b64encode(bytes(32)).decode()}"),
    (MASTER, ","),
    (JWT, "secret-word"),
    (JWT, "-----BEGIN PRIVATE KEY-----\nsecret-word\n-----END PRIVATE KEY-----"),
    (REFRESH, "secret-word"),
    (REFRESH, "c2VjcmV0LXdvcmQ="),
    (NOISE, "secret-word"),
    (NOISE, "c2VjcmV0LXdvcmQ="),
    (NOISE, base64.b64encode(bytes(33)).decode()),
]


@pytest.mark.parametrize(("setting", "text"), BAD)
def test_a_wrong_form_is_named_and_not_shown(texts: dict[str, str], setting: str, text: str) -> None:
    """A secret of the wrong form is a refusal that names its setting and does not print it."""
    with pytest.raises(BadSecret, match=setting) as bad:
        from_settings(texts | {setting: text})
    assert "secret-word" not in str(bad.value)


def test_keys_do_not_print_themselves(texts: dict[str, str]) -> None:
    """The keys in a traceback or a log line show nothing."""
    keys = from_settings(texts)
    assert keys.master[0][0] not in repr(keys)
    assert "BEGIN" not in repr(keys)
    assert repr(keys.noise.secret) not in repr(keys) + repr(keys.noise)


def test_rotation_puts_new_keys_in_front(tmp_path: Path) -> None:
    """Old master keys, refresh secret and Noise key stay, and what rotate returns is what the next start loads."""
    ensure(tmp_path)
    before = load(tmp_path)
    after = rotate(tmp_path)
    assert after.master[1:] == before.master
    assert after.jwt_pems[1:] == before.jwt_pems
    assert after.refresh_secret == before.refresh_secret
    assert after.noise == before.noise
    assert load(tmp_path) == after


def test_many_rotations_keep_few_jwt_keys_and_all_master_keys(tmp_path: Path) -> None:
    """JWT keys that no token alive can need are dropped; a master key never is."""
    ensure(tmp_path)
    made = [rotate(tmp_path) for _ in range(JWT_KEYS_KEPT)]
    assert len(made[-1].jwt_pems) == JWT_KEYS_KEPT
    assert made[-1].jwt_pems == tuple(keys.jwt_pems[0] for keys in reversed(made))
    assert len(made[-1].master) == JWT_KEYS_KEPT + 1


def test_a_rotation_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle leaves the old keys whole and no draft behind."""
    ensure(tmp_path)
    before = load(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        rotate(tmp_path)
    assert load(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == len(FILES)
