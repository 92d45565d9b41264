"""The ports that workers share: taken by their parent, so that no other server can have them meanwhile."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass

from gateway.config import Config, ConfigError

PATIENCE = 1.0
"""Seconds in which the workers of a parent that was killed let go of the ports."""


@dataclass(frozen=True)
class Ports:
    """Where HTTP and TCP are; the port of TCP is None where there is none."""

    http: tuple[str, int]
    tcp: int | None
    _tcp_host: str

    @classmethod
    @asynccontextmanager
    async def taken(cls, config: Config) -> AsyncIterator[Ports]:
        """Holds them. Processes of this user may listen there nevertheless, if they all say so (SO_REUSEPORT).

        Raises ConfigError where somebody else listens already.
        """
        with ExitStack() as stack:
            host, port = config.http_address
            http = await _take(stack, "PARLEY_HTTP", config.http, host, port)
            if config.tcp_address is None:
                yield cls((host, http), None, "")
                return
            tcp_host, port = config.tcp_address
            tcp = await _take(stack, "PARLEY_TCP", config.tcp, tcp_host, port)
            yield cls((host, http), tcp, tcp_host)

    def environment(self) -> dict[str, str]:
        """The settings that name them, with the numbers that the system chose where it was asked to."""
        env = {"PARLEY_HTTP": "{}:{}".format(*self.http)}
        return env if self.tcp is None else {**env, "PARLEY_TCP": f"{self._tcp_host}:{self.tcp}"}


def cannot_listen(name: str, text: str, error: OSError) -> ConfigError:
    """What to say of a setting, and of its text, where the system refuses."""
    return ConfigError(f"{name} is {text}, where Parley cannot listen: {error.strerror}.")


async def _take(stack: ExitStack, name: str, text: str, host: str, port: int) -> int:
    """The port, taken at every address that the host has."""
    try:
        for family, kind, proto, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            where = (address[0], port, *address[2:])
            await _await_free(family, kind, proto, where)
            held = stack.enter_context(socket.socket(family, kind, proto))
            _bind(held, where, socket.SO_REUSEPORT)
            port = held.getsockname()[1]
    except OSError as error:
        raise cannot_listen(name, text, error) from error
    return port


async def _await_free(family: int, kind: int, proto: int, address: tuple[str | int, ...]) -> None:
    """Raises OSError if somebody listens there, and does not cease to."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while True:
        try:
            with socket.socket(family, kind, proto) as probe:  # without SO_REUSEPORT it meets those who have it, too
                _bind(probe, address, socket.SO_REUSEADDR)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or loop.time() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            return


def _bind(sock: socket.socket, address: tuple[str | int, ...], option: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, option, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(address)
