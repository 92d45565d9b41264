"""Pictures of users and chatrooms: who sets them, what they become, who sees that, and what is left of the former."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from io import BytesIO
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.server import Person, Server
from tests.e2e.socket_client import socket_client
from tests.e2e.test_file_care import kept
from tests.e2e.test_files import signed
from tests.pictures import EPS, SVG, drawn, gif, held_sideways, opened, png, saved, text_bomb

OWN = "/users/me/avatar"

KEPT = "public, max-age=31536000, immutable"


async def send(server: Server, person: Person, path: str, data: bytes, field: str = "file") -> tuple[int, Any]:
    """Uploads a picture: the status and the answer."""
    form = aiohttp.FormData({"note": "before the file"})
    form.add_field(field, BytesIO(data), filename="me.png")
    async with (
        aiohttp.ClientSession() as http,
        http.post(server.http + path, data=form, headers=signed(person)) as answer,
    ):
        return answer.status, await answer.json()


async def refusal(server: Server, person: Person, path: str, data: bytes, field: str = "file") -> tuple[int, str]:
    """The status and the code with which a picture is refused."""
    status, answer = await send(server, person, path, data, field)
    return status, answer["error"]["code"]


async def set_avatar(server: Server, person: Person, data: bytes, path: str = OWN) -> str:
    """Sets a picture, and says where it is."""
    status, answer = await send(server, person, path, data)
    assert status == 200, answer
    url: str = answer["data"].get("chatroom", answer["data"])["avatar_url"]
    return url


async def get(server: Server, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, bytes]:
    """Without a token: status, headers, bytes."""
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, server.http + path, headers=headers) as answer,
    ):
        return answer.status, answer.headers, await answer.read()


async def test_an_avatar(common_server: Server) -> None:
    """It is a square of its own, without what the camera knew, for anyone who knows where it is, and for good."""
    server = common_server
    (ann,) = await server.people(1)
    url = await set_avatar(server, ann, held_sideways())
    status, headers, data = await get(server, url)
    image = opened(data)
    assert (status, image.size, image.format, dict(image.getexif())) == (200, (256, 256), "WEBP", {})
    red, _, blue = image.convert("RGB").getpixel((200, 50))  # type: ignore[misc]
    assert red > blue
    expected = {"Content-Type": "image/webp", "Cache-Control": KEPT, "X-Content-Type-Options": "nosniff"}
    assert {name: headers[name] for name in expected} == expected
    assert "sandbox" in headers["Content-Security-Policy"]
    assert headers["ETag"] == f'"{sha256(data).hexdigest()}"'
    assert (await get(server, url, **{"If-None-Match": headers["ETag"]}))[::2] == (304, b"")
    assert (await get(server, url, **{"If-None-Match": '"another"'}))[0] == 200
    status, head, nothing = await get(server, f"/api/v1{url}", "HEAD")
    assert (status, head["Content-Length"], nothing) == (200, str(len(data)), b"")


async def test_others_see_it(common_server: Server) -> None:
    """With the next message others have the new picture; in a direct chatroom it is that of the other one."""
    server = common_server
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    direct = await server.data("POST", "/chatrooms", ann.token, {"kind": "direct", "user_ids": [str(bob.id)]})
    async with socket_client(server) as socket:
        await socket.authenticate(bob.token)
        url = await set_avatar(server, ann, saved(drawn(300, 200), "JPEG"))
        await server.data("POST", f"/chatrooms/{room}/messages", ann.token, {"content": "how do I look?"})
        heard = await socket.until("message_received")
    assert heard["data"]["message"]["avatar_url"] == url
    assert (await server.data("GET", f"/users/{ann.id}", bob.token))["avatar_url"] == url
    listed = (await server.data("GET", "/chatrooms", bob.token))["chatrooms"]
    assert {chatroom["id"]: chatroom["avatar_url"] for chatroom in listed} == {
        str(room): None,
        direct["chatroom"]["id"]: url,
    }


@pytest.mark.parametrize("how", ["another", "delete", "link"])
async def test_the_former_goes(common_server: Server, how: str) -> None:
    """Whatever takes its place, the former picture is gone at once, with its bytes."""
    server = common_server
    ann, bob = await server.people(2)
    others = kept(server)
    url = await set_avatar(server, ann, saved(drawn(30, 20), "PNG"))
    await server.data("PUT", "/users/me", ann.token, {"display_name": "Ann", "avatar_url": url})
    await server.data("PUT", "/users/me", bob.token, {"avatar_url": url})  # a link to it is not it
    await server.data("PUT", "/users/me", bob.token, {"avatar_url": None})
    assert (await get(server, url))[0] == 200
    if how == "another":
        assert (new := await set_avatar(server, ann, saved(drawn(20, 30), "PNG"))) != url
    elif how == "delete":
        new = (await server.data("DELETE", OWN, ann.token))["avatar_url"]
    else:
        link = {"avatar_url": "https://example.org/ann.png"}
        new = (await server.data("PUT", "/users/me", ann.token, link))["avatar_url"]
    assert (await server.data("GET", "/users/me", ann.token))["avatar_url"] == new
    assert (await get(server, url))[0] == 404
    assert len(kept(server) - others) == (1 if how == "another" else 0)


async def test_refused_avatars(start_server: StartServer) -> None:
    """What is too large, no picture, damaged or made to do harm has its code, and the picture stays what it was."""
    server = await start_server(PARLEY_LIMIT_AVATAR="100000")
    ann, bob, eve = await server.people(3)
    room = await server.chatroom(ann, bob)
    mine = f"/chatrooms/{room}/avatar"
    refused = {
        "large": ((413, "FILE_TOO_LARGE"), bytes(100_001)),
        "eps": ((415, "FILE_TYPE_NOT_ALLOWED"), EPS),
        "svg": ((415, "FILE_TYPE_NOT_ALLOWED"), SVG),
        "text": ((415, "FILE_TYPE_NOT_ALLOWED"), b"hello"),
        "empty": ((415, "FILE_TYPE_NOT_ALLOWED"), b""),
        "pixels": ((422, "IMAGE_TOO_LARGE"), png(20_000, 20_000)),
        "frames": ((422, "IMAGE_TOO_LARGE"), gif(2_000)),
        "cut": ((422, "IMAGE_INVALID"), saved(drawn(400, 300), "JPEG")[:1_500]),
        "bomb": ((422, "IMAGE_INVALID"), text_bomb(b"zTXt")),
    }
    urls = [await set_avatar(server, ann, saved(drawn(30, 20), "PNG"), path) for path in (OWN, mine)]
    before = kept(server)
    for name, (expected, data) in refused.items():
        for path in (OWN, mine):
            assert (name, await refusal(server, ann, path, data)) == (name, expected)
    assert await refusal(server, ann, OWN, b"x", "picture") == (422, "VALIDATION_REQUIRED_FIELD")
    status, answer = await server.call("POST", OWN, ann.token, {"file": "x"})
    assert (status, answer["error"]["code"]) == (422, "VALIDATION_INVALID_FORMAT")
    assert [(await get(server, url))[0] for url in urls] == [200, 200]
    assert kept(server) == before
    good = saved(drawn(30, 20), "PNG")
    assert await refusal(server, bob, mine, good) == (403, "RESOURCE_ACCESS_DENIED")
    assert await refusal(server, eve, mine, good) == (404, "CHATROOM_NOT_FOUND")
    assert await refusal(server, ann, "/chatrooms/none/avatar", good) == (404, "CHATROOM_NOT_FOUND")
    direct = await server.data("POST", "/chatrooms", ann.token, {"kind": "direct", "user_ids": [str(bob.id)]})
    path = f"/chatrooms/{direct['chatroom']['id']}/avatar"
    assert await refusal(server, ann, path, good) == (403, "CHATROOM_ACCESS_DENIED")
    for person, status in ((bob, 403), (eve, 404)):
        assert (await server.call("DELETE", mine, person.token))[0] == status
    assert kept(server) == before
    assert (await get(server, "/avatars/none"))[0] == (await get(server, f"/avatars/{room}"))[0] == 404
    assert "Traceback" not in server.logs()


async def test_a_chatrooms_avatar(common_server: Server, crowd: list[Person]) -> None:
    """Owners and moderators give a chatroom its picture; members hear of it, and the former goes."""
    server, (ann, bob, *_) = common_server, crowd
    room, others = await server.chatroom(ann, bob), kept(server)
    path = f"/chatrooms/{room}/avatar"
    await server.data("PUT", f"/chatrooms/{room}/members/{bob.id}", ann.token, {"role": "moderator"})
    async with socket_client(server) as socket:
        await socket.authenticate(bob.token)
        first = await set_avatar(server, ann, saved(drawn(30, 20), "PNG"), path)
        heard = await socket.until("chatroom_updated")
        assert heard["data"]["chatroom"]["avatar_url"] == first
        second = await set_avatar(server, bob, saved(drawn(20, 30), "PNG"), path)
        heard = await socket.until("chatroom_updated")
        assert heard["data"]["chatroom"]["avatar_url"] == second
        fetched = await server.data("GET", f"/chatrooms/{room}", ann.token)
        assert fetched["chatroom"] == heard["data"]["chatroom"]
        assert [(await get(server, url))[0] for url in (first, second)] == [404, 200]
        # Bob's own picture is another thing.
        own = await set_avatar(server, bob, saved(drawn(20, 20), "PNG"))
        assert [(await get(server, url))[0] for url in (second, own)] == [200, 200]
        changed = await server.data("DELETE", path, ann.token)
        assert (await socket.until("chatroom_updated"))["seq"] == changed["seq"]
    assert (await server.data("DELETE", path, ann.token))["seq"] == changed["seq"]
    async with socket_client(server) as socket:
        ready = await socket.authenticate(bob.token)
        (state,) = [chatroom for chatroom in ready["chatrooms"] if chatroom["id"] == str(room)]
        assert state["avatar_url"] is None
    assert [(await get(server, url))[0] for url in (second, own)] == [404, 200]
    await server.data("DELETE", OWN, bob.token)
    assert kept(server) - others == set()


async def test_a_right_that_ends_meanwhile(common_server: Server, crowd: list[Person]) -> None:
    """Who is no moderator any more when the picture has come does not set it, and nothing is left of it."""
    server, (ann, bob, *_) = common_server, crowd
    room = await server.chatroom(ann, bob)
    role = f"/chatrooms/{room}/members/{bob.id}"
    await server.data("PUT", role, ann.token, {"role": "moderator"})
    others, rest = kept(server), asyncio.Event()
    data = saved(drawn(600, 400), "PNG", compress_level=0)

    async def slowly() -> AsyncIterator[bytes]:
        yield data[:300_000]
        await rest.wait()
        yield data[300_000:]

    form = aiohttp.FormData()
    form.add_field("file", slowly(), filename="me.png", content_type="image/png")
    async with aiohttp.ClientSession() as http:
        path = f"{server.http}/chatrooms/{room}/avatar"
        sending = asyncio.create_task(http.post(path, data=form, headers=signed(bob)))
        async with asyncio.timeout(60):
            while not any((server.directory / "data" / "files" / "spool").iterdir()):
                await asyncio.sleep(0.01)
        await server.data("PUT", role, ann.token, {"role": "member"})
        rest.set()
        async with await sending as answer:
            body = await answer.json()
    assert (answer.status, body["error"]["code"]) == (403, "RESOURCE_ACCESS_DENIED")
    assert kept(server) - others == set()
    assert (await server.data("GET", f"/chatrooms/{room}", ann.token))["chatroom"]["avatar_url"] is None


async def test_with_a_deleted_chatroom(common_server: Server, crowd: list[Person]) -> None:
    """A chatroom takes its picture along."""
    server, (ann, *_) = common_server, crowd
    room = await server.chatroom(ann)
    url = await set_avatar(server, ann, saved(drawn(30, 20), "PNG"), f"/chatrooms/{room}/avatar")
    await server.data("DELETE", f"/chatrooms/{room}", ann.token)
    assert (await get(server, url))[0] == 404


async def test_two_at_once(common_server: Server) -> None:
    """Of pictures that come at once, one stays, and is the one that is shown."""
    server = common_server
    (ann,) = await server.people(1)
    others = kept(server)
    data = [saved(drawn(30 + number, 20), "PNG") for number in range(4)]
    urls = await asyncio.gather(*(set_avatar(server, ann, picture) for picture in data))
    shown = (await server.data("GET", "/users/me", ann.token))["avatar_url"]
    assert {url: (await get(server, url))[0] for url in urls} == {url: 200 if url == shown else 404 for url in urls}
    assert len(kept(server) - others) == 1


async def test_avatars_are_uploads(start_server: StartServer) -> None:
    """They count against the uploads of an hour; looking at them counts against nothing, guessing does."""
    server = await start_server(PARLEY_LIMIT_UPLOADS="1", PARLEY_LIMIT_REQUESTS="20")
    (ann,) = await server.people(1)
    url = await set_avatar(server, ann, saved(drawn(30, 20), "PNG"))
    assert await refusal(server, ann, OWN, saved(drawn(30, 20), "PNG")) == (429, "RATE_LIMIT_EXCEEDED")
    assert {(await get(server, url))[0] for _ in range(40)} == {200}
    guesses = [(await get(server, f"/avatars/{ann.id}"))[0] for _ in range(40)]
    assert {404, 429} == set(guesses)
