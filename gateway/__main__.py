"""Wiring, and nothing else: settings, storage, hub, doors; then run until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from crypto import keyfile
from crypto.keyfile import Keys
from crypto.passwords import Passwords
from crypto.sealing import MasterKeyMissing, MasterKeys
from crypto.signed_urls import Grants
from crypto.tokens import AccessTokens, RefreshTokens
from gateway.chat import Chat
from gateway.cluster import Cluster, join
from gateway.config import Config, ConfigError
from gateway.door import Door
from gateway.drain import drain
from gateway.files.clamd import Clamd
from gateway.files.collector import Collector
from gateway.files.grants import FILE, PART, FileGrant, PartGrant
from gateway.files.pictures import Pictures
from gateway.files.place import open_blobs
from gateway.files.scanner import SCANS_AT_ONCE, Scanner
from gateway.files.store import FileStore
from gateway.files.types import Types
from gateway.front_door import FrontDoor
from gateway.housekeeping import Housekeeping
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.nodes import Nodes
from gateway.ports import cannot_listen
from gateway.presence import Presence
from gateway.presence_rooms import RoomPresence
from gateway.rates import HOUR, MINUTE, Rates
from gateway.repair import Repair
from gateway.services import Services
from gateway.tcp import TcpPump, framed_wires
from gateway.tls import SHUTDOWN_TIMEOUT, Tls
from gateway.websocket import SUBPROTOCOLS, WebSocketPump, websocket_wires
from gateway.welcome import server_info, welcome
from gateway.wheel import Wheel
from gateway.wire import Wire
from gateway.worker import Worker
from gateway.worker_metrics import metrics_of_all
from protocol.discovery import ServerInfo
from protocol.errors import ChatError
from rest.app import make_app
from rest.server import HttpServer
from rest.settings import ReadMetrics, RestSettings
from storage import files
from storage.blobs import Blobs
from storage.database import Database, migrate
from storage.embedded import database_url
from storage.journal import Journal
from storage.lookups import Lookups
from storage.room_keys import RoomKeys, check_master_keys, rewrap

log = logging.getLogger("parley")

FILES = 65_536
"""Sockets and files that one process may have open, where the system allows it."""

GARBAGE = (10_000, 10, 5)
"""Thresholds of the garbage collector. Of messages nearly all is freed at once when they are done with; but a flight
and its answers hold more objects than Python's first threshold of 700, which took a fifth of the server's time."""


async def serve(config: Config, worker: Worker | None = None) -> None:
    """Runs one Parley process until SIGTERM or SIGINT, then drains it. It may be one of several workers."""
    _allow_many_sockets()
    gc.set_threshold(*GARBAGE)
    keys = config.load_keys()
    tls = Tls.of(config)
    master = MasterKeys(keys.master)
    async with database_url(config.database_url, config.data) as url, _database(config, url) as database:
        async with database.acquire() as conn:
            await check_master_keys(conn, master)
            await files.check_master_keys(conn, master)
        await _run(config, database, keys, master, tls, worker)


def _allow_many_sockets() -> None:
    """Each socket is a file; the usual soft limit of 1,024 is a habit of the shell, the hard limit is the system's."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.asynccontextmanager
async def _database(config: Config, url: str) -> AsyncIterator[Database]:
    database = await Database.open(url, config.database_pool)
    try:
        async with database.acquire() as conn:
            for name in await migrate(conn):
                log.info("migrated", extra={"migration": name})
        yield database
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(database.close(), 5)


async def _run(
    config: Config, database: Database, keys: Keys, master: MasterKeys, tls: Tls | None, worker: Worker | None
) -> None:
    metrics = Metrics()
    async with join(config, keys, metrics) as cluster, open_blobs(config) as blobs:
        await _run_node(config, database, blobs, keys, master, tls, metrics, cluster, worker)


async def _run_node(
    config: Config,
    database: Database,
    blobs: Blobs,
    keys: Keys,
    master: MasterKeys,
    tls: Tls | None,
    metrics: Metrics,
    cluster: Cluster,
    worker: Worker | None,
) -> None:
    wheel = Wheel()
    hub = Hub(metrics, cluster.fence)
    presence = Presence(hub, wheel, config.presence_grace)
    room_presence = RoomPresence(hub, presence, database)
    room_keys = RoomKeys(database, master)
    repair = Repair(hub, cluster.bus, database, room_keys)
    nodes = Nodes(hub, cluster.bus, database)
    journal = Journal(database, cluster.bus.publish, repair.doubt, metrics.committed)
    hub.outboxes.more_to_come = lambda: journal.busy
    store = FileStore(database, blobs, master)
    scanner = None
    if config.clamd_address is not None:
        scanner = Scanner(Clamd(config.clamd_address), database, store, journal, room_keys, metrics.files)
    lookups = Lookups(database)
    services = Services(
        config=config,
        database=database,
        lookups=lookups,
        journal=journal,
        hub=hub,
        nodes=nodes,
        presence=room_presence,
        room_keys=room_keys,
        passwords=Passwords(config.limit_password_hashes, config.limit_password_queue),
        access_tokens=AccessTokens(keys.jwt_pems, config.issuer, config.access_token_life),
        refresh_tokens=RefreshTokens(keys.refresh_secret),
        metrics=metrics,
        rates=Rates(config.limit_requests, time.monotonic, cluster.share(config.limit_requests, MINUTE)),
        uploads=Rates(config.limit_uploads, time.monotonic, cluster.share(config.limit_uploads, HOUR), period=HOUR),
        files=store,
        types=Types(),
        pictures=Pictures(),
        file_grants=Grants(FileGrant, FILE, keys.master),
        part_grants=Grants(PartGrant, PART, keys.master),
        scanner=scanner,
    )
    chat = Chat(services)
    door = Door(config, hub, chat, lookups, wheel, presence, metrics, cluster.bus, cluster.tokens, cluster.fence)
    cluster.connect(hub, door, repair, database, room_keys)
    metrics.watch_sessions(lambda: len(hub.links), lambda: len(hub.sessions) - len(hub.links))
    metrics.watch_online(lambda: len(hub.online), lambda: len(presence.elsewhere))
    own = (metrics.watch_loop, repair.sweep_forever, nodes.read_control_forever, room_presence.tell_forever)
    collector = Collector(database, blobs, config.unused_files, metrics.files)
    scans = () if scanner is None else (scanner.scan_forever,) * SCANS_AT_ONCE
    jobs = (*own, collector.sweep_forever, collector.expire_forever, *scans, *cluster.jobs)
    housekeeping = Housekeeping(jobs, services)
    reload = _Reload(services, cluster, tls)
    options = _socket_options(config, tls, worker)
    async with (
        metrics_of_all(metrics.render, worker) as read_metrics,
        _listening(config, options, door, chat, metrics, read_metrics, keys) as listening,
        housekeeping,
    ):
        _announce(config, listening, worker)
        await _until_told_to_stop(reload, worker)
        await drain(services, chat, listening.servers, cluster.neighbours)
    wheel.stop()
    services.passwords.close()


class Listening(NamedTuple):
    """What listens, HTTP first, and what is said of it."""

    servers: list[asyncio.Server]
    info: ServerInfo


def _announce(config: Config, listening: Listening, worker: Worker | None) -> None:
    address = listening.servers[0].sockets[0].getsockname()[:2]
    tcp = listening.info.tcp
    log.info("listening", extra={"http": "{}:{}".format(*address), "tcp": None if tcp is None else tcp.port})
    if worker is None:
        print(welcome(config, address, listening.info), flush=True)  # noqa: T201
    else:
        worker.listens()


@contextlib.asynccontextmanager
async def _listening(
    config: Config,
    options: dict[str, Any],
    door: Door,
    chat: Chat,
    metrics: Metrics,
    read_metrics: ReadMetrics,
    keys: Keys,
) -> AsyncIterator[Listening]:
    framed = framed_wires()
    tcp = await _listen_tcp(config, options, door, framed, keys)
    info = server_info(config, keys.noise.public, _port(tcp), SUBPROTOCOLS)
    settings = _rest_settings(config, info)
    http = await HttpServer.start(make_app(chat, settings, read_metrics, metrics.request), settings)
    servers = [tcp] if tcp is not None else []
    try:
        servers.insert(0, await _listen(config, options, door, http, framed, keys))
        yield Listening(servers, info)
    finally:
        for server in servers:
            server.close()
        await http.stop(grace=2.0)


async def _listen_tcp(
    config: Config, options: dict[str, Any], door: Door, framed: dict[str, Wire], keys: Keys
) -> asyncio.Server | None:
    if config.tcp_address is None:
        return None
    clear = config.tcp_may_be_clear

    def tcp() -> TcpPump:
        return TcpPump(door, framed, keys.noise, clear=clear)

    return await _bind("PARLEY_TCP", config.tcp, config.tcp_address, tcp, options)


async def _listen(
    config: Config, options: dict[str, Any], door: Door, http: HttpServer, framed: dict[str, Wire], keys: Keys
) -> asyncio.Server:
    wires = websocket_wires()

    def websocket() -> WebSocketPump:
        return WebSocketPump(door, wires, framed, keys.noise, config.origins)

    def front_door() -> FrontDoor:
        return FrontDoor(websocket, http, door.wheel, config.http_header_deadline)

    return await _bind("PARLEY_HTTP", config.http, config.http_address, front_door, options)


async def _bind(
    name: str, text: str, address: tuple[str, int], protocol: Callable[[], asyncio.Protocol], options: dict[str, Any]
) -> asyncio.Server:
    host, port = address
    try:
        # a storm of reconnects must not be refused by the kernel: hence the backlog
        return await asyncio.get_running_loop().create_server(protocol, host, port, backlog=4096, **options)
    except OSError as error:
        raise cannot_listen(name, text, error) from error


def _socket_options(config: Config, tls: Tls | None, worker: Worker | None) -> dict[str, Any]:
    """How a listener listens. A TLS handshake has the time of a request's head, so that silence holds no place."""
    shared = {"reuse_port": worker is not None}
    if tls is None:
        return shared
    return shared | {
        "ssl": tls.context,
        "ssl_handshake_timeout": config.http_header_deadline,
        "ssl_shutdown_timeout": SHUTDOWN_TIMEOUT,
    }


def _port(server: asyncio.Server | None) -> int | None:
    return None if server is None else int(server.sockets[0].getsockname()[1])


def _rest_settings(config: Config, info: ServerInfo) -> RestSettings:
    return RestSettings(
        version=info.version,
        public_url=config.public_url or f"http{'s' if config.tls else ''}://{config.http}",
        info=info,
        body_limit=config.limit_body,
        body_deadline=config.http_body_deadline,
        header_deadline=config.http_header_deadline,
        keep_alive=config.http_keep_alive,
        origins=config.origins,
        https_only=config.tls and config.production,
        proxies=config.trusted_proxies,
        slowest_transfer=config.slowest_transfer,
    )


async def _until_told_to_stop(reload: _Reload, worker: Worker | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.soon)
    if worker is not None:
        worker.on_orphaned(stop.set)
    await stop.wait()


class _Reload:
    """SIGHUP: takes rotated keys and certificates without a restart, and wraps all room keys under the newest key."""

    def __init__(self, services: Services, cluster: Cluster, tls: Tls | None) -> None:
        self._services = services
        self._cluster = cluster
        self._tls = tls
        self._task: asyncio.Task[None] | None = None

    def soon(self) -> None:
        self._task = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        if self._tls is not None:
            self._reload_certificate(self._tls)
        await self._reload_keys()

    def _reload_certificate(self, tls: Tls) -> None:
        try:
            tls.reload()
        except ConfigError as error:
            log.error("the certificate could not be reloaded; the old one stays", extra={"reason": str(error)})
            return
        log.info("certificate reloaded")

    async def _reload_keys(self) -> None:
        try:
            keys = Config.from_env().load_keys()  # read anew: secrets may be in files of the operator's own
            master = MasterKeys(keys.master)
            async with self._services.database.transaction() as conn:
                await check_master_keys(conn, master)
                await files.check_master_keys(conn, master)
                self._services.access_tokens.replace(keys.jwt_pems)
                self._services.room_keys.replace(master)
                self._services.files.replace(master)
                self._services.file_grants.replace(keys.master)
                self._services.part_grants.replace(keys.master)
                self._cluster.replace(keys)
                rewrapped = await rewrap(conn, master)
        except (ConfigError, keyfile.SecretError, MasterKeyMissing, ChatError):
            log.exception("the keys could not be reloaded; the old ones stay")
            return
        try:
            rewrapped += await self._services.files.rewrap()
        except ChatError:
            log.exception("keys are reloaded, and files still need the old one: send SIGHUP again")
            return
        log.info("keys reloaded", extra={"rewrapped": rewrapped})


if __name__ == "__main__":
    from gateway.cli import main

    main()
