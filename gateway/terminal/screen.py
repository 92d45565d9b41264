"""Where lines come from and go to: a terminal with its prompt at the bottom, or plain pipes."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app_or_none
from prompt_toolkit.patch_stdout import patch_stdout

REFRESH = 1.0
"""Seconds after which the status line is drawn again by itself, since typists are forgotten in silence."""


class Screen(Protocol):
    """What the shell needs of either."""

    def lines(self) -> AsyncIterator[str]:
        """What the user types, line by line, until there is no more."""

    def show(self, lines: list[str]) -> None:
        """Prints lines, which have to be safe to print."""


class Pipes:
    """Lines from stdin, lines to stdout: for scripts, and for terminals that can do no more."""

    async def lines(self) -> AsyncIterator[str]:
        """Reads in a thread: stdin may be a file, which no event loop can wait for."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def read() -> None:
            for line in sys.stdin:
                loop.call_soon_threadsafe(queue.put_nowait, line)
            loop.call_soon_threadsafe(queue.put_nowait, None)

        threading.Thread(target=read, daemon=True).start()
        while (line := await queue.get()) is not None:
            yield line

    def show(self, lines: list[str]) -> None:
        """Prints lines at once: someone may be waiting for them at the other end of the pipe."""
        if lines:
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()


class Terminal(Pipes):
    """A prompt that stays at the bottom while lines come in above it. What is typed is kept in no file."""

    def __init__(self, status: Callable[[], str], changed: Callable[[str], None]) -> None:
        self._prompt: PromptSession[str] = PromptSession(
            "> ", bottom_toolbar=status, erase_when_done=True, refresh_interval=REFRESH
        )
        self._prompt.default_buffer.on_text_changed += lambda buffer: changed(buffer.text)

    async def lines(self) -> AsyncIterator[str]:
        """Prompts until Ctrl-D or Ctrl-C."""
        with patch_stdout():
            while True:
                try:
                    yield await self._prompt.prompt_async()
                except (EOFError, KeyboardInterrupt):
                    return

    def show(self, lines: list[str]) -> None:
        """Prints lines above the prompt, and draws the status line anew."""
        super().show(lines)
        if (app := get_app_or_none()) is not None:
            app.invalidate()
