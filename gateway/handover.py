"""Sessions go from node to node: a client may resume on any of them.

The resume token names the node that the session began on, its *home*. A node
where somebody resumes first *claims* the session in Redis, which numbers claims;
then it asks the former owner, which gives the session away, whole and caught
up, and forgets it. So there is one copy at any time, and of several nodes that
ask, the one with the highest number ends up with it. An owner that is dead, or
silent for ASK_SECONDS, has lost it: the client gets `session_reset`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from uuid import UUID

from crypto.resume_tokens import ResumeTokens, digest_of, home_of
from gateway.deadlines import REASONS
from gateway.hub import Hub
from gateway.neighbours import Neighbours
from gateway.session import Session
from protocol.errors import CloseCode
from protocol.models import Scope
from storage.bus import Bus
from storage.hints import SessionAsked, SessionGiven, SessionRefused
from storage.leases import LEASE, Claim, Leases
from storage.redis_client import AWAY

log = logging.getLogger(__name__)

ASK_SECONDS = 0.5
"""How long the former owner of a session may take to give it away."""
STOPPING_SECONDS = 3.0
"""The same where the owner is stopping: it has said that it lives, and may be busy with giving all away."""
GIVE_SHARE = 0.7
"""Share of this time that it waits for commands under way, whose answers belong to the session."""
GRACE = 0.2
"""Seconds in which, after a pause, a node reads what it was asked meanwhile, before it gives up what was claimed."""
WRITE_AGAIN = 86_400.0
"""Seconds after which claims are written again, long before Redis would forget them."""
POLL = 0.005
"""Seconds between two looks at whether they are done."""

Answer = SessionGiven | SessionRefused
Aside = Callable[[], AbstractContextManager[None]]


class Superseded(Exception):
    """Somebody else has resumed the session since: this one is too late."""


class Arrival:
    """A session that somebody resumes here: `fence` is the number of the claim, None until there is one."""

    def __init__(self) -> None:
        self.fence: int | None = None
        self._claimed = asyncio.Event()
        self._over = asyncio.Event()

    def claimed(self, claim: Claim | None) -> None:
        """The claim is made, or could not be."""
        self.fence = None if claim is None else claim.fence
        self._claimed.set()

    def end(self) -> None:
        """The session is here, or will not come."""
        self._claimed.set()
        self._over.set()

    async def passed(self, fence: int) -> None:
        """Waits until it is over, if its claim came before the one with this number."""
        await self._claimed.wait()
        if self.fence is not None and self.fence < fence:
            await self._over.wait()


class Handover:
    """Gives sessions away, and asks for those of others. Who waits for another node does so `aside`."""

    def __init__(
        self,
        hub: Hub,
        bus: Bus,
        leases: Leases,
        tokens: ResumeTokens,
        neighbours: Neighbours,
        aside: Aside = nullcontext,
    ) -> None:
        self._tokens = tokens
        self._neighbours = neighbours
        self._aside = aside
        self._hub = hub
        self._bus = bus
        self._leases = leases
        self._answers: dict[tuple[bytes, int], asyncio.Future[Answer]] = {}
        self._arriving: dict[bytes, list[Arrival]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: dict[UUID, dict[bytes, int]] = {}
        self._written_at = time.monotonic()
        self._silent: set[UUID] = set()
        self._claiming = 0
        self._lost = False
        bus.on(SessionAsked, self._take_asked)
        bus.on(SessionGiven, self._take_answer)
        bus.on(SessionRefused, self._take_answer)
        leases.after_beat(self._after_beat)

    # --- resuming here -----------------------------------------------------------------------

    async def claim(self, session_id: UUID, resume_token: str) -> Claim | None:
        """Makes this node the owner. None when the token is nobody's, and when Redis cannot be asked."""
        home = self._tokens.home(resume_token, session_id)
        if home is None or (self._leases.away and self._claiming):
            return None  # while Redis is away, one at a time finds out whether it is back
        self._claiming += 1
        try:
            return await self._leases.claim(home, digest_of(resume_token))
        except AWAY:
            return None
        finally:
            self._claiming -= 1

    async def give_back(self, resume_token: str, owner: UUID) -> None:
        """The session cannot go on here, and stays where it is."""
        with contextlib.suppress(*AWAY):
            await self._leases.claim(home_of(resume_token), digest_of(resume_token), owner)

    async def ask(self, owner: UUID, asked: SessionAsked) -> Answer | None:
        """Asks another node for a session. None when it is dead, or says nothing in time."""
        if not await self._lives(owner):
            return None
        key = asked.digest, asked.fence
        answer = self._answers[key] = asyncio.get_running_loop().create_future()
        self._bus.tell_node(owner, asked)
        try:
            with self._aside():
                return await asyncio.wait_for(answer, _patience(self._neighbours.is_stopping(owner)))
        except TimeoutError:
            self._silent.add(owner)
            return None
        finally:
            del self._answers[key]

    async def _lives(self, node_id: UUID) -> bool:
        """Who has not answered and has missed a beat counts as dead: its clients must not each wait for it."""
        silent = node_id in self._silent
        if node_id in self._leases.live and not silent:
            return True
        with contextlib.suppress(*AWAY):
            await self._leases.look()  # it may be younger than our last look
        if node_id in self._leases.fresh:
            self._silent.discard(node_id)
        return node_id in (self._leases.fresh if silent else self._leases.live)

    @contextlib.contextmanager
    def arriving(self, digest: bytes) -> Iterator[Arrival]:
        """While a session is on its way here, those with later claims wait.

        It begins before the claim is made: who claims next may ask here before we know that ours was first.
        """
        arrival = Arrival()
        self._arriving.setdefault(digest, []).append(arrival)
        try:
            yield arrival
        finally:
            self._arriving[digest].remove(arrival)
            if not self._arriving[digest]:
                del self._arriving[digest]
            arrival.end()

    async def arrived(self, digest: bytes, fence: int) -> None:
        """Waits until sessions with earlier claims here have come or not, for as long as asking may take."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ASK_SECONDS):
                for arrival in list(self._arriving.get(digest, ())):
                    await arrival.passed(fence)

    def _take_answer(self, hint: Answer) -> None:
        answer = self._answers.get((hint.digest, hint.fence))
        if answer is not None and not answer.done():
            answer.set_result(hint)

    # --- giving away -------------------------------------------------------------------------

    def _take_asked(self, hint: SessionAsked) -> None:
        task = asyncio.create_task(self._give(hint))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _give(self, asked: SessionAsked) -> None:
        await self.arrived(asked.digest, asked.fence)
        session = self._hub.sessions.get(asked.session_id)
        if session is None or not hmac.compare_digest(digest_of(session.resume_token), asked.digest):
            self._refuse(asked, "unknown_session")
        elif (reason := _refusal(session, asked)) is not None:
            self._refuse(asked, reason, session.handled)
        else:
            session.fence = asked.fence
            await self._give_away(session, asked)

    async def _give_away(self, session: Session, asked: SessionAsked) -> None:
        link = self._hub.links.get(session)
        if link is not None:
            link.finish()
        settled = await self._settled(session)
        if self._hub.sessions.get(session.id) is not session or session.fence != asked.fence:
            self._refuse(asked, "superseded")
            if link is not None and self._hub.links.get(session) is link:  # it was told to take no more commands
                link.close(CloseCode.draining, REASONS[CloseCode.draining])
            return
        if settled:
            self._bus.tell_node(asked.asker, SessionGiven(asked.digest, asked.fence, session.state()))
        else:
            self._refuse(asked, "commands_pending", session.handled)
        self.drop(session)

    async def _settled(self, session: Session) -> bool:
        """Waits for the answers to commands under way, and for chatrooms whose state is being read."""
        until = time.monotonic() + GIVE_SHARE * _patience(self._neighbours.stopping)
        while session.pending or any(session in room.held for room in session.rooms.values()):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(POLL)
        return True

    def _refuse(self, asked: SessionAsked, reason: str, handled: int | None = None) -> None:
        self._bus.tell_node(asked.asker, SessionRefused(asked.digest, asked.fence, reason, handled))

    def drop(self, session: Session) -> None:
        """Another node has the session now: nothing more is written to its socket from here."""
        session.moved = True
        session.take()
        self._hub.close(session, CloseCode.replaced, "another connection resumed this session")

    # --- what others have claimed ------------------------------------------------------------

    def forgotten(self, session: Session) -> None:
        """A session has ended. Nobody will ask whose it is, unless it has moved."""
        if session.fence and not session.moved:
            self.over(session.resume_token, session.fence)

    def over(self, resume_token: str, fence: int) -> None:
        """There is no such session any more, and it is ours by this number: soon Redis need not know of it."""
        self._over.setdefault(home_of(resume_token), {})[digest_of(resume_token)] = fence

    async def drop_claimed(self, grace: float, *, anew: bool = False) -> None:
        """Drops sessions that other nodes have claimed without our hearing of it. Raises AWAY.

        Who claims a session asks for it then: that may be on its way, and has so many seconds to come.
        `anew` also looks at claims that have been read before.
        """
        for home in self._homes():
            claims = await self._leases.claims_of(home, anew=anew)
            if claims and self._claimed_elsewhere(home, claims):
                claims = await self._claims_after(grace, home, claims)
            if claims:
                self._compare(home, claims)

    async def _claims_after(self, grace: float, home: UUID, claims: dict[bytes, Claim]) -> dict[bytes, Claim]:
        try:
            await asyncio.sleep(grace)
            return await self._leases.claims_of(home) or claims
        except BaseException:
            self._leases.read_again(home)
            raise

    def _claimed_elsewhere(self, home: UUID, claims: dict[bytes, Claim]) -> bool:
        here = {digest_of(s.resume_token): s.fence for s in self._hub.sessions.values() if _home_name(s) == home.hex}
        return any(
            digest in here and claim.fence > here[digest] and claim.owner != self._leases.node_id
            for digest, claim in claims.items()
        )

    def _homes(self) -> set[UUID]:
        """This node, and the homes of sessions that came from others."""
        names = {_home_name(session) for session in self._hub.sessions.values() if session.fence}
        return {self._leases.node_id, *map(UUID, names)}

    def _compare(self, home: UUID, claims: dict[bytes, Claim]) -> None:
        for session in [s for s in self._hub.sessions.values() if _home_name(s) == home.hex]:
            claim = claims.get(digest_of(session.resume_token))
            if claim is None or claim.fence <= session.fence:
                continue
            if claim.owner == self._leases.node_id:  # who claimed it could not go on with it, and gave it back
                session.fence = claim.fence
            else:
                self.drop(session)
                self._lost = True

    async def find_out(self, pause: float) -> bool:
        """After a pause of so many seconds: drops what was lost meanwhile, and says whether anything was.

        If Redis does not say, a short pause is taken to have cost nothing, since others could not ask it either; after
        one longer than a lease, all sessions are given up.
        """
        try:
            async with asyncio.timeout(LEASE / 2):
                await self.drop_claimed(GRACE, anew=True)  # a beat may have read them, and still wait for the question
        except AWAY:
            self._lost |= pause > LEASE and self._drop_all()
        lost, self._lost = self._lost, False
        return lost

    def _drop_all(self) -> bool:
        sessions = list(self._hub.sessions.values())
        for session in sessions:
            session.take()
            self._hub.close(session, CloseCode.session_reset, "the server was paused")
        return bool(sessions)

    def _after_beat(self, lost_all: bool) -> None:
        task = asyncio.create_task(self._keep_claims(lost_all))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_claims(self, lost_all: bool) -> None:
        with contextlib.suppress(*AWAY):
            if lost_all or time.monotonic() > self._written_at + WRITE_AGAIN:
                self._written_at = time.monotonic()
                await self._restore()
            await self.drop_claimed(ASK_SECONDS)
            self._silent &= self._leases.live
            for home in list(self._over):
                await self._give_up(home)

    async def _restore(self) -> None:
        claims: dict[UUID, dict[bytes, int]] = {}
        for session in self._hub.sessions.values():
            if session.fence:
                claims.setdefault(UUID(_home_name(session)), {})[digest_of(session.resume_token)] = session.fence
        for home, fences in claims.items():
            await self._leases.restore(home, fences)

    async def _give_up(self, home: UUID) -> None:
        over = self._over.pop(home, {})
        try:
            await self._leases.give_up(home, over)
        except AWAY:
            self._over[home] = over | self._over.get(home, {})
            raise


def _home_name(session: Session) -> str:
    """The hex of the node that a session began on."""
    return session.resume_token.partition(".")[0]


def _patience(stopping: bool) -> float:
    return STOPPING_SECONDS if stopping else ASK_SECONDS


def _refusal(session: Session, asked: SessionAsked) -> str | None:
    if session.fence >= asked.fence:
        return "superseded"
    if not may_go_on(session, asked.user_id, asked.scopes):
        return "not_yours"
    if session.opening:
        return "not_ready"
    return None if session.wire.name == asked.wire else "other_protocol"


def may_go_on(session: Session, user_id: UUID | None, scopes: tuple[Scope, ...] | None) -> bool:
    """Whether a session can go on as this user's, with these scopes; None is nobody else's."""
    if user_id is None:
        return True
    return user_id == session.user.id and (None if scopes is None else frozenset(scopes)) == session.scopes
