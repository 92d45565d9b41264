"""Who may have which file at which address: one table. And that nothing tells what is forbidden from what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import aiohttp

from tests.e2e.bots import make_bot
from tests.e2e.program import parley
from tests.e2e.server import Person, Server
from tests.e2e.test_avatars import set_avatar
from tests.e2e.test_files import upload
from tests.e2e.tus import BYTES, metadata
from tests.pictures import drawn, saved

AT_ONCE = 16
"""Requests under way."""

MEMBERS = ("owner", "moderator", "member", "muted", "sender", "bot")
"""Those who are members of the room in the end; the bot may read and write."""

GONE = ("banned", "removed", "left", "sender_who_left", "outsider")
OUT = ("deactivated", "signed_out")
BOTS_WITHOUT_READ = ("writing_bot", "bot_that_lost_read")
ROLES = (*MEMBERS, *GONE, *OUT, *BOTS_WITHOUT_READ)

ALLOWED = {
    "here": MEMBERS,
    "here_by_who_left": (*MEMBERS, "sender_who_left"),
    "elsewhere": (),
    "unsent": ("sender",),
    "half": (),
    "avatar": (),
}
"""Who may have a file, by where it is: in the room, sent by a member and by a former one; in another one; in none; or
not all of it has come; or it is a user's picture, which has an address of its own.

Beside these everyone has one of their own, which they may have as long as they are somebody.
"""

KINDS = (
    "file",
    "fserv",
    "range",
    "head",
    "thumbnail",
    "preview",
    "info",
    "signed",
    "signed_before",
    "tus",
    "tus_patch",
)


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def plain(self) -> tuple[int, dict[str, str], bytes]:
        """Without what the time and the sender's limit bring into it."""
        kept = {k: v for k, v in self.headers.items() if k != "Date" and not k.startswith("X-RateLimit")}
        return self.status, kept, self.body


@dataclass
class World:
    """People, their files, and the addresses that they had asked for before things changed."""

    server: Server
    http: aiohttp.ClientSession
    people: dict[str, Person] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    before: dict[tuple[str, str], str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    room: UUID = field(default_factory=uuid4)
    busy: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def ask(self, method: str, path: str, role: str | None = None, **options: Any) -> Answer:
        """One request."""
        headers = options.pop("headers", {})
        if role is not None:
            headers = headers | {"Authorization": f"Bearer {self.people[role].token}"}
        async with self.busy, self.http.request(method, self.server.http + path, headers=headers, **options) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.read())

    async def signed(self, role: str, file_id: str) -> str | None:
        """The address of a file that somebody gets when they ask for one."""
        body = {"file_ids": [file_id]}
        status, answer = await self.server.call("POST", "/files/urls", self.people[role].token, body)
        if status != 200:
            return None
        return answer["data"]["files"][0]["url"] if answer["data"]["files"] else None

    async def at(self, kind: str, role: str, file_id: str) -> Answer | None:
        """What somebody gets at an address of a file; None where they have none."""
        if kind in ("signed", "signed_before"):
            had = self.before.get((role, file_id))
            url = had if kind == "signed_before" else await self.signed(role, file_id)
            return None if url is None else await self.ask("GET", url)
        method, path, headers = ADDRESSES[kind]
        return await self.ask(method, path.format(file_id), role, headers=headers)


TUS = {"Tus-Resumable": "1.0.0"}
ADDRESSES: dict[str, tuple[str, str, dict[str, str]]] = {
    "file": ("GET", "/files/{}", {}),
    "fserv": ("GET", "/f/fserv/download/{}", {}),
    "range": ("GET", "/files/{}", {"Range": "bytes=0-3"}),
    "head": ("HEAD", "/files/{}", {}),
    "thumbnail": ("GET", "/files/{}/thumbnail", {}),
    "preview": ("GET", "/files/{}/preview", {}),
    "info": ("GET", "/files/{}/info", {}),
    "tus": ("HEAD", "/files/tus/{}", TUS),
    "tus_patch": ("PATCH", "/files/tus/{}", TUS | BYTES | {"Upload-Offset": "1000000"}),
}


def expected(kind: str, role: str, relation: str) -> int | None:
    """The table: a status, or None where nobody gives the address away."""
    mine = relation == "own" or (relation, role) in (("unsent", "sender"), ("half", "sender"), ("here", "sender"))
    mine = mine or (relation, role) == ("here_by_who_left", "sender_who_left")
    allowed = relation == "own" or role in ALLOWED[relation]
    could_read = role not in OUT + BOTS_WITHOUT_READ
    if kind == "signed":
        return 200 if allowed and could_read else None
    if kind == "signed_before":
        had = allowed or (relation.startswith("here") and role != "outsider")
        return None if role == "writing_bot" or not had else 200 if allowed and could_read else 404
    if role in OUT:
        return 401
    if kind.startswith("tus"):
        # Bytes that belong nowhere are refused to its uploader alone; the others hear that there is no such upload.
        return 404 if not mine else 200 if kind == "tus" else 409
    if role in BOTS_WITHOUT_READ:
        return 403
    return 404 if not allowed else 206 if kind == "range" else 200


async def test_who_may_have_what(common_server: Server) -> None:
    """Every role, every place of a file, every address: as in the table, and what is forbidden is like what is not."""
    async with world(common_server) as seen:

        async def look(kind: str, role: str, relation: str) -> str | None:
            file_id = seen.files[role if relation == "own" else relation]
            answer = await seen.at(kind, role, file_id)
            status = None if answer is None else answer.status
            return None if status == expected(kind, role, relation) else f"{role}, {relation}, {kind}: {status}"

        cells = [(kind, role, relation) for kind in KINDS for role in ROLES for relation in (*ALLOWED, "own")]
        wrong = [found for found in await asyncio.gather(*(look(*cell) for cell in cells)) if found]
        assert wrong == []
        assert len(cells) > 1000
        await nothing_tells(seen)
        await parts_are_for_one(seen)
        await avatars_are_for_all(seen)


async def nothing_tells(seen: World) -> None:
    """At each address, one who may not have a file gets what they get for one that never was, to the byte."""
    for role in ("outsider", "removed", "banned", "writing_bot", "deactivated"):
        for kind in ADDRESSES:
            never = await seen.at(kind, role, str(uuid4()))
            for relation in ("here", "elsewhere", "unsent", "half", "avatar"):
                there = await seen.at(kind, role, seen.files[relation])
                assert there is not None
                assert never is not None
                assert there.plain == never.plain, (role, kind, relation)
    url = await seen.signed("sender", seen.files["here"])
    assert url is not None
    signature = url.partition("?")[2]
    paths = [f"/files/{file_id}?{signature}" for file_id in (uuid4(), seen.files["elsewhere"], seen.files["unsent"])]
    answers = [
        (await seen.ask("GET", path)).plain for path in (*paths, f"{url}A", seen.before["left", seen.files["here"]])
    ]
    assert answers[0][0] == 404
    assert all(answer == answers[0] for answer in answers)


async def parts_are_for_one(seen: World) -> None:
    """A part goes to the address that its uploader was given, as long as they are signed in as they were."""
    for role, url in seen.parts.items():
        ended = role in OUT or role == "bot_that_lost_read"
        other = seen.parts["outsider" if role != "outsider" else "sender"].partition("?")[2]
        path = url.partition("?")[0]
        for address, status in ((f"{path}?{other}", 404), (path, 404), (f"{url}A", 404), (url, 404 if ended else 204)):
            assert (await seen.ask("PUT", address, data=b"half a file")).status == status, (role, address)
        upload_id = path.split("/")[3]
        for asker in ROLES:
            status = 401 if asker in OUT else 200 if asker == role else 404
            assert (await seen.ask("GET", f"/files/uploads/{upload_id}", asker)).status == status, (role, asker)


async def avatars_are_for_all(seen: World) -> None:
    """Who knows where a picture of a user is may have it; no file is to be had there."""
    for role in (*ROLES, None):
        assert (await seen.ask("GET", f"/avatars/{seen.files['avatar']}", role)).status == 200
        for relation in ("here", "unsent", "half"):
            assert (await seen.ask("GET", f"/avatars/{seen.files[relation]}", role)).status == 404


@asynccontextmanager
async def world(server: Server) -> AsyncIterator[World]:
    """Everyone, as they are in the end; what they have asked for before that is in `before`."""
    async with aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as http:
        seen = World(server, http)
        await populate(seen)
        await share(seen)
        for role in ROLES:
            for relation, file_id in seen.files.items():
                if relation in (role, *ALLOWED) and (url := await seen.signed(role, file_id)):
                    seen.before[role, file_id] = url
        await change(seen)
        yield seen


async def populate(seen: World) -> None:
    """Accounts, and the room with all who ever come into it."""
    humans = [role for role in ROLES if "bot" not in role]
    seen.people = dict(zip(humans, await seen.server.people(len(humans)), strict=True))
    owner, other = seen.people["owner"], await seen.server.person()
    seen.people |= {
        "bot": await make_bot(seen.server, owner),
        "bot_that_lost_read": await make_bot(seen.server, owner),
        "writing_bot": await make_bot(seen.server, owner, "write"),
        "other": other,
    }
    members = [seen.people[role] for role in ROLES if role not in ("owner", "outsider")]
    seen.room = await seen.server.chatroom(owner, *members)


async def share(seen: World) -> None:
    """A picture of everyone's own, and one in each place."""
    picture = saved(drawn(40, 30), "PNG")

    async def own(role: str) -> tuple[str, str]:
        async with seen.busy:
            return role, (await upload(seen.server, seen.people[role], picture, f"{role}.png"))["id"]

    async def put(relation: str, role: str, room: UUID | None) -> None:
        file_id = (await upload(seen.server, seen.people[role], picture, f"{relation}.png"))["id"]
        seen.files[relation] = file_id
        if room is not None:
            body = {"content": "", "attachments": [{"id": file_id}]}
            await seen.server.data("POST", f"/chatrooms/{room}/messages", seen.people[role].token, body)

    seen.files = dict(await asyncio.gather(*map(own, ROLES)))
    await put("here", "sender", seen.room)
    await put("here_by_who_left", "sender_who_left", seen.room)
    await put("elsewhere", "other", await seen.server.chatroom(seen.people["other"]))
    await put("unsent", "sender", None)
    begun = {"Upload-Length": "1000", "Upload-Metadata": metadata(filename="half.png")}
    answer = await seen.ask("POST", "/files/tus", "sender", headers=TUS | begun)
    seen.files["half"] = answer.headers["Location"].rpartition("/")[2]
    seen.files["avatar"] = (await set_avatar(seen.server, seen.people["sender"], picture)).rpartition("/")[2]
    for role in ROLES:
        parts = {"filename": "parts.bin", "file_size": 11}
        started = await seen.server.data("POST", "/files", seen.people[role].token, parts)
        seen.parts[role] = started["parts"][0]["url"]


async def change(seen: World) -> None:
    """Some come to be what they are called."""
    server, people, token = seen.server, seen.people, seen.people["owner"].token
    in_room = f"/chatrooms/{seen.room}"
    moderator = {"role": "moderator"}
    await server.data("PUT", f"{in_room}/members/{people['moderator'].id}", token, moderator)
    await server.data("PUT", f"{in_room}/members/{people['muted'].id}/mute", token, {"duration_seconds": None})
    await server.data("PUT", f"{in_room}/bans/{people['banned'].id}", token, {})
    await server.data("DELETE", f"{in_room}/members/{people['removed'].id}", token)
    for role in ("left", "sender_who_left"):
        await server.data("POST", f"{in_room}/leave", people[role].token)
    await server.data("PUT", f"/bots/{people['bot_that_lost_read'].id}", token, {"scopes": ["write"]})
    await server.data("POST", "/auth/logout", people["signed_out"].token)
    await parley(server, "users", "deactivate", people["deactivated"].username)
