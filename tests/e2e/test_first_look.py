"""Two clients talk through one server."""

from __future__ import annotations

from tests.e2e.lines import Transport
from tests.e2e.server import Server
from tests.e2e.socket_client import socket_client


async def test_two_clients_talk(server: Server, transport: Transport) -> None:
    """A message sent by one member is acked to its sender and received by the other, with the same seq."""
    ann, bob = await server.people(2)
    room = await server.chatroom(ann, bob)
    async with socket_client(server, transport) as a, socket_client(server, transport) as b:
        await a.authenticate(ann.token)
        await b.authenticate(bob.token)
        ack = await a.say(room, "hello", client_id="1")
        heard = await b.until("message_received")
        assert ack["event"] == "ack"
        assert heard["seq"] == ack["data"]["message"]["seq"] == 2
        assert heard["data"]["message"] == ack["data"]["message"]
        assert heard["data"]["message"]["content"] == "hello"
