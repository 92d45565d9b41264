"""What the addresses of files may say beside a file's id."""

from __future__ import annotations

from uuid import UUID

from crypto.signed_urls import Grant

FILE = b"file"
"""What grants for reading are for: those of other kinds are none of them."""
PART = b"upload part"
"""What grants for parts of uploads are for."""


class FileGrant(Grant, frozen=True, array_like=True):
    """Lets whoever has the address read a file as this user, as long as the user may and stays signed in."""

    user_id: UUID
    sign_in_id: UUID
    file_id: UUID


class PartGrant(FileGrant, frozen=True, array_like=True):
    """The same for sending one part of an upload."""

    number: int
