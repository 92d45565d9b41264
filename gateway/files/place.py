"""Where the bytes of files are, as the settings say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.config import Config
from storage import places
from storage.blobs import Blobs


@asynccontextmanager
async def open_blobs(config: Config) -> AsyncIterator[Blobs]:
    """The place of blobs, for the server and for the commands of operators."""
    blobs = await places.open_blobs(config.blob_place, config.spool)
    try:
        yield blobs
    finally:
        await blobs.close()
