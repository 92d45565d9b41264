"""What the REST layer needs to be told, and what it needs of the chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

from msgspec import Struct

from protocol.addresses import Network
from protocol.commands import Command, CreateUpload
from protocol.discovery import ServerInfo
from protocol.events import ChatroomChanged
from protocol.models import Account, UploadedFile, User


@dataclass(frozen=True, slots=True, kw_only=True)
class RestSettings:
    """The settings of the REST layer. Times are in seconds, sizes in bytes.

    The deadlines are totals, from a part's first byte to its last. `origins` are the web origins that
    CORS lets in, `*` for any. `public_url` is how people reach the server, without a
    slash at the end; `info` is what clients read of it. `https_only` tells browsers never
    to come back without TLS. `proxies` are those whose X-Forwarded-For is believed. Files have no deadline of
    their own: they have to come and go at `slowest_transfer` bytes a second, or faster.
    """

    version: str
    public_url: str
    info: ServerInfo
    body_limit: int = 131_072
    body_deadline: float = 20.0
    header_deadline: float = 10.0
    keep_alive: float = 75.0
    origins: tuple[str, ...] = ()
    https_only: bool = False
    proxies: tuple[Network, ...] = ()
    slowest_transfer: int = 8_192


Variant = Literal["whole", "small", "large"]
"""The file itself, or one of the two pictures of it."""


class Actor(Protocol):
    """Who a request comes from."""

    @property
    def user(self) -> User:
        """The signed-in user."""


class Allowance(Protocol):
    """What a request left of its sender's limit."""

    @property
    def allowed(self) -> bool:
        """Whether it may go on."""

    @property
    def limit(self) -> int:
        """How many there may be at once when none was used."""

    @property
    def remaining(self) -> int:
        """How many there may be at once now."""

    @property
    def reset(self) -> float:
        """Seconds until all of them are there again."""

    @property
    def retry_after(self) -> float:
        """Seconds until the next one may come; zero where this one may."""


class File(Protocol):
    """A file that somebody may have. Times are when it was made, `etag` changes with its bytes."""

    @property
    def name(self) -> str:
        """What its uploader calls it."""

    @property
    def file_type(self) -> str:
        """Its media type."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def etag(self) -> str:
        """Without quotes."""

    @property
    def created_at(self) -> datetime:
        """When it was uploaded."""

    def read(self, start: int, length: int) -> AsyncGenerator[bytes]:
        """So many of its bytes. Raises ChatError FILE_DAMAGED."""

    async def is_still_allowed(self) -> bool:
        """Whether whoever asked for it may still have it."""


ChecksumAlgorithm = Literal["md5", "sha1", "sha256"]
"""How the bytes of a request may be checked."""

Checksum = tuple[ChecksumAlgorithm, bytes]
"""What the bytes of a request come to."""


class Progress(Protocol):
    """How far an upload is."""

    @property
    def id(self) -> UUID:
        """The file's, once it is one."""

    @property
    def offset(self) -> int:
        """Bytes that are kept."""

    @property
    def length(self) -> int | None:
        """Bytes in all, where that is known."""

    @property
    def metadata(self) -> str:
        """What the client has said of it."""

    @property
    def expires_at(self) -> datetime | None:
        """When it is gone, if nothing more comes."""

    @property
    def url(self) -> str | None:
        """Of the file that it has become."""


class Avatar(Protocol):
    """A picture of a user or a chatroom."""

    @property
    def data(self) -> bytes:
        """All of it: it is small."""

    @property
    def file_type(self) -> str:
        """Its media type."""

    @property
    def etag(self) -> str:
        """Without quotes."""


class Files(Protocol):
    """What this layer asks of `gateway.file_door.FileDoor`."""

    @property
    def largest(self) -> int:
        """Bytes in the largest file that is taken."""

    async def begin(self, actor: Any, command: CreateUpload) -> Any:
        """Begins an upload. Raises ChatError."""

    async def receive(self, upload: Any, body: AsyncIterable[bytes]) -> None:
        """Takes the bytes of an upload that comes in one go; nothing is left of one that breaks. Raises ChatError."""

    async def drop(self, upload: Any) -> None:
        """Drops an upload. Raises ChatError."""

    async def finish(
        self, actor: Any, upload: Any, *, chatroom_id: UUID | None = None, sha256: bytes | None = None
    ) -> UploadedFile:
        """Makes a file of an upload. Raises ChatError."""

    async def start(
        self, actor: Any, command: CreateUpload, metadata: str, body: AsyncIterable[bytes], checksum: Checksum | None
    ) -> Progress:
        """Begins an upload, with its first bytes. Raises ChatError."""

    async def look(self, actor: Any, file_id: UUID) -> Progress:
        """How far an upload is. Raises ChatError."""

    async def append(
        self,
        actor: Any,
        file_id: UUID,
        body: AsyncIterable[bytes],
        offset: int,
        length: int | None,
        checksum: Checksum | None,
    ) -> Progress:
        """Takes bytes from `offset` on. Raises ChatError."""

    async def terminate(self, actor: Any, file_id: UUID) -> None:
        """Drops an upload, or its file. Raises ChatError."""

    async def set_avatar(self, actor: Any, body: AsyncIterable[bytes]) -> Account:
        """Gives the user a picture. Raises ChatError."""

    async def set_chatroom_avatar(self, actor: Any, chatroom_id: UUID, body: AsyncIterable[bytes]) -> ChatroomChanged:
        """Gives a chatroom a picture. Raises ChatError."""

    async def avatar(self, file_id: UUID) -> Avatar:
        """A picture of a user or a chatroom, for anyone. Raises ChatError."""

    async def redeem(self, file_id: UUID, signature: str) -> Actor:
        """Who reads a file by a signed address. Raises ChatError FILE_NOT_FOUND."""

    async def redeem_part(self, file_id: UUID, number: int, signature: str) -> Actor:
        """Who sends a part to a signed address. Raises ChatError."""

    async def put_part(
        self, actor: Any, file_id: UUID, number: int, size: int | None, body: AsyncIterable[bytes]
    ) -> None:
        """Takes a part; `size` is what is said of it. Raises ChatError."""

    async def open(self, actor: Any, file_id: UUID, variant: Variant) -> File:
        """A file, or a picture of it. Raises ChatError."""


class Chat(Protocol):
    """What this layer asks of `gateway.chat.Chat`; a test may put something smaller in its place."""

    @property
    def ready(self) -> bool:
        """Whether new work is welcome; false while the server drains."""

    async def handle(self, actor: Any, command: Command) -> Struct | None:
        """Does what the command asks. Raises ChatError."""

    async def authenticate(self, token: str) -> Actor:
        """Whose access token, or API key of a bot, this is. Raises ChatError."""

    async def take(self, key: str) -> Allowance:
        """Counts one request of a user or an address, whichever the key names, on all nodes together."""

    async def take_upload(self, user_id: UUID) -> Allowance:
        """Counts one upload of a user, on all nodes together."""

    @property
    def files(self) -> Files:
        """Files on their way in and out."""

    def jwks(self) -> dict[str, Any]:
        """The public keys of access tokens, as RFC 7517 has it."""

    async def health(self) -> dict[str, str]:
        """Each service behind the server, `healthy` or `unhealthy`."""


Observe = Callable[[str, str, int, float], None]
"""Told of every answer: the route's template, the method, the status, the seconds it took."""

ReadMetrics = Callable[[], Awaitable[bytes]]
"""The text of `/metrics`."""
