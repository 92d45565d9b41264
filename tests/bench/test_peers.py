"""Other servers beside Parley: what is read of their bytes, how they compare, and the real ones where installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from bench.cli import main
from bench.dialect import STAMP_WIDTH, TEXT, Scan, Span, Wrong
from bench.display import Display
from bench.frames import masked
from bench.load import Load, Window
from bench.peers import installed
from bench.peers.pairs import ARCHIVED, NAMES, compared, medians, paired, peer, turn
from bench.peers.socketio import SocketIoDialect
from bench.peers.xmpp import XmppDialect, XmppLine, elements
from bench.results import Run, Verdict, distributions
from bench.scenarios import Fanout, Scenario, Sizes
from bench.session import Reading, Session
from bench.stage import Stage
from bench.target import TargetError

ROOM = "01890a5d-ac96-774b-bcce-b302099a8057"
OTHER = "01890a5d-ac96-774b-bcce-b302099a8058"
STAMP = 1234567890


class Someone:
    """A session as a dialect sees it."""

    def __init__(self, credential: str) -> None:
        self.credential = credential
        self.kept: dict[str, Any] = {}
        self.sent: list[bytes] = []
        self.heads: Mapping[bytes, int] | None = None
        self.failures: list[str] = []

    def send(self, frames: bytes) -> None:
        """Noted."""
        self.sent.append(frames)

    def ready(self, heads: Mapping[bytes, int]) -> None:
        """Noted."""
        self.heads = heads

    def failed(self, what: str) -> None:
        """Noted."""
        self.failures.append(what)


# --- XMPP: as ejabberd 23.01 writes it -----------------------------------------------------------


def _groupchat(room: str, sender: str, to: str, number: int, *, archived: bool = True, text: str = TEXT) -> bytes:
    mark = f"<stanza-id by='{room}@conference.localhost' id='1795268094744801' xmlns='urn:xmpp:sid:0'/>"
    return (
        f"<message xml:lang='en' to='a@localhost/{to}' from='{room}@conference.localhost/{sender}' type='groupchat' "
        f"id='{number:012}'>{mark if archived else ''}<body>{STAMP:0{STAMP_WIDTH}}{text}</body></message>"
    ).encode()


def _joined(room: str, name: str) -> bytes:
    return (
        f"<presence xml:lang='en' to='{name}@localhost/b' from='{room}@conference.localhost/{name}'>"
        "<x xmlns='http://jabber.org/protocol/muc#user'><item role='participant'/><status code='110'/></x></presence>"
    ).encode()


SUBJECT = (
    f"<message to='ann@localhost/b' from='{ROOM}@conference.localhost' type='groupchat'><subject/></message>".encode()
)


@pytest.mark.parametrize("cut", [0, 1, 100, 400, -1])
def test_xmpp_messages_are_found_wherever_the_bytes_are_cut(cut: int) -> None:
    """Messages have the places in which they come, the sender's own is the ack, and the rest is handed on."""
    dialect = XmppDialect(5222)
    data = _groupchat(ROOM, "ann", "ann", 1) + SUBJECT + b"<r xmlns='x'/>" + _groupchat(ROOM, "bob", "ann", 2)
    first = dialect.scan(data[:cut])
    second = dialect.scan(data[:cut][first.end :] + data[cut:])
    assert first.spans + second.spans == [Span(ROOM.encode(), 1, 1), Span(ROOM.encode(), 2, 2)]
    assert first.acks + second.acks == [1]
    assert first.others + second.others == [(0, SUBJECT), (0, b"<r xmlns='x'/>")]
    assert first.end + second.end == len(data)


async def test_xmpp_order_is_what_the_first_receiver_got() -> None:
    """A receiver that gets a chatroom's messages in another order, or one of them not, is found out."""
    dialect = XmppDialect(5222)
    reading = Reading(dialect, Load(lambda _number, _stamp: None, 0, Window(0, 0)))
    sessions = {name: Session(reading, f"{name}~{ROOM}") for name in ("ann", "bob", "cat")}
    for name, numbers in {"ann": (1, 2, 3), "bob": (2, 1, 3), "cat": (1, 3)}.items():
        session = sessions[name]
        session.ready({ROOM.encode(): 0})
        session._line = None
        session._look(b"".join(_groupchat(ROOM, "dan", name, number) for number in numbers))
    checks = {name: session.checks[ROOM.encode()] for name, session in sessions.items()}
    assert [(check.reordered, check.lost(3)) for check in checks.values()] == [(0, 0), (1, 0), (0, 1)]


def test_xmpp_ack_needs_the_mark_of_the_archive() -> None:
    """A message that comes back without a place in the archive is a failure: archiving is off."""
    dialect, ann = XmppDialect(5222), Someone(f"ann~{ROOM}")
    for archived in (True, False):
        scan = dialect.scan(_groupchat(ROOM, "ann", "ann", 1, archived=archived))
        for opcode, payload in scan.others:
            dialect.other(ann, opcode, payload)
    assert ann.failures == ["a message came back that nobody has tried to archive"]


def test_xmpp_session_is_ready_when_it_is_in_all_its_rooms() -> None:
    """Each join has its answer; an error ends the opening."""
    dialect, ann = XmppDialect(5222), Someone(f"ann~{ROOM},{OTHER}")
    dialect.other(ann, 0, SUBJECT)
    dialect.other(ann, 0, _joined(ROOM, "ann"))
    assert ann.heads is None
    dialect.other(ann, 0, _joined(OTHER, "ann"))
    assert ann.heads == {ROOM.encode(): 0, OTHER.encode(): 0}
    dialect.other(ann, 0, b"<presence from='x@conference.localhost/ann' type='error'><error/></presence>")
    assert len(ann.failures) == 1


def test_xmpp_opening() -> None:
    """Features, PLAIN, a new stream, a resource, and then the joins; what comes after belongs to the session."""
    line = XmppLine(f"ann~{ROOM},{OTHER}")
    assert line.first().startswith(b"<?xml")
    features = b"<?xml version='1.0'?><stream:stream id='1'><stream:features><mechanisms/></stream:features>"
    assert line.take(features[:40]) == (b"", b"")
    assert b"AGFubgBhbnk=" in line.take(features[40:])[1]  # \0ann\0any
    assert line.take(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>") == (b"", line.first())
    assert b"xmpp-bind" in line.take(features)[1]
    assert not line.ready
    after, joins = line.take(b"<iq type='result' id='bind'></iq><presence/>")
    assert (after, joins.count(b"<presence "), line.ready) == (b"<presence/>", 2, True)
    with pytest.raises(TargetError, match="refused"):
        XmppLine("ann~").take(b"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>")


def test_xmpp_messages_are_read_fully() -> None:
    """Stamps come from the texts, which have to be those that were sent; what is sent is one element."""
    dialect = XmppDialect(5222)
    sent = dialect.sender(ROOM)(7, STAMP)
    assert list(elements(sent)) == [(0, len(sent))]
    assert f"id='000000000007'><body>{STAMP:0{STAMP_WIDTH}}{TEXT}</body>".encode() in sent
    data = _groupchat(ROOM, "ann", "bob", 7) + SUBJECT
    scan = dialect.scan(data)
    assert (list(dialect.stamps(data, scan)), dialect.read(data, scan)) == ([STAMP], 1)
    other = _groupchat(ROOM, "ann", "bob", 8, text="something else")
    with pytest.raises(Wrong):
        dialect.read(other, dialect.scan(other))


# --- Socket.IO -----------------------------------------------------------------------------------


def _frame(payload: str) -> bytes:
    size = len(payload)
    head = bytes([0x81, size]) if size < 126 else b"\x81\x7e" + size.to_bytes(2, "big")
    return head + payload.encode()


def _event(seq: int, text: str = TEXT) -> bytes:
    message = f'{{"id":"x","seq":{seq},"content":"{STAMP:0{STAMP_WIDTH}}{text}"}}'
    return _frame(f'42["message_received",{{"message":{message},"chatroom_id":"{ROOM}","seq":{seq}}}]')


ACK = _frame('4317[{"message_id":"x","seq":2,"client_id":"000000000017"}]')


@pytest.mark.parametrize("cut", [0, 1, 3, 200, -1])
def test_socketio_packets_are_found_wherever_the_bytes_are_cut(cut: int) -> None:
    """Events by their last bytes, acks by the number that the sender gave; pings are handed on."""
    dialect = SocketIoDialect("http://127.0.0.1:80")
    data = _event(9) + _event(10) + ACK + _frame("2")
    first = dialect.scan(data[:cut])
    second = dialect.scan(data[:cut][first.end :] + data[cut:])
    seqs = [seq for scan in (first, second) for span in scan.spans for seq in range(span.first, span.last + 1)]
    assert seqs == [9, 10]
    assert {span.room for scan in (first, second) for span in scan.spans} == {ROOM.encode()}
    assert (first.acks + second.acks, first.others + second.others) == ([17], [(1, b"2")])


def test_socketio_packets_are_read_fully() -> None:
    """Each event's JSON has to say what its end says, and the text that was sent."""
    dialect = SocketIoDialect("http://127.0.0.1:80")
    data = _event(9)
    scan = dialect.scan(data)
    assert (list(dialect.stamps(data, scan)), dialect.read(data, scan)) == ([STAMP], 1)
    with pytest.raises(Wrong):
        dialect.read(_event(9, "something else"), scan)
    with pytest.raises(Wrong):
        dialect.read(data, Scan([Span(ROOM.encode(), 8, 8)], [], [], len(data)))


def test_socketio_opening() -> None:
    """The handshake is answered with the credential, a ping with a pong, and the heads make it ready."""
    dialect, ann = SocketIoDialect("http://127.0.0.1:80"), Someone("ann~")
    dialect.other(ann, 1, b'0{"sid":"a"}')
    dialect.other(ann, 1, b'40{"sid":"b"}')
    dialect.other(ann, 1, b"2")
    dialect.other(ann, 1, f'42["ready",{{"chatrooms":[{{"id":"{ROOM}","seq":4}}]}}]'.encode())
    assert ann.sent == [masked(1, b'40{"token":"ann~"}'), masked(1, b"3")]
    assert (ann.heads, ann.failures) == ({ROOM.encode(): 4}, [])
    dialect.other(ann, 1, b'44{"message":"no"}')
    assert len(ann.failures) == 1


# --- comparing -----------------------------------------------------------------------------------


def _run(server: str, figure: float | None, p99_us: int) -> Run:
    figures = {"acked_per_s": figure}
    return Run("1 in flight", Verdict(clean=True), server, figures, distributions(ack={p99_us: 100}))


def test_ratios_are_taken_round_by_round() -> None:
    """Median, lowest and highest of the rounds' ratios; latencies count like figures; what one lacks is left out."""
    ours = [[_run("parley", figure, 1000)] for figure in (10.0, 40.0, 30.0)]
    theirs = [[_run("ws", 10.0, 2000)] for _ in range(3)]
    found = {each.figure: each for each in compared("parley", ours, "ws", theirs)}
    assert set(found) == {"acked_per_s", "ack_p50_ms", "ack_p99_ms"}
    rate = found["acked_per_s"]
    assert (rate.title, rate.of, rate.to, rate.rounds) == ("1 in flight", "parley", "ws", 3)
    assert (rate.ratio.median, rate.ratio.min, rate.ratio.max) == (3.0, 1.0, 4.0)
    assert found["ack_p99_ms"].ratio.median == pytest.approx(0.5, rel=0.01)
    none = [[_run("ws", None, 1)] for _ in range(3)]
    assert "acked_per_s" not in {each.figure for each in compared("parley", ours, "ws", none)}


def test_medians_are_of_one_server() -> None:
    """Each load has one run, which names its server, with the medians of the rounds."""
    [run] = medians([[_run("ws", figure, 1)] for figure in (1.0, 9.0, 2.0)])
    assert (run.title, run.server, run.figures["acked_per_s"]) == ("1 in flight", "ws", 2.0)


# --- what is installed ---------------------------------------------------------------------------


def test_what_is_missing_is_told_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`parley bench peers` names each server, and a run with one that is missing says what to do."""
    monkeypatch.setenv(installed.FOLDER, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    listed = CliRunner().invoke(main, ["peers"])
    assert listed.exit_code == 0
    lines = listed.output.splitlines()
    assert [line.split()[0] for line in lines] == list(NAMES)
    assert all("npm install" in line for line in lines[:4])
    assert "apt install ejabberd" in lines[4]
    tried = CliRunner().invoke(main, ["fanout", "--peers", "bun"])
    assert tried.exit_code == 1
    assert f"--prefix {tmp_path}" in tried.output


def test_unknown_names_are_refused() -> None:
    """With the names that there are."""
    tried = CliRunner().invoke(main, ["fanout", "--peers", "bun,nobody"])
    assert tried.exit_code == 2
    assert "nobody" in tried.output
    assert "ejabberd" in tried.output


@pytest.mark.parametrize("name", NAMES)
async def test_the_real_server(name: str) -> None:
    """A chatroom on the real one: all six sessions hear everything once and in order, and senders get their acks.

    ejabberd's archive is asked whether it has as many messages as were sent.
    """
    try:
        server = peer(name)
    except installed.NotInstalledError as missing:
        pytest.skip(str(missing))
    scenario = Fanout(Sizes(connections=6, accounts=2), in_flight=[4], rates=[], seconds=0.2)
    [run], about, _ = await paired(scenario, [server], 1, 1, Display())
    assert run.verdict.clean, run.verdict
    assert run.verdict.counts["sent"] > 0
    assert run.verdict.counts["delivered"] == 6 * run.verdict.counts["sent"]
    assert (run.server, run.guarantees) == (name, list(server.lacks))
    assert about[name]
    assert server.usage() is None  # it is gone


async def test_a_substitute_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uWebSockets.js has no native code, its package runs something else under its name: that is refused."""
    monkeypatch.setenv("UWS_USE_FALLBACK", "1")
    try:
        server = peer("uws")
    except installed.NotInstalledError as missing:
        pytest.skip(str(missing))
    try:
        with pytest.raises(TargetError, match="substitute"):
            await server.start()
    finally:
        await server.stop()


class Archive:
    """A server's word on how much it has on disk, and a load of five messages, in one."""

    def __init__(self, *kept: float) -> None:
        self.deployment = self
        self._kept = iter(kept)

    async def counters(self) -> dict[str, float]:
        """The next word."""
        return {ARCHIVED: next(self._kept)}

    async def runs(self, _stage: Any) -> list[Run]:
        """The load."""
        return [Run("1 in flight", Verdict(clean=True, counts={"sent": 5}))]


@pytest.mark.parametrize(("kept", "missing"), [((10.0, 15.0), 0), ((10.0, 14.0), 1)])
async def test_what_is_not_on_disk_fails_a_run(kept: tuple[float, float], missing: int) -> None:
    """A server that says how many messages it has on disk has to have all that were sent."""
    archive = Archive(*kept)
    [run] = await turn(cast("Scenario", archive), cast("Stage", archive))
    assert run.verdict.clean is not bool(missing)
    assert sum(run.verdict.failures.values()) == missing
