"""The server of these tests as the load generator has it."""

from __future__ import annotations

from bench.parley import ParleyDeployment
from bench.rest import Rest
from bench.results import Run
from bench.scenarios import Scenario
from bench.stage import Stage
from bench.target import Target


class Running(ParleyDeployment):
    """The server that is there: it stays."""

    def __init__(self, server: Target, transport: str = "ws") -> None:
        super().__init__(None, transport)
        self.server = server

    async def start(self) -> None:
        """It has."""
        self.rest = Rest(self.server.url)
        self._info = await self.rest.info()


async def prepared(scenario: Scenario, stage: Stage) -> list[Run]:
    """All of a scenario."""
    await scenario.prepare(stage)
    return await scenario.runs(stage)
