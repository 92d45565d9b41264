"""A server under load: how it is started and furnished, and what it uses. `bench.parley` has Parley's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from uuid import uuid4

from bench.dialect import Dialect
from bench.usage import Memory, Usage


class Seats(NamedTuple):
    """What sessions need: the credential of each account, and the id of each chatroom, in the order asked for."""

    credentials: list[str]
    rooms: list[str]

    @classmethod
    def by_name(cls, accounts: int, rooms: Sequence[Sequence[int]]) -> Seats:
        """Where nothing has to be made beforehand: a credential is a name with the chatrooms that it is in."""
        ids = [str(uuid4()) for _ in rooms]
        mine: list[list[str]] = [[] for _ in range(accounts)]
        for id, members in zip(ids, rooms, strict=True):
            for member in members:
                mine[member].append(id)
        return cls([f"bench-{number:08}~{','.join(listed)}" for number, listed in enumerate(mine)], ids)


class Deployment(Protocol):
    """One server. `name` stands in results; `lacks` are the promises of Parley that it does not make."""

    name: str
    lacks: tuple[str, ...]

    async def start(self) -> None:
        """Starts it, pinned where servers belong (`bench.cores`), and waits until it answers. Raises TargetError."""
        ...

    async def stop(self) -> None:
        """Ends it and removes what it has written; also after a start that failed."""
        ...

    async def seat(self, accounts: int, rooms: Sequence[Sequence[int]]) -> Seats:
        """New accounts, and new chatrooms with these of them (by number) as members. Raises TargetError."""
        ...

    def dialect(self) -> Dialect:
        """How the one that runs is spoken to."""
        ...

    def usage(self) -> Usage | None:
        """CPU seconds so far, where they can be known: of the server and, apart, of its databases."""
        ...

    def memory(self) -> Memory | None:
        """The memory of the server's own processes, without databases, where it can be known."""
        ...

    async def counters(self) -> Mapping[str, float]:
        """What the server counts itself, by name; nothing where it does not tell."""
        ...

    def about(self) -> dict[str, str]:
        """Versions and settings, for the report."""
        ...
