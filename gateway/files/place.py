"""Where the bytes of files are, as the settings say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.config import Config
from storage.blobs import Blobs, Directory


@asynccontextmanager
async def open_blobs(config: Config) -> AsyncIterator[Blobs]:
    """The place of blobs, for the server and for the commands of operators."""
    blobs = Directory(config.blob_directory)
    try:
        yield blobs
    finally:
        await blobs.close()
