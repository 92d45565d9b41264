"""Pictures: what members see before they have the file, and what a server makes of those that mean it harm."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from io import BytesIO
from typing import Any

import aiohttp
import psutil  # type: ignore[import-untyped]

from tests.e2e.server import Person, Server
from tests.e2e.test_file_care import kept
from tests.e2e.test_files import download, signed, upload
from tests.pictures import (
    EPS,
    SCRIPT,
    SVG,
    drawn,
    fits,
    gif,
    held_sideways,
    opened,
    png,
    polyglot,
    saved,
    text_bomb,
)

SHOWN = ("width", "height", "blurhash", "thumbnail_url", "preview_url", "preview_refused")

HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "pixels.png": ("IMAGE_TOO_LARGE", lambda: png(20_000, 20_000)),
    "frames.gif": ("IMAGE_TOO_LARGE", lambda: gif(10_000)),
    "text.png": ("IMAGE_INVALID", lambda: text_bomb(b"zTXt")),
    "cut.jpg": ("IMAGE_INVALID", lambda: saved(drawn(400, 300), "JPEG")[:1_500]),
    "sky.fits": ("FILE_TYPE_NOT_ALLOWED", fits),
    "logo.eps": ("FILE_TYPE_NOT_ALLOWED", lambda: EPS),
    "logo.svg": ("FILE_TYPE_NOT_ALLOWED", lambda: SVG),
}
"""Each with the code for which there are no pictures of it."""


async def test_pictures_of_a_picture(common_server: Server, crowd: list[Person]) -> None:
    """Members get the size, a placeholder and two smaller pictures, without what the camera knew; others nothing."""
    server, (ann, bob, eve, *_) = common_server, crowd
    room = await server.chatroom(ann, bob)
    data = held_sideways()
    file = await upload(server, ann, data, "../IMG 1.jpg")
    assert (file["width"], file["height"], file["preview_refused"]) == (600, 800, None)
    urls = {file["thumbnail_url"]: (240, 320), file["preview_url"]: (600, 800)}
    assert [(await download(server, bob, url))[0] for url in urls] == [404, 404]
    body = {"content": "look", "attachments": [{"id": file["id"]}]}
    await server.data("POST", f"/chatrooms/{room}/messages", ann.token, body)
    ((attached,),) = [message["attachments"] for message in await server.history(bob, room)]
    assert {name: attached[name] for name in SHOWN} == {name: file[name] for name in SHOWN}
    for url, size in urls.items():
        image = await looked_at(server, bob, url)
        assert (image.size, dict(image.getexif())) == (size, {})
        assert (await download(server, eve, url))[0] == 404
    status, got = await download(server, bob, attached["encrypted_url"])
    assert (status, sha256(got).hexdigest()) == (200, file["sha256"])


async def looked_at(server: Server, person: Person, url: str) -> Any:
    """A picture as a browser gets it."""
    async with aiohttp.ClientSession() as http, http.get(server.http + url, headers=signed(person)) as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/webp")
        data = await answer.read()
    assert SCRIPT not in data
    return opened(data)


async def test_pictures_that_mean_harm(common_server: Server, crowd: list[Person]) -> None:
    """They are kept as the files that they are, say why there is no picture of them, and cost the server nothing."""
    server, (ann, *_) = common_server, crowd
    await upload(server, ann, saved(drawn(40, 30), "PNG"), "first.png")
    process = psutil.Process(server.pid)
    before = process.memory_info().rss
    for name, (code, made) in HOSTILE.items():
        data = made()
        file = await upload(server, ann, data, name)
        assert {field: file[field] for field in SHOWN} == dict.fromkeys(SHOWN) | {"preview_refused": code}, name
        status, got = await download(server, ann, file["encrypted_url"])
        assert (status, sha256(got).hexdigest()) == (200, sha256(data).hexdigest())
        assert (await download(server, ann, f"/files/{file['id']}/thumbnail"))[0] == 404
    assert process.memory_info().rss - before < 64 * 1024 * 1024
    assert process.children() == []


async def test_a_page_in_a_picture(common_server: Server, crowd: list[Person]) -> None:
    """A GIF that is also a page is shown as a picture, and its pictures have nothing of the page."""
    server, (ann, *_) = common_server, crowd
    file = await upload(server, ann, polyglot(), "page.html")
    assert (file["file_type"], file["preview_refused"]) == ("image/gif", None)
    for url in (file["thumbnail_url"], file["preview_url"]):
        assert (await looked_at(server, ann, url)).size == (40, 30)


async def test_sealed_pictures(common_server: Server, crowd: list[Person]) -> None:
    """What the client has sealed is not looked at, and pictures are sealed where they are kept."""
    server, (ann, *_) = common_server, crowd
    data = saved(drawn(40, 30), "PNG")
    others = kept(server)
    assert (await upload(server, ann, data))["width"] == 40
    blobs = kept(server) - others
    assert len(blobs) == 3
    assert not any(mark in blob.read_bytes() for blob in blobs for mark in (b"WEBP", b"PNG"))
    form = aiohttp.FormData({"encrypted": "true"})
    form.add_field("file", BytesIO(data), filename="sealed")
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.http}/upload/file", data=form, headers=signed(ann)) as answer,
    ):
        file = (await answer.json())["data"]["file"]
    assert {field: file[field] for field in SHOWN} == dict.fromkeys(SHOWN)


async def test_pictures_of_no_file(common_server: Server, crowd: list[Person]) -> None:
    """An upload that is refused when its pictures were made already leaves nothing behind."""
    server, (ann, bob, *_) = common_server, crowd
    room, others = await server.chatroom(bob), kept(server)
    form = aiohttp.FormData()
    form.add_field("file", BytesIO(saved(drawn(40, 30), "PNG")), filename="lost.png")
    form.add_field("chatroom_id", str(room))
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.http}/upload/file", data=form, headers=signed(ann)) as answer,
    ):
        assert (await answer.json())["error"]["code"] == "CHATROOM_NOT_FOUND"
    assert kept(server) - others == set()
