"""Tasks that run beside the doors: those it is given, and looking for what has expired in the database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType

from gateway.actions import rotation
from gateway.services import Services
from protocol.errors import ChatError
from storage import control, sign_ins

log = logging.getLogger(__name__)

TIDY_INTERVAL = 3_600.0
"""Seconds between two looks at what has expired, and at key rotations that were begun and not finished."""


CANCELS = 3
"""How often a job is told to end: before Python 3.12, asyncio.wait_for loses a cancel that meets its result.

What does not end then is cancelled with all that is left, when the process's event loop closes.
"""
CANCEL_SECONDS = 1.0
"""How long it has for that."""


class Housekeeping:
    """Runs from entering to leaving the context. A task that fails is logged and started again."""

    def __init__(
        self,
        jobs: Iterable[Callable[[], Awaitable[None]]],
        services: Services,
    ) -> None:
        self._jobs = (*jobs, self._tidy_forever)
        self._services = services
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(_keep_running(job)) for job in self._jobs]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = set(self._tasks)
        for _ in range(CANCELS):
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=CANCEL_SECONDS)
            if not left:
                return

    async def _tidy_forever(self) -> None:
        while True:
            with contextlib.suppress(ChatError):  # the database is away; there is always a next time
                async with self._services.database.transaction() as conn:
                    await sign_ins.purge(conn)
                    await control.purge(conn)
                await rotation.finish(self._services)
            await asyncio.sleep(TIDY_INTERVAL)


async def _keep_running(job: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await job()
        except Exception:
            log.exception("a background job failed")
        await asyncio.sleep(1.0)
