"""XMPP's wire, as far as chatrooms need it: a stream over TCP, PLAIN, a join of each room, groupchat messages.

XMPP has no seq. What stands in for it is the order in which the first receiver of a process gets the messages
of a chatroom: every other one there must have the same ones, in the same order. A message that its sender gets back
is the ack; without the archive's mark nobody has even tried to keep it.
"""

from __future__ import annotations

import base64
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from xml.etree import ElementTree

from bench.dialect import ID_WIDTH, STAMP_WIDTH, TEXT, Line, Scan, Send, Span, Talk, Wrong
from bench.target import TargetError

DOMAIN = "localhost"
ROOMS = f"conference.{DOMAIN}"
KEPT = 100_000
"""Messages of a chatroom whose place is remembered: more than any receiver may lag behind."""

_ATTRIBUTE = re.compile(rb"([\w:-]+)='([^']*)'")
_STAMP = re.compile(rb"<body>(\d{%d})" % STAMP_WIDTH)
_NAME = re.compile(rb"<(/?[\w:.-]+)")
_JOINED = re.compile(rb"<status code='110'")
_STREAM = (
    f"<?xml version='1.0'?><stream:stream to='{DOMAIN}' xmlns='jabber:client' "
    "xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
).encode()
_BIND = b"<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>%s</resource></bind></iq>"


def elements(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each whole element of the stream's top level begins and ends. None holds another one of its own name."""
    at = 0
    while (opened := data.find(b">", at)) >= 0:
        name = _NAME.match(data, at)
        if name is None:
            raise Wrong(f"no XML: {data[at : at + 80].decode(errors='replace')}")
        if data[opened - 1 : opened] == b"/" or name[1].startswith(b"/"):
            end = opened + 1
        else:
            closing = b"</%s>" % name[1]
            found = data.find(closing, opened)
            if found < 0:
                return
            end = found + len(closing)
        yield at, end
        at = end


def attributes(data: bytes, start: int) -> dict[bytes, bytes]:
    """Those of the element that begins here."""
    return dict(_ATTRIBUTE.findall(data, start, data.index(b">", start)))


class XmppLine:
    """Signs in and binds a resource, then joins the rooms that the credential lists: `name~room,room`.

    The resource is the nick, too: several sessions of one account are told apart by it.
    """

    sealed = False

    def __init__(self, credential: str) -> None:
        name, _, rooms = credential.partition("~")
        plain = base64.b64encode(f"\0{name}\0any".encode())
        auth = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>" % plain
        nick = f"{name}-{os.urandom(4).hex()}"
        joins = b"".join(_join(room, nick) for room in rooms.split(",") if room)
        self._steps = [
            (b"</stream:features>", auth),
            (b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", _STREAM),
            (b"</stream:features>", _BIND % nick.encode()),
            (b"</iq>", joins),
        ]
        self._said = b""
        self.ready = False

    def first(self) -> bytes:
        """The stream's head."""
        return _STREAM

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """One step after the other."""
        self._said += data
        if b"<failure" in self._said or b"<stream:error" in self._said:
            raise TargetError(f"signing in was refused: {self._said[-300:].decode(errors='replace')}")
        awaited, answer = self._steps[0]
        _, found, after = self._said.partition(awaited)
        if not found:
            return b"", b""
        self._said = after
        del self._steps[0]
        self.ready = not self._steps
        return (after if self.ready else b""), answer

    def pack(self, frames: bytes) -> bytes:
        """As they are."""
        return frames


def _join(room: str, nick: str) -> bytes:
    muc = "<x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x>"
    return f"<presence to='{room}@{ROOMS}/{nick}'>{muc}</presence>".encode()


class XmppDialect:
    """Group chat (XEP-0045) with an archive (XEP-0313), in clear on the loopback."""

    tls = False

    def __init__(self, port: int) -> None:
        self.host, self.port = "127.0.0.1", port
        self._places: defaultdict[bytes, dict[bytes, int]] = defaultdict(dict)
        self._heads: defaultdict[bytes, int] = defaultdict(int)

    def line(self, credential: str) -> Line:
        """To the rooms of the credential."""
        return XmppLine(credential)

    def sender(self, room: str) -> Send:
        """Prebuilt messages, whose ids are their numbers."""
        head = f"<message to='{room}@{ROOMS}' type='groupchat' id='".encode()

        def build(number: int, stamp: int) -> bytes:
            text = b"%0*d%s" % (STAMP_WIDTH, stamp, TEXT.encode())
            return b"%s%0*d'><body>%s</body></message>" % (head, ID_WIDTH, number, text)

        return build

    def scan(self, data: bytes) -> Scan:
        """Messages with a body, and which of them come back to who sent them."""
        spans: list[Span] = []
        acks: list[int] = []
        others: list[tuple[int, bytes]] = []
        end = 0
        for start, end in elements(data):
            if not data.startswith(b"<message", start) or data.find(b"<body>", start, end) < 0:
                others.append((0, data[start:end]))
                continue
            stanza = attributes(data, start)
            room, _, nick = stanza[b"from"].partition(b"@" + ROOMS.encode() + b"/")
            place = self._place(room, stanza[b"id"])
            spans.append(Span(room, place, place))
            if nick == stanza[b"to"].rpartition(b"/")[2]:
                if data.find(b"<stanza-id", start, end) < 0:
                    others.append((0, data[start:end]))
                acks.append(int(stanza[b"id"]))
        return Scan(spans, acks, others, end)

    def _place(self, room: bytes, id: bytes) -> int:
        places = self._places[room]
        if (place := places.get(id)) is None:
            self._heads[room] = place = places[id] = self._heads[room] + 1
            if len(places) > KEPT:
                del places[next(iter(places))]
        return place

    def stamps(self, data: bytes, scan: Scan) -> Iterable[int]:
        """Those that the texts begin with."""
        return map(int, _STAMP.findall(data, 0, scan.end))

    def read(self, data: bytes, scan: Scan) -> int:
        """Parses each message as XML."""
        whole = (data[start:end] for start, end in elements(data[: scan.end]))
        found = [ElementTree.fromstring(each) for each in whole if each.startswith(b"<message")]  # noqa: S314  our own server
        bodies = [(message.get("id"), body) for message in found if (body := message.findtext("body")) is not None]
        if any(body[STAMP_WIDTH:] != TEXT for _, body in bodies):
            raise Wrong("a message's text is not the one that was sent")
        if len(bodies) != len(scan.spans) or not all(id and id.isdecimal() for id, _ in bodies):
            raise Wrong("a message is not what its attributes say")
        return len(bodies)

    def other(self, session: Talk, opcode: int, payload: bytes) -> None:
        """Counts the rooms that were joined; whatever is an error is one."""
        if payload.startswith(b"<message") and b"<body>" in payload:
            session.failed("a message came back that nobody has tried to archive")
        elif b"type='error'" in payload[:300] or payload.startswith((b"<stream:error", b"</stream:stream")):
            session.failed(payload[:300].decode(errors="replace"))
        elif payload.startswith(b"<presence") and _JOINED.search(payload):
            joined: dict[bytes, int] = session.kept.setdefault("joined", {})
            joined[attributes(payload, 0)[b"from"].partition(b"@")[0]] = 0
            self._all_joined(session, joined)

    def _all_joined(self, session: Talk, joined: Mapping[bytes, int]) -> None:
        if len(joined) == len(session.credential.partition("~")[2].split(",")):
            session.ready({room: self._heads[room] for room in joined})

    def goodbye(self) -> bytes:
        """The stream's end."""
        return b"</stream:stream>"
