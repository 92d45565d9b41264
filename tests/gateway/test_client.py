from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Literal

import pytest
from websockets.asyncio.server import ServerConnection

from gateway.client import ChatError, Client, ClientClosed, connect
from gateway.client_inbox import PAUSE_AT
from protocol import commands, events
from protocol.codec import CODECS, JSON
from tests.gateway.client_served import Served
from tests.gateway.client_shapes import ME, NOW, ROOM


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A server of which the user is known to be a member of ROOM, at seq 1."""
    server = Served()
    await server.start()
    yield server
    await server.stop()


async def take(client: Client, count: int) -> list[int | None]:
    """The seqs of the next events."""
    async with asyncio.timeout(10):
        return [(await anext(client)).seq for _ in range(count)]


async def until(happened: Callable[[], object]) -> None:
    """Waits for something that takes a moment."""
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0.01)


# --- everyday use --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_a_message_is_acked_and_received(codec: Literal["json", "msgpack"]) -> None:
    """`send_message` returns the message as it was written; the sender's own client receives it, too."""
    served = Served(CODECS[codec])
    await served.start()
    async with connect(served.url, "token", codec=codec) as client:
        sent = await client.send_message(str(ROOM), "hello")
        event = await anext(client)
        assert (event.event, event.chatroom_id, event.seq) == ("message_received", ROOM, 2)
        assert event.data.message == sent.message
        assert sent.client_id
        assert client.chatrooms[ROOM].seq == 2
        assert client.user == ME
        assert client.session_id is not None
    await served.stop()


async def test_calls_return_typed_answers_and_raise_refusals(served: Served) -> None:
    """Any command goes through `call`; a refusal is a ChatError with the server's code."""
    async with connect(served.url, "token") as client:
        assert (await client.join_chatroom(ROOM)).seq == 1
        created = await client.call(commands.CreateChatroom(name="new"))
        assert isinstance(created, events.ChatroomChanged)
        with pytest.raises(ChatError) as refused:
            await client.message_read(ROOM, seq=1)
        assert refused.value.code == "CHATROOM_NOT_FOUND"


@pytest.mark.parametrize("command", [commands.Ping(), commands.Authenticate(token="t"), commands.GetAccount()])
async def test_some_commands_are_not_the_users(served: Served, command: commands.Command) -> None:
    """What the client does by itself, or what is for REST, is refused before it is sent."""
    async with connect(served.url, "token") as client:
        with pytest.raises(TypeError):
            await client.call(command)


async def test_a_command_larger_than_a_frame_stays_here(served: Served) -> None:
    """The server would close the connection for it; the caller gets an error instead."""
    async with connect(served.url, "token") as client:
        with pytest.raises(ChatError, match="VALIDATION_LENGTH_EXCEEDED"):
            await client.send_message(ROOM, "x" * 70_000)
        await client.send_message(ROOM, "short")


async def test_leaving_the_block_ends_everything(served: Served) -> None:
    """Waiting calls fail, the loop over events ends, and the server sees a proper close."""
    async with connect(served.url, "token") as client:
        served.reply = False
        waiting = asyncio.create_task(client.send_message(ROOM, "hi"))
        await asyncio.sleep(0.05)
    with pytest.raises(ClientClosed) as closed:
        await waiting
    assert closed.value.code == 1000
    assert [event async for event in client] == []
    with pytest.raises(ClientClosed):
        await client.send_message(ROOM, "late")
    assert served.socket is not None
    await served.socket.wait_closed()
    assert served.socket.close_code == 1000


# --- breaks --------------------------------------------------------------------------------------------


async def test_a_broken_connection_is_resumed(served: Served) -> None:
    """Events during the break come once, in order, on the same session, and waiting calls are answered."""
    async with connect(served.url, "token") as client:
        session = client.session_id
        await served.say(2)
        assert await take(client, 2) == [2, 3]
        served.reply = False
        waiting = asyncio.create_task(client.send_message(ROOM, "hi"))
        await asyncio.sleep(0.05)
        served.cut()
        served.reply = True
        served.model.say(ROOM)
        assert await take(client, 2) == [4, 5]
        assert (await waiting).message.seq == 5
        assert client.session_id == session
        assert served.connections == 2


async def test_a_restarted_server_is_found_again(served: Served) -> None:
    """The client tries until the server is back, and catches up on a new session."""
    async with connect(served.url, "token") as client:
        await served.stop()
        served.model.session = None
        served.model.say(ROOM)
        await asyncio.sleep(0.2)
        await served.start()
        assert await take(client, 1) == [2]


async def test_connecting_waits_for_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """A bot may be started before its server; the log says what it waits for."""
    served = Served()
    await served.start()
    await served.stop()
    opening = asyncio.create_task(_open_once(served.url))
    await until(lambda: "cannot be reached" in caplog.text)
    await served.start()
    await opening
    await served.stop()


async def _open_once(url: str) -> None:
    async with connect(url, "token"):
        pass


async def test_draining_is_followed_by_a_return_at_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A close code of 4200-4299 after a session of some length needs no backoff."""
    monkeypatch.setattr("random.random", lambda: 0.99)  # a backoff would take half a second
    async with connect(served.url, "token") as client:
        await asyncio.sleep(1.05)
        loop = asyncio.get_running_loop()
        await served.close(4200, "draining")
        began = loop.time()
        await until(lambda: served.connections == 2)
        await client.send_message(ROOM, "hi")
        assert loop.time() - began < 0.45


async def test_a_final_close_ends_calls_and_events(served: Served) -> None:
    """After 4000-4099 waiting calls, later calls and the events raise ClientClosed."""
    async with connect(served.url, "token") as client:
        await served.say()
        served.reply = False
        waiting = asyncio.create_task(client.send_message(ROOM, "hi"))
        await asyncio.sleep(0.05)
        await served.close(4005, "replaced")
        for ended in (waiting, client.send_message(ROOM, "late")):
            with pytest.raises(ClientClosed) as closed:
                await ended
            assert (closed.value.code, closed.value.reason) == (4005, "replaced")
        assert await take(client, 1) == [2]
        with pytest.raises(ClientClosed):
            await anext(client)


async def test_a_refused_token_is_raised_by_connect(served: Served) -> None:
    """`connect` does not wait for a server that has said no."""

    async def refuse(socket: ServerConnection) -> None:
        await socket.close(4001, "auth_failed")

    served.meet = refuse
    with pytest.raises(ClientClosed, match="4001: auth_failed"):
        await _open_once(served.url)


@pytest.mark.parametrize(("status", "final"), [(HTTPStatus.FORBIDDEN, True), (HTTPStatus.SERVICE_UNAVAILABLE, False)])
async def test_http_answers_to_the_upgrade(served: Served, status: HTTPStatus, final: bool) -> None:
    """403 is for good; 503 passes."""
    served.status = status
    opening = asyncio.create_task(_open_once(served.url))
    await asyncio.wait([opening], timeout=10 if final else 0.2)
    assert opening.done() == final
    served.status = None
    if final:
        with pytest.raises(ClientClosed, match="4003"):
            await opening
    else:
        await opening


async def test_a_server_of_another_kind_is_refused() -> None:
    """A WebSocket server that does not speak the protocol is no Parley."""
    served = Served()
    await served.start(subprotocols=[])
    with pytest.raises(ClientClosed, match="4002"):
        await _open_once(served.url)
    await served.stop()


@pytest.mark.parametrize("payload", ["{", '{"event": "ready", "data": {}}', "[]"])
async def test_a_server_that_makes_no_sense_ends_the_client(served: Served, payload: str) -> None:
    """A frame that cannot be read will not be readable next time."""

    async def babble(socket: ServerConnection) -> None:
        await socket.send(payload)
        await socket.wait_closed()

    served.meet = babble
    with pytest.raises(ClientClosed, match="4000"):
        await _open_once(served.url)


async def test_a_call_given_up_during_a_break_is_not_sent_later(served: Served) -> None:
    """A timeout around a call means: not any more."""
    async with connect(served.url, "token") as client:
        await served.stop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.send_message(ROOM, "too late")
        await served.start()
        assert (await client.send_message(ROOM, "in time")).message.seq == 2


# --- tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_token_function_is_called_each_time(served: Served, asynchronous: bool) -> None:
    """For each connection, and when the server says that the token of a live session expires."""
    made: list[str] = []

    def fresh() -> str:
        made.append(f"token{len(made)}")
        return made[-1]

    async def fresh_later() -> str:
        await asyncio.sleep(0.01)
        return fresh()

    async with connect(served.url, fresh_later if asynchronous else fresh):
        served.cut()
        await until(lambda: served.connections == 2 and len(served.tokens) == 2)
        served.model._tell(JSON.event("token_expiring", events.TokenExpiring(expires_at=NOW)))
        await served.flush()
        await until(lambda: len(served.tokens) == 3)
    assert served.tokens == ["token0", "token1", "token2"]


async def test_a_token_that_cannot_be_had_now_is_asked_for_again(served: Served) -> None:
    """A network failure in the token function means: try again later."""
    failures = [OSError("no network"), ChatError("SERVICE_UNAVAILABLE")]

    def fresh() -> str:
        if failures:
            raise failures.pop()
        return "token"

    await _open_with(served.url, fresh)
    assert served.connections == 3


async def _open_with(url: str, token: Callable[[], str]) -> None:
    async with connect(url, token):
        pass


async def test_a_token_function_that_fails_for_good_ends_the_client(served: Served) -> None:
    """Any other exception is the end, and its text the reason."""

    def fresh() -> str:
        raise ChatError("AUTH_REFRESH_TOKEN_INVALID")

    with pytest.raises(ClientClosed, match=r"4001.*AUTH_REFRESH_TOKEN_INVALID"):
        await _open_with(served.url, fresh)


# --- reading -------------------------------------------------------------------------------------------


async def test_a_client_that_only_sends_is_not_held_up(served: Served) -> None:
    """Without a reader events do not pile up, acks come, and the state is followed."""
    async with connect(served.url, "token") as client:
        await served.say(2 * PAUSE_AT)
        sent = await client.send_message(ROOM, "hi")
        assert sent.message.seq == 2 * PAUSE_AT + 2
        assert client.chatrooms[ROOM].seq == sent.message.seq


async def test_a_slow_reader_stops_the_reading_and_misses_nothing(served: Served) -> None:
    """Past 1,024 waiting events the socket is left alone; with the reader back, everything comes in order."""
    async with connect(served.url, "token") as client:
        await served.say()
        await take(client, 1)
        talking = asyncio.create_task(served.say(3 * PAUSE_AT))
        await until(lambda: client.chatrooms[ROOM].seq > PAUSE_AT)
        await asyncio.sleep(0.1)
        assert client.chatrooms[ROOM].seq == PAUSE_AT + 2
        assert await take(client, 3 * PAUSE_AT) == list(range(3, 3 * PAUSE_AT + 3))
        await talking


async def test_a_slow_reader_may_still_call(served: Served) -> None:
    """Whoever calls from within the loop over events gets the answer that is behind 3,000 of them."""
    async with connect(served.url, "token") as client:
        await served.say()
        await take(client, 1)
        talking = asyncio.create_task(served.say(3 * PAUSE_AT))
        await until(lambda: client.chatrooms[ROOM].seq > PAUSE_AT)
        async with asyncio.timeout(10):
            sent = await client.send_message(ROOM, "hi")
        assert sent.message.seq == 3 * PAUSE_AT + 3
        await talking
