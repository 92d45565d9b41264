"""The client's world with room for a second connection, as it is while a client moves to another node."""

from __future__ import annotations

from collections import deque

from gateway.client_effects import ConnectNext, DropNext, Effect, FetchToken, Switch
from protocol.codec import JSON, Codec
from protocol.commands import Resume
from protocol.events import Migrate
from tests.gateway.client_shapes import HELLO, ROOM
from tests.gateway.client_world import World

AFTER = 1.0
OVERLAP = 20.0


class MovingWorld(World):
    """Both nodes are one model: what it keeps of the session is what one hands to the other.

    `former` holds the frames that were on their way to the first node at the switch; `opened` counts second lines.
    """

    def __init__(self, codec: Codec = JSON) -> None:
        super().__init__(codec)
        self.reachable = True
        self.next_outgoing: deque[bytes] | None = None
        self.former: deque[bytes] = deque()
        self.resumes = 0
        self.opened = 0
        self.token_wanted = False

    # --- the first node ----------------------------------------------------------------------------

    def migrate(self) -> None:
        """It begins to stop."""
        if self.server.session is not None and self.server.attached:
            told = Migrate(after_ms=int(AFTER * 1000), resume_token="r", overlap_ms=int(OVERLAP * 1000))
            self.server._push("migrate", told)

    def step_former(self) -> bool:
        """It receives a frame that was on its way at the switch. False if there is none."""
        session = self.server.session
        if not self.former or session is None:
            return False
        _event, id, command = self.codec.decode(self.former.popleft())
        session.handled += 1
        self.server._handle(id, command)
        return True

    # --- the second connection -----------------------------------------------------------------------

    def _connection(self, effect: Effect) -> None:
        match effect:
            case ConnectNext() if self.reachable:
                self.opened += 1
                self.next_outgoing = deque([self.codec.event("hello", HELLO)])
                self.do(self.state.next.connected(self.now))
            case ConnectNext():
                self.do(self.state.next.disconnected(self.now))
            case DropNext():
                self.cut_next()
            case Switch():
                self._switch()
            case FetchToken() if self.state.next.hello is not None:
                self.token_wanted = True
            case _:
                super()._connection(effect)

    def _switch(self) -> None:
        assert self.next_outgoing is not None
        self.former, self.to_server = self.to_server, deque()
        self.server.attached, self.server.outgoing = False, self.next_outgoing
        self.next_outgoing = None

    def step_next(self) -> bool:
        """The client receives the other node's `hello`. False if there is none."""
        if not self.next_outgoing:
            return False
        self.do(self.state.next.receive(self.codec.decode_server(self.next_outgoing.popleft()), self.now))
        return True

    def give_token(self) -> bool:
        """The token that is asked for comes. False if none is."""
        wanted, self.token_wanted = self.token_wanted, False
        if wanted:
            self.do(self.state.authorize("token"))
        return wanted

    def cut_next(self) -> None:
        """The second connection breaks."""
        if self.next_outgoing is not None:
            self.next_outgoing = None
            self.do(self.state.next.disconnected(self.now))

    # --- both ------------------------------------------------------------------------------------------

    def step_server(self) -> bool:
        """A resume that is taken ends what the first node took."""
        if self.to_server and isinstance(self.codec.decode(self.to_server[0]).command, Resume):
            self.resumes += 1
            self.former.clear()
        return super().step_server()

    def cut(self, code: int = 1006) -> None:
        """The connection of the moment breaks, and a former one with it."""
        self.former.clear()
        super().cut(code)

    def settle(self) -> None:
        """Ends a move that has begun, and everything else."""
        while self.step_next() or self.give_token():
            pass
        super().settle()


def moving(codec: Codec = JSON) -> MovingWorld:
    """A client with a session, and a member of ROOM, whose last event is 1; its node has begun to stop."""
    world = MovingWorld(codec)
    world.server.join(ROOM)
    world.settle()
    world.migrate()
    world.step_client()
    return world


def greeted(codec: Codec = JSON) -> MovingWorld:
    """The same; the other node has said hello, and the client waits for a token to resume with."""
    world = moving(codec)
    world.wait(AFTER)
    assert world.step_next()
    return world
