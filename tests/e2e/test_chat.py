"""`parley chat`, as people and scripts start it: processes of their own, which talk through a server."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import PASSWORD, Server
from tests.e2e.socket_client import socket_client

pytestmark = pytest.mark.asyncio(loop_scope="session")

COMMAND = (sys.executable, "-m", "gateway", "chat")


class Chatting:
    """A running `parley chat` whose input and output are pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.printed: list[str] = []

    def type(self, *lines: str) -> None:
        """Types lines."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(line + "\n" for line in lines).encode())

    async def shows(self, pattern: str) -> str:
        """Waits for a line that matches, and returns it; what comes before it is passed over."""
        assert self.process.stdout is not None
        async with asyncio.timeout(20):
            while line := (await self.process.stdout.readline()).decode():
                self.printed.append(line)
                if re.search(pattern, line):
                    return line.rstrip("\n")
        raise AssertionError(f"no {pattern!r} in {self.printed}")

    async def leave(self) -> str:
        """The end of input; what was still printed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        output, _ = await asyncio.wait_for(self.process.communicate(), 20)
        assert self.process.returncode == 0, output
        return output.decode()


@asynccontextmanager
async def chatting(server: Server, *arguments: str, **environment: str) -> AsyncIterator[Chatting]:
    """`parley chat` with these arguments."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "--url", server.ws, *arguments, env={**os.environ, **environment}, **pipes
    )
    try:
        yield Chatting(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_two_talk(common_server: Server) -> None:
    """One makes a chatroom and invites the other; both see what both say, by WebSocket and by TCP under Noise."""
    ann, bob = await common_server.people(2)
    async with (
        chatting(common_server, "--user", ann.username, PARLEY_PASSWORD=PASSWORD) as a,
        chatting(common_server, "--url", common_server.sealed, PARLEY_TOKEN=bob.token) as b,
    ):
        await a.shows("You are in no chatroom yet")
        await b.shows("You are in no chatroom yet")
        a.type("/create Tea", f"/invite {bob.username}", "hello bob")
        await a.shows(r"--- Tea \(1 member\) ---")
        await b.shows(r"\* you are now in Tea")
        await b.shows(rf"\[Tea\] \d\d:\d\d {ann.username}: hello bob")
        b.type("/rooms", "/join 1", "hello ann", "/who")
        await b.shows(r"  1  Tea  \(2 members, 1 unread\)")
        await b.shows(r"--- Tea \(2 members\) ---")
        await b.shows(f"{ann.username}: hello bob")
        await b.shows(f"{bob.username}: hello ann")
        await b.shows(rf"  \* {ann.username} \(owner\)")
        await a.shows(f"{bob.username}: hello ann")
        a.type("//quit is no command here", "/quit")
        await b.shows(f"{ann.username}: /quit is no command here")
        await a.leave()
        assert "hello" not in await b.leave()


async def test_moderating(common_server: Server) -> None:
    """Who is muted is told so and loses no line; who is banned is out, and comes back when that is lifted."""
    ann, bob = await common_server.people(2)
    room = await common_server.chatroom(ann, bob, name="Tea")
    async with (
        chatting(common_server, "Tea", "--user", ann.username, PARLEY_PASSWORD=PASSWORD) as a,
        chatting(common_server, "Tea", PARLEY_TOKEN=bob.token) as b,
    ):
        await b.shows("--- Tea")
        a.type(f"/mute {bob.username}")
        await b.shows(rf"\* {bob.username} may not write in Tea")
        b.type("can you hear me?")
        await b.shows(r"! You are muted in this chatroom\. \(not sent: can you hear me\?\)")
        a.type(f"/unmute {bob.username}")
        await b.shows(rf"\* {bob.username} may write again in Tea")
        b.type("and now?")
        await a.shows(f"{bob.username}: and now")
        a.type(f"/ban {bob.username}", f"/invite {bob.username}", f"/unban {bob.username}", f"/invite {bob.username}")
        await a.shows(rf"\* {bob.username} is banned")
        await a.shows("! The user is banned")
        await a.shows(rf"\* {bob.username} is no longer banned")
        await b.shows(r"\* Tea is no longer yours")
        await b.shows(r"\* you are now in Tea")
        await a.leave()
        await b.leave()
    assert [message["content"] for message in await common_server.history(ann, room)] == ["and now?"]


async def test_files(common_server: Server, tmp_path: Path) -> None:
    """A file is sent with words, shown with a number, and saved under its name or another; what goes wrong is told."""
    ann, bob = await common_server.people(2)
    await common_server.chatroom(ann, bob, name="Tea")
    (tmp_path / "my plan.txt").write_text("two spoons a cup")
    (tmp_path / "in").mkdir()
    async with (
        chatting(common_server, "Tea", "--user", ann.username, PARLEY_PASSWORD=PASSWORD) as a,
        chatting(common_server, "Tea", PARLEY_TOKEN=bob.token) as b,
    ):
        await b.shows("--- Tea")
        a.type(f'/send "{tmp_path}/my plan.txt" how I do it', f"/send {tmp_path}/none", f"/send {tmp_path}")
        await b.shows(f"{ann.username}: how I do it")
        await b.shows(r"  file 1: my plan\.txt \(text/plain, 16 bytes\)")
        b.type(f"/save 1 {tmp_path}/in", f"/save 1 {tmp_path}/other.txt", f"/save 1 {tmp_path}/in", "/save 2")
        await b.shows(r"\* saved as .*/in/my plan\.txt")
        await b.shows(r"\* saved as .*/other\.txt")
        await b.shows("! .*File exists")
        await b.shows(r"! No file 2 was shown\.")
        await a.shows("! .*No such file")
        await a.shows("! .*Is a directory")
        await a.leave()
        await b.leave()
    assert (tmp_path / "in" / "my plan.txt").read_text() == (tmp_path / "other.txt").read_text() == "two spoons a cup"


async def test_a_script(common_server: Server) -> None:
    """Lines from a pipe are sent in order, shown when they come back, and the program ends well after the last."""
    ann = await common_server.person()
    room = await common_server.chatroom(ann, name="Log")
    async with chatting(common_server, "--user", ann.username, "log", PARLEY_PASSWORD=PASSWORD) as script:
        script.type(*(f"line {n}" for n in range(50)))
        printed = await script.leave()
    lines = [f"line {n}" for n in range(50)]
    assert re.findall(r"line \d+", printed) == lines
    assert [message["content"] for message in await common_server.history(ann, room)] == lines


async def test_read_positions(common_server: Server) -> None:
    """Who reads a lively chatroom tells how far, in the end, but not at every message."""
    ann, bob = await common_server.people(2)
    room = await common_server.chatroom(ann, bob)
    async with (
        socket_client(common_server.ws) as client,
        chatting(common_server, str(room), PARLEY_TOKEN=bob.token) as reader,
    ):
        await client.authenticate(ann.token)
        await client.ask("join_chatroom", {"chatroom_id": str(room)})
        await reader.shows("--- room")
        for n in range(100):
            await client.say(room, f"line {n}")
        receipts = [(await client.until("read_receipt"))["data"]["seq"]]
        while receipts[-1] < 101:
            receipts.append((await client.until("read_receipt"))["data"]["seq"])
        await reader.leave()
    assert receipts == sorted(receipts)
    assert len(receipts) < 50


async def test_a_hostile_message(common_server: Server) -> None:
    """What others write is text: no escape sequence of it reaches the terminal, no line of it passes for another's."""
    ann, eve = await common_server.people(2)
    room = await common_server.chatroom(eve, ann, name="T\x1b]0;owned\x07ea")
    attack = f"\x1b[2J\x1b]0;owned\x07\x9b31mhi\u202e\n12:00 {ann.username}: I said this"
    await common_server.data("POST", f"/chatrooms/{room}/messages", eve.token, {"content": attack})
    async with chatting(common_server, str(room), PARLEY_TOKEN=ann.token) as reader:
        printed = await reader.leave()
    assert "owned" in printed
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printed)
    assert f"\n      | 12:00 {ann.username}: I said this\n" in printed


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--user", "nobody-at-all"], {"PARLEY_PASSWORD": "wrong password"}, "AUTH_INVALID_CREDENTIALS"),
        (["--user", "nobody-at-all"], {}, "Password is missing: give one in PARLEY_PASSWORD"),
        ([], {}, "User name is missing"),
        ([], {"PARLEY_TOKEN": "guess"}, "The server ended the session"),
        (["--url", "nowhere"], {"PARLEY_TOKEN": "x"}, "is not an address such as ws://"),
        (["--url", "parley://127.0.0.1:1", "--user", "x"], {}, "otherwise give a token in PARLEY_TOKEN"),
        (["--url", "ws://127.0.0.1:1/ws", "--user", "x"], {"PARLEY_PASSWORD": "x"}, "cannot be reached"),
    ],
)
async def test_refusals(common_server: Server, arguments: list[str], environment: dict[str, str], said: str) -> None:
    """What cannot work is told in a line."""
    async with chatting(common_server, *arguments, **environment) as tried:
        _, error = await asyncio.wait_for(tried.process.communicate(), 20)
    assert tried.process.returncode not in (0, None)
    assert said in error.decode()
    assert "Traceback" not in error.decode()


WHERE = "\x1b[6n"
"""The question where the cursor is, which terminals answer (ECMA-48, 8.3.35); without it there is no status line."""


class Screen:
    """A terminal with a running `parley chat` in it."""

    def __init__(self, master: int) -> None:
        self._master = master
        self.seen = ""

    def type(self, text: str) -> None:
        """Presses keys."""
        os.write(self._master, text.encode())

    @property
    def text(self) -> str:
        """What was drawn, without colours and moves; where the cursor skipped a cell, that was blank before."""
        skipped = re.sub(r"\x1b\[(\d*)C", lambda match: " " * int(match[1] or 1), self.seen)
        return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", skipped)

    async def shows(self, text: str) -> None:
        """Waits until this was drawn."""
        loop, drawn = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._master, self._read, drawn)
        try:
            async with asyncio.timeout(20):
                while text not in self.text:
                    drawn.clear()
                    await drawn.wait()
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.seen!r}") from None
        finally:
            loop.remove_reader(self._master)

    def _read(self, drawn: asyncio.Event) -> None:
        before = self.seen.count(WHERE)
        self.seen += os.read(self._master, 65_536).decode(errors="replace")
        self.type("\x1b[1;1R" * (self.seen.count(WHERE) - before))
        drawn.set()


@asynccontextmanager
async def screen(server: Server, *arguments: str, **environment: str) -> AsyncIterator[Screen]:
    """`parley chat` in a terminal of its own."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 200))
    process = await asyncio.create_subprocess_exec(
        *(*COMMAND, "--url", server.ws, *arguments),
        env={**os.environ, "TERM": "xterm", **environment},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Screen(master)
        await asyncio.wait_for(process.wait(), 20)
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(master)


async def test_in_a_terminal(common_server: Server) -> None:
    """A new user is asked who they are, and makes an account; who types, is there, and has read shows below."""
    name = f"new-{os.urandom(4).hex()}"
    bob = await common_server.person()
    async with screen(common_server) as new:
        for question, answer in {
            "User name: ": name,
            "Password: ": PASSWORD,
            f"Make a new account called {name}? [y/N]: ": "y",
            "E-mail address: ": f"{name}@example.com",
            "The password again: ": PASSWORD,
        }.items():
            await new.shows(question)
            new.type(answer + "\n")
        await new.shows("You are in no chatroom yet")
        new.type("/create Tea\r")
        await new.shows("Tea · 1 online")
        new.type(f"/invite {bob.username}\r")
        await new.shows(f"* {bob.username} joined Tea")
        async with socket_client(common_server.ws) as client:
            room = (await client.authenticate(bob.token))["chatrooms"][0]["id"]
            await client.ask("join_chatroom", {"chatroom_id": room})
            await client.ask("typing_start", {"chatroom_id": room})
            await new.shows(f"{bob.username} types…")
            new.type("hello")
            assert (await client.until("typing_indicator"))["data"]["is_typing"] is True
            await client.ask("typing_stop", {"chatroom_id": room})
            new.type("\r")
            await client.until("message_received")
            await new.shows(f"{name}: hello")
            await client.ask("message_read", {"chatroom_id": room, "seq": 3})
            await new.shows(f"read by {bob.username}")
        new.type("\x04")
    assert PASSWORD not in new.seen
