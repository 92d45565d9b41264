from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from storage.database import Database
from tests.storage.book import Book, open_book


@pytest.fixture
async def book(db: Database) -> AsyncIterator[Book]:
    """A journal of two chatrooms whose members are Ann and Bob."""
    made = await open_book(db)
    yield made
    await made.journal.drain()
