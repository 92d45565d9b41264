"""A device's file: private, whole after any crash, and faithful about whom it trusts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from gateway.client_device import Device, DeviceError, PublicKey

ANN, BOB = UUID(int=1), UUID(int=2)
LAPTOP, PHONE = PublicKey(BOB, "laptop", "AAA="), PublicKey(BOB, "phone", "BBB=")


def test_a_file_is_made_once(tmp_path: Path) -> None:
    """The first start makes key and id, for the user's eyes only; later ones find them; each file is another device."""
    path = tmp_path / "new" / "ann.device"
    device = Device.load(path)
    again = Device.load(str(path))
    assert (again.id, again.public_key) == (device.id, device.public_key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["ann.device"]
    assert Device.load(tmp_path / "other").public_key != device.public_key


def test_two_that_start_at_once(tmp_path: Path) -> None:
    """Of several that make the same file at the same moment all get the same device."""
    with ThreadPoolExecutor(8) as pool:
        devices = list(pool.map(lambda _: Device.load(tmp_path / "device"), range(8)))
    assert len({device.public_key for device in devices}) == 1


def test_a_file_that_others_can_read(tmp_path: Path) -> None:
    """It is refused, with what to do."""
    path = tmp_path / "device"
    Device.load(path)
    path.chmod(0o640)
    with pytest.raises(DeviceError, match="chmod 600"):
        Device.load(path)


@pytest.mark.parametrize("text", ["", "{}", "null", '{"device_id": "x", "private_key": "AAAA"}', "\xff"])
def test_what_is_no_device(tmp_path: Path, text: str) -> None:
    """Another file is refused, and left as it is."""
    path = tmp_path / "device"
    path.write_text(text, "latin-1")
    path.chmod(0o600)
    with pytest.raises(DeviceError, match="is no device's file"):
        Device.load(path)
    assert path.read_text("latin-1") == text


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    """A directory, or a path through a file, is a DeviceError too."""
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir(mode=0o700)
    for path in (tmp_path / "directory", tmp_path / "file" / "device"):
        with pytest.raises(DeviceError):
            Device.load(path)


def test_first_use_and_change(tmp_path: Path) -> None:
    """The first keys of a user are taken together, any later one is changed; each is news once, over restarts."""
    device = Device.load(tmp_path / "device")
    assert device.meet([LAPTOP, PHONE]) == [(LAPTOP, "first_use"), (PHONE, "first_use")]
    assert device.meet([PHONE, LAPTOP]) == []
    other = PublicKey(BOB, "laptop", "CCC=")
    assert Device.load(tmp_path / "device").meet([other]) == [(other, "changed")]
    again = Device.load(tmp_path / "device")
    assert again.meet([other]) == []
    assert [again.trust_of(BOB, key) for key in ("AAA=", "BBB=", "CCC=", "DDD=")] == [
        "first_use",
        "first_use",
        "changed",
        None,
    ]
    again.decide(BOB, ["CCC="], "refused")
    assert Device.load(tmp_path / "device").keys_of(BOB) == {
        "AAA=": "first_use",
        "BBB=": "first_use",
        "CCC=": "refused",
    }


def test_its_own_user(tmp_path: Path) -> None:
    """Once its key is published, the file says whose device it is, and a further one of the same user is a change."""
    device = Device.load(tmp_path / "device")
    assert device.user_id is None
    device.published(ANN)
    again = Device.load(tmp_path / "device")
    assert again.user_id == ANN
    assert again.trust_of(ANN, again.public_key) == "trusted"
    assert again.meet([PublicKey(ANN, "phone", "AAA=")])[0][1] == "changed"


def test_versions_do_not_go_back(tmp_path: Path) -> None:
    """The highest version of a chatroom's key is remembered."""
    device = Device.load(tmp_path / "device")
    for version in (3, 5, 4):
        device.saw(ANN, version)
    again = Device.load(tmp_path / "device")
    assert (again.newest(ANN), again.newest(BOB)) == (5, 0)


def test_a_crash_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way leaves the old file."""
    device = Device.load(tmp_path / "device")
    before = (tmp_path / "device").read_bytes()

    def crash(_: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        device.meet([LAPTOP])
    assert (tmp_path / "device").read_bytes() == before
