"""Reading a file a piece at a time, the next one ahead."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from crypto.sealing import new_key
from gateway.files.reading import Reading
from storage.blobs import BlobMissing, Directory
from storage.files import Description, Part, StoredFile


def _file() -> StoredFile:
    now = datetime.now(UTC)
    return StoredFile(
        id=uuid4(),
        uploader_id=uuid4(),
        chatroom_id=None,
        purpose="file",
        status="ready",
        size=3,
        received=3,
        key=new_key(),
        description=Description(name="a", parts=(1, 1, 1)),
        created_at=now,
        updated_at=now,
        expires_at=None,
    )


async def test_two_pieces_that_fail_are_one_error(tmp_path: Path) -> None:
    """Where several pieces cannot be had the reader hears of it once; nothing is left for the log to report."""
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    blobs = Directory(tmp_path)
    for _ in range(100):
        reading = Reading(blobs, _file(), "whole", [Part(number, uuid4(), 1) for number in range(3)])
        with pytest.raises(BlobMissing):
            async for _piece in reading.read(0, 3):
                pass
        await asyncio.sleep(0)
    await blobs.close()
    gc.collect()
    assert reported == []
