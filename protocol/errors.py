"""Error codes, close codes, and the one exception that carries them to a client.

Two tables, and every door uses them: `ERRORS` says what went wrong with one
command, `CloseCode` says why a connection ended and, by its range, whether to
come back.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple


class ErrorKind(NamedTuple):
    """What a code means on each door.

    `status` is the HTTP status; `retryable` says that the same command may
    succeed later without being changed.
    """

    status: int
    retryable: bool
    meaning: str


ERRORS: dict[str, ErrorKind] = {
    # Authentication
    "AUTH_REQUIRED": ErrorKind(401, False, "No token was sent; sign in first."),
    "AUTH_INVALID_CREDENTIALS": ErrorKind(401, False, "The user name or the password is wrong."),
    "AUTH_TOKEN_EXPIRED": ErrorKind(401, False, "The access token has expired; refresh it."),
    "AUTH_TOKEN_INVALID": ErrorKind(401, False, "The access token, or a bot's key, is not one of ours or has ended."),
    "AUTH_REFRESH_TOKEN_INVALID": ErrorKind(401, False, "The refresh token is unknown, used, expired or revoked."),
    "AUTH_USER_NOT_FOUND": ErrorKind(404, False, "There is no such user."),
    "AUTH_USER_INACTIVE": ErrorKind(403, False, "The account is deactivated."),
    # Validation
    "VALIDATION_REQUIRED_FIELD": ErrorKind(422, False, "A required field is missing."),
    "VALIDATION_INVALID_FORMAT": ErrorKind(422, False, "A field or the frame has the wrong form."),
    "VALIDATION_LENGTH_EXCEEDED": ErrorKind(422, False, "A field is longer than allowed."),
    "VALIDATION_INVALID_VALUE": ErrorKind(422, False, "A field has a value that is not allowed."),
    "VALIDATION_UNKNOWN_EVENT": ErrorKind(422, False, "There is no command of this name."),
    # Resources
    "RESOURCE_NOT_FOUND": ErrorKind(404, False, "There is nothing at this address."),
    "RESOURCE_ACCESS_DENIED": ErrorKind(403, False, "Your role, or your scopes as a bot, do not allow this."),
    "RESOURCE_ALREADY_EXISTS": ErrorKind(409, False, "It exists already."),
    "RESOURCE_LIMIT_EXCEEDED": ErrorKind(409, False, "A limit on how many there may be is reached."),
    "METHOD_NOT_ALLOWED": ErrorKind(405, False, "This address does not take this method."),
    "REQUEST_TOO_LARGE": ErrorKind(413, False, "The request body is larger than allowed."),
    "PRECONDITION_FAILED": ErrorKind(412, False, "It has changed, or has not: your If-… header did not want it so."),
    "RANGE_NOT_SATISFIABLE": ErrorKind(416, False, "None of that is in the details.size bytes that there are."),
    "REQUEST_TIMEOUT": ErrorKind(408, True, "The request did not arrive in time."),
    # Chatrooms
    "CHATROOM_NOT_FOUND": ErrorKind(404, False, "There is no such chatroom, or you are not a member of it."),
    "CHATROOM_ACCESS_DENIED": ErrorKind(403, False, "The chatroom does not allow this."),
    "CHATROOM_FULL": ErrorKind(409, False, "The chatroom has as many members as it may."),
    "CHATROOM_OWNER_REQUIRED": ErrorKind(403, False, "Only the owner may do this."),
    "MEMBER_MUTED": ErrorKind(403, False, "You are muted in this chatroom, until details.muted_until."),
    "MEMBER_BANNED": ErrorKind(403, False, "The user is banned from the chatroom; unban them first."),
    # Messages
    "MESSAGE_NOT_FOUND": ErrorKind(404, False, "There is no such message in this chatroom."),
    "MESSAGE_DELETE_DENIED": ErrorKind(403, False, "Only its sender, the owner and moderators take a message back."),
    "MESSAGE_TOO_LONG": ErrorKind(422, False, "The message is longer than allowed."),
    "MESSAGE_ENCRYPTION_FAILED": ErrorKind(422, False, "The chatroom takes encrypted content only."),
    "MESSAGE_KEY_OUTDATED": ErrorKind(
        409, False, "Content under this key_version is refused: take the newest key, or make a new one."
    ),
    # Files
    "FILE_NOT_FOUND": ErrorKind(404, False, "There is no such file, or it is not for you."),
    "FILE_TOO_LARGE": ErrorKind(413, False, "The file is larger than details.limit bytes."),
    "FILE_TYPE_NOT_ALLOWED": ErrorKind(415, False, "A file of this type is not taken here."),
    "FILE_UPLOAD_FAILED": ErrorKind(422, False, "What arrived is not what was announced; upload it again."),
    "FILE_NOT_READY": ErrorKind(409, True, "The file is still being looked at; ask again after retry_after seconds."),
    "FILE_REJECTED": ErrorKind(410, False, "The file was found to be harmful, and nobody gets it."),
    "FILE_DAMAGED": ErrorKind(500, False, "The file is not as it was written; the operator has to look after it."),
    "FILE_QUOTA_EXCEEDED": ErrorKind(409, False, "There is no room for it within your quota, or the chatroom's."),
    "IMAGE_TOO_LARGE": ErrorKind(422, False, "The picture has too many pixels or frames to be opened."),
    "IMAGE_INVALID": ErrorKind(422, False, "The picture cannot be opened."),
    "UPLOAD_OFFSET_MISMATCH": ErrorKind(409, False, "The upload goes on somewhere else: ask for its offset."),
    "UPLOAD_CHECKSUM_MISMATCH": ErrorKind(460, False, "The bytes have another checksum than announced; none are kept."),
    "UPLOAD_CHECKSUM_UNSUPPORTED": ErrorKind(400, False, "Checksums of this kind are not known here."),
    "UPLOAD_VERSION_UNSUPPORTED": ErrorKind(412, False, "Tus-Resumable has to name a version that is spoken here."),
    # Limits and failures
    "RATE_LIMIT_EXCEEDED": ErrorKind(429, True, "Too many requests; wait for retry_after seconds."),
    "CONNECTION_LIMIT_EXCEEDED": ErrorKind(429, False, "Too many connections; close one first."),
    "SERVICE_UNAVAILABLE": ErrorKind(503, True, "A service behind Parley is away; send the same command again."),
    "INTERNAL_ERROR": ErrorKind(500, True, "Something went wrong inside Parley; it has been logged."),
}
"""Every error code there is. Names of the reference API first; ours follow its style."""


class ChatError(Exception):
    """A refusal that reaches the client as a typed error.

    `code` is a key of `ERRORS`; `details` names what was wrong (never secrets);
    `retry_after` is in seconds. Raising it anywhere below a door loses nothing.
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        details: dict[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.kind = ERRORS[code]
        self.code = code
        self.message = message or self.kind.meaning
        self.details = details or {}
        self.retry_after = retry_after
        super().__init__(f"{code}: {self.message}")


class CloseCode(IntEnum):
    """Why the server closed a connection. The range tells the client what to do.

    4000-4099: do not come back unchanged. 4100-4199: come back after a backoff.
    4200-4299: come back at once and resume.
    """

    bad_frame = 4000
    auth_failed = 4001
    bad_version = 4002
    forbidden = 4003
    connection_limit = 4004
    replaced = 4005
    overloaded = 4100
    slow_consumer = 4101
    rate_limited = 4102
    internal = 4103
    frame_timeout = 4104
    draining = 4200
    no_pong = 4201
    token_expired = 4202
    session_reset = 4203
    auth_timeout = 4204


class Advice(NamedTuple):
    """What a client should do after a close: come back or not, and when."""

    reconnect: bool
    backoff: bool


BROKEN_PROTOCOL = frozenset({1002, 1003, 1007, 1008, 1009, 1010})
"""Close codes of RFC 6455, 7.4.1, for frames that would be refused again."""


def advice(code: int) -> Advice:
    """What a close code asks for. Any other that is not ours means a broken line: back off."""
    if 4000 <= code <= 4099 or code in BROKEN_PROTOCOL:
        return Advice(reconnect=False, backoff=False)
    if 4200 <= code <= 4299:
        return Advice(reconnect=True, backoff=False)
    return Advice(reconnect=True, backoff=True)
