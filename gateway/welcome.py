"""What a server says of itself: to clients at /.well-known/parley, to people at the terminal it was started in."""

from __future__ import annotations

from importlib.metadata import version

from gateway.config import Config
from gateway.urls import host_text, key_text
from protocol.discovery import LimitsInfo, NoiseInfo, ServerInfo, TcpInfo

NOISE_PROTOCOLS = ("Noise_NK_25519_ChaChaPoly_SHA256", "Noise_IK_25519_ChaChaPoly_SHA256")


def server_info(config: Config, noise_key: bytes, tcp_port: int | None, subprotocols: tuple[str, ...]) -> ServerInfo:
    """What clients may read."""
    tcp = None if tcp_port is None else TcpInfo(port=tcp_port, tls=config.tls, clear=config.tcp_may_be_clear)
    return ServerInfo(
        server="parley",
        version=version("parley"),
        subprotocols=subprotocols,
        noise=NoiseInfo(public_key=key_text(noise_key), protocols=NOISE_PROTOCOLS),
        tcp=tcp,
        limits=LimitsInfo(
            frame_bytes=config.limit_frame,
            text_bytes=config.limit_text,
            body_bytes=config.limit_body,
            connections=config.limit_connections,
            commands_per_minute=config.limit_commands,
            commands_at_once=config.limit_burst,
            requests_per_minute=config.limit_requests,
        ),
    )


def welcome(config: Config, http: tuple[str, int], info: ServerInfo) -> str:
    """What to do next, for whoever looks at the terminal."""
    host, port = host_text(http[0]), http[1]
    secure = "s" if config.tls else ""
    return WELCOME.format(
        url=f"http{secure}://{host}:{port}",
        ws=f"ws{secure}://{host}:{port}/ws",
        tcp=_tcp(config, info),
        data=config.data.absolute(),
    )


def _tcp(config: Config, info: ServerInfo) -> str:
    if config.tcp_address is None or info.tcp is None:
        return "off"
    host, secure = host_text(config.tcp_address[0]), "s" if config.tls else ""
    return f"parley{secure}://{host}:{info.tcp.port}?key={info.noise.public_key}"


WELCOME = """
Parley is running.
  HTTP        {url}          documentation: {url}/api/docs
  WebSocket   {ws}
  TCP         {tcp}
  Data        {data}

Try it, in another terminal:
  parley chat --url {ws}
or by REST:
  curl -s {url}/auth/register -H 'Content-Type: application/json' \\
    -d '{{"username": "ann", "email": "ann@example.com", "password": "correct horse", "display_name": "Ann"}}'

Ctrl-C stops it.
"""
