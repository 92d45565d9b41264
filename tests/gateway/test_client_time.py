from __future__ import annotations

import pytest

from gateway.client_commands import DELAY_CAP, backoff
from gateway.client_effects import ClientClosed, End
from gateway.client_state import REPORT_EVERY
from protocol import events
from protocol.codec import JSON, MSGPACK, ServerFrame
from tests.gateway.client_shapes import (
    HELLO,
    NOW,
    ROOM,
    plain,
)
from tests.gateway.client_world import World, opened


@pytest.fixture(params=[JSON, MSGPACK], ids=["json", "msgpack"])
def world(request: pytest.FixtureRequest) -> World:
    """A client with a session, and a member of ROOM, whose last event is 1."""
    return opened(request.param)


def test_the_server_is_told_what_arrived(world: World) -> None:
    """After 256 counted frames the client reports, so that the server can forget them."""
    for _ in range(REPORT_EVERY):
        world.server.say(ROOM)
    world.settle()
    assert world.server.session is not None
    assert world.server.session.trimmed == REPORT_EVERY


def test_a_quiet_line_is_pinged_every_20_seconds(world: World) -> None:
    """Four fifths of the default heartbeat of 25 s."""
    world.wait(19.9)
    assert world.sent() == []
    world.wait(0.1)
    assert world.sent() == ["ping"]


def test_the_server_sets_the_heartbeat(world: World) -> None:
    """Pings and patience follow `heartbeat_interval` of `hello`."""
    hello = {**plain(HELLO), "heartbeat_interval": 5.0, "max_frame_bytes": 1_000}
    world.do(world.state.receive(ServerFrame("hello", hello), world.now))
    assert world.state._dead_at() == world.now + 15.0
    assert world.state.max_frame_bytes == 1_000


def test_a_client_without_a_connection_hears_no_silence(world: World) -> None:
    """A reader that comes back after the connection broke does not start the clock."""
    world.cut()
    due = world.state.deadline
    world.state.unpause(world.now - 100.0)
    assert world.state.deadline == due


def test_silence_ends_a_connection(world: World) -> None:
    """Nothing heard for a heartbeat and 10 s: the line is dead, and the session goes on over a new one."""
    session = world.state.session_id
    world.wait(34.9)
    assert world.connected
    world.wait(0.1)
    assert not world.connected
    world.settle()
    assert world.state.session_id == session


def test_silence_means_nothing_while_nobody_reads(world: World) -> None:
    """A paused reader hears nothing, and starts counting when it reads on."""
    world.state.pause()
    world.wait(100.0)
    assert world.connected
    world.state.unpause(world.now)
    world.wait(34.9)
    assert world.connected


@pytest.mark.parametrize(("code", "delay"), [(4200, 0.0), (4204, 0.0), (4101, 0.25), (1006, 0.25), (1000, 0.25)])
def test_the_close_code_says_when_to_come_back(code: int, delay: float) -> None:
    """42xx at once, everything else after a backoff; here jitter is one half of half a second."""
    world = opened()
    world.wait(5.0)
    world.cut(code)
    assert world.state.deadline == world.now + delay


def test_a_session_that_ends_at_once_is_not_renewed_at_once() -> None:
    """A server that greets and closes again and again is not stormed."""
    world = opened()
    world.cut(4203)
    assert world.state.deadline == world.now + 0.25


@pytest.mark.parametrize("code", [4000, 4001, 4005, 4099])
def test_some_close_codes_are_the_end(code: int) -> None:
    """4000-4099: the client does not come back."""
    world = opened()
    (end,) = world.state.disconnected(code, "no", 0.0)
    assert isinstance(end, End)
    assert (end.error.code, end.error.reason) == (code, "no")
    assert isinstance(end.error, ClientClosed)
    assert world.state.deadline is None


def test_a_session_ends_the_series_of_failures(world: World) -> None:
    """The backoff after a session begins anew, however long it took to get one."""
    for _ in range(3):
        world.cut()
        world.settle()
    world.cut()
    assert world.state.deadline == world.now + 0.25


def test_backoff_grows_to_its_cap() -> None:
    """Each delay may be twice the one before, up to 30 s, and anything below that is as likely."""
    assert [backoff(failures, lambda: 1.0) for failures in range(8)] == [0.5, 1, 2, 4, 8, 16, DELAY_CAP, DELAY_CAP]
    assert backoff(5, lambda: 0.0) == 0.0


def test_an_expiring_token_is_replaced_on_the_live_session(world: World) -> None:
    """`token_expiring` makes the client authenticate again; the session stays."""
    session = world.state.session_id
    expiring = events.TokenExpiring(expires_at=NOW)
    world.do(world.state.receive(ServerFrame("token_expiring", plain(expiring)), 0.0))
    assert world.sent() == ["authenticate"]
    assert world.state.session_id == session


@pytest.mark.parametrize(("retry_after", "delay"), [(7.0, 7.0), (0.1, 0.5), (None, 0.5)])
def test_a_server_that_is_overloaded_says_when_to_come_back(
    world: World, retry_after: float | None, delay: float
) -> None:
    """`retry_after` of the error before a session is waited for, if that is longer than the backoff; and only once."""
    world.wait(5.0)
    world.cut()
    world.wait(31.0)
    error = events.Error(code="SERVICE_UNAVAILABLE", message="", details={}, retry_after=retry_after)
    world.server.outgoing.append(world.codec.event("error", error))
    world.to_server.clear()
    while world.connected:
        world.step_client()
    assert world.state.deadline == world.now + delay
    world.settle()
    world.cut()
    assert world.state.deadline == world.now + 0.25
