"""The addresses where bytes go in and out, which are no commands, for the OpenAPI description."""

from __future__ import annotations

from typing import NamedTuple

from protocol.events import ChatroomChanged
from protocol.models import Account
from rest.downloads import PATHS
from rest.openapi_shapes import BYTES, ID, Schema, parameter, ref, refusal, success
from rest.uploads import FileUploaded


class Stream(NamedTuple):
    """One operation. `body` has what it takes by media type; `responses` what it gives when it is done."""

    method: str
    path: str
    summary: str
    responses: Schema
    parameters: tuple[Schema, ...] = ()
    body: Schema | None = None
    security: list[Schema] | None = None


_FILE_ID = parameter("file_id", "path", ID)
_SIGNATURE = parameter("signature", "query", {"type": "string"})
_TEXT: Schema = {"type": "string"}
_TUS = parameter("Tus-Resumable", "header", {"const": "1.0.0"}, required=True)
_COUNT: Schema = {"type": "integer", "minimum": 0}
_CHECKSUM = parameter("Upload-Checksum", "header", _TEXT)
_PLACE = (_FILE_ID, _TUS)
_TUS_BYTES = {"application/offset+octet-stream": {"schema": BYTES}}
_TOKEN_OR_SIGNATURE: list[Schema] = [{"bearer": []}, {"signature": []}]

_FORM = {
    "type": "object",
    "properties": {
        "file": BYTES,
        "chatroom_id": ID,
        "encrypted": {"type": "boolean"},
        "expires_in": {"type": "integer", "minimum": 1, "maximum": 31_536_000},
    },
    "required": ["file"],
}
_PICTURE = {"type": "object", "properties": {"file": BYTES}, "required": ["file"]}


def _headers(*names: str) -> Schema:
    return {name: {"schema": _TEXT} for name in names}


def _nothing(description: str, *headers: str) -> Schema:
    return {"description": description, "headers": _headers(*headers)}


_ASKED = tuple(
    parameter(name, "header", _TEXT)
    for name in ("Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since")
)
_ABOUT = ("ETag", "Last-Modified", "Content-Disposition", "Accept-Ranges")
_BYTES_OUT = {
    "200": {"description": "All of it.", "content": {"*/*": {"schema": BYTES}}, "headers": _headers(*_ABOUT)},
    "206": {
        "description": "The part that was asked for, or several as multipart/byteranges.",
        "content": {"*/*": {"schema": BYTES}},
        "headers": _headers(*_ABOUT),
    },
    "304": _nothing("It is as it was.", "ETag", "Last-Modified"),
    "404": refusal("There is no such file, or it is not yours to see."),
    "412": refusal("A condition does not hold."),
    "416": refusal("Nothing of what was asked for is there."),
}
_WHAT = {"whole": "A file", "small": "The smaller picture of a file", "large": "The larger picture of a file"}

DOWNLOADS = tuple(
    Stream(method, path, f"{_WHAT[variant]}{words}", _BYTES_OUT, (_FILE_ID, *_ASKED), None, _TOKEN_OR_SIGNATURE)
    for path, variant in PATHS
    for method, words in (("GET", ", or ranges of it."), ("HEAD", ": what is known of it by headers."))
)
UPLOADS = (
    Stream(
        "POST",
        "/upload/file",
        "Uploads a file in one request.",
        {"201": success(ref(FileUploaded))},
        (parameter("filename", "query", _TEXT), parameter("Content-Disposition", "header", _TEXT)),
        {"multipart/form-data": {"schema": _FORM}, "application/octet-stream": {"schema": BYTES}},
    ),
    Stream(
        "PUT",
        "/files/uploads/{file_id}/parts/{number}",
        "Sends a part of an upload; its address was given with a signature.",
        {"204": _nothing("It is kept."), "404": refusal("There is no such part, or the signature is not good.")},
        (_FILE_ID, parameter("number", "path", {"type": "integer", "minimum": 1}), _SIGNATURE),
        {"application/octet-stream": {"schema": BYTES}},
        [{"signature": []}],
    ),
)
TUS = (
    Stream(
        "POST",
        "/files/tus",
        "Begins an upload by tus 1.0.0, perhaps with its first bytes.",
        {"201": _nothing("It has begun.", "Location", "Upload-Offset", "Upload-Expires", "Parley-File")},
        (
            _TUS,
            parameter("Upload-Length", "header", _COUNT),
            parameter("Upload-Defer-Length", "header", {"const": "1"}),
            parameter("Upload-Metadata", "header", _TEXT),
            _CHECKSUM,
        ),
        _TUS_BYTES,
    ),
    Stream(
        "HEAD",
        "/files/tus/{file_id}",
        "How far an upload by tus is.",
        {"200": _nothing("So far.", "Upload-Offset", "Upload-Length", "Upload-Metadata", "Parley-File")},
        _PLACE,
    ),
    Stream(
        "PATCH",
        "/files/tus/{file_id}",
        "Sends bytes of an upload by tus.",
        {"204": _nothing("They are kept.", "Upload-Offset", "Upload-Expires", "Parley-File")},
        (*_PLACE, parameter("Upload-Offset", "header", _COUNT, required=True), _CHECKSUM),
        _TUS_BYTES,
    ),
    Stream("DELETE", "/files/tus/{file_id}", "Drops an upload by tus.", {"204": _nothing("It is gone.")}, _PLACE),
)
AVATARS = (
    Stream(
        "POST",
        "/users/me/avatar",
        "Gives the user a picture.",
        {"200": success(ref(Account))},
        body={"multipart/form-data": {"schema": _PICTURE}},
    ),
    Stream(
        "POST",
        "/chatrooms/{chatroom_id}/avatar",
        "Gives a chatroom a picture.",
        {"200": success(ref(ChatroomChanged)), "404": refusal("There is no such chatroom, or it is not yours to see.")},
        (parameter("chatroom_id", "path", ID),),
        {"multipart/form-data": {"schema": _PICTURE}},
    ),
    Stream(
        "GET",
        "/avatars/{file_id}",
        "A picture of a user or a chatroom, for anyone who knows its address.",
        {
            "200": {"description": "The picture.", "content": {"image/webp": {"schema": BYTES}}},
            "304": _nothing("It is as it was.", "ETag"),
            "404": refusal("There is no such picture."),
        },
        (_FILE_ID, parameter("If-None-Match", "header", _TEXT)),
        security=[],
    ),
)

STREAMS = (*UPLOADS, *DOWNLOADS, *TUS, *AVATARS)
"""All of them."""

STRUCTS: tuple[type, ...] = (FileUploaded, Account, ChatroomChanged)
"""The shapes that they name."""


def operation(stream: Stream) -> Schema:
    """One of them, as the description has it."""
    words = [word.strip("{}").replace("_", "-") for word in stream.path.split("/") if word]
    described: Schema = {
        "operationId": "_".join((stream.method.lower(), *words)).replace("-", "_"),
        "tags": ["files"],
        "summary": stream.summary,
        "responses": stream.responses | {"default": refusal("Any other refusal.")},
    }
    if stream.parameters:
        described["parameters"] = list(stream.parameters)
    if stream.body is not None:
        described["requestBody"] = {"content": stream.body}
    if stream.security is not None:
        described["security"] = stream.security
    return described
