"""Ids of the driver's kind mean what ids from the wire mean."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import msgspec
import pytest

from storage.ids import new_id


def test_a_new_id_is_a_uuid_of_version_7() -> None:
    """It carries the time it was made, so that later ones are greater."""
    first, second = new_id(), new_id()
    assert (first.version, first.variant) == (7, RFC_4122)
    assert first < second


@pytest.mark.parametrize("codec", [msgspec.json, msgspec.msgpack])
def test_either_kind_finds_the_other(codec: object) -> None:
    """An id that went over the wire and back is the same key, although it is another kind of object."""
    id = new_id()
    back = codec.decode(codec.encode(id), type=UUID)  # type: ignore[attr-defined]
    assert type(back) is not type(id)
    assert (id, back) == (back, id)
    assert {id: 1}[back] == {back: 1}[id] == 1
