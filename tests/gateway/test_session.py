"""A session's counters, its replay buffer and its limits, without a socket."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import accumulate
from uuid import UUID, uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.session import Session, SessionLimits
from gateway.wire import Chunk, Wire
from protocol.codec import JSON
from protocol.models import User

ROOM = UUID(int=1)
OTHER = UUID(int=2)
WIRE = Wire(JSON, lambda payload: payload)
ROOMY = SessionLimits(ephemeral=1_000, outbox=2_000, replay_frames=1_000, replay_bytes=100_000)


def session(limits: SessionLimits = ROOMY) -> Session:
    """A session that is attached."""
    user = User(id=uuid4(), username="ann", display_name="Ann")
    return Session(uuid4(), "secret", user, uuid4(), datetime.now(UTC), WIRE, limits)


def chunk(*frames: bytes, room: UUID | None = None, seq: int = 0) -> Chunk:
    """These frames in one chunk."""
    return Chunk(b"".join(frames), tuple(accumulate(map(len, frames))), room, seq)


def frames(chunks: list[Chunk]) -> list[bytes]:
    """The frames of some chunks, one by one, as the client would see them."""
    cut = [(c.data, start, end) for c in chunks for start, end in zip((0, *c.ends), c.ends, strict=False)]
    return [data[start:end] for data, start, end in cut]


def kept(s: Session) -> tuple[int, int]:
    """The frames and the bytes in the replay buffer."""
    return sum(len(c.ends) for c in s.replay), sum(len(c.data) for c in s.replay)


def resumed(s: Session, received: int, *rooms: UUID) -> list[bytes]:
    """What a resume sends; it must not be refused."""
    missed = s.resume(received, rooms)
    assert not isinstance(missed, str), missed
    return frames(missed)


class TestCounting:
    def test_frames_not_chunks(self) -> None:
        """Frames are counted, not the chunks they travel in."""
        s = session()
        s.push(chunk(b"a", b"b", b"c"))
        s.push(chunk(b"d"))
        assert s.sent == 4

    def test_uncounted(self) -> None:
        """A frame of the connection itself is sent, and neither counted nor kept."""
        s = session()
        s.push_uncounted(chunk(b"pong"))
        assert s.take() == b"pong"
        assert s.sent == 0
        assert resumed(s, 0) == []

    def test_uncounted_while_cut(self) -> None:
        """While there is no socket, a frame of the connection is not kept for the next one."""
        s = session()
        s.detach()
        s.push_uncounted(chunk(b"pong"))
        s.attach(WIRE)
        assert s.take() == b""

    def test_take_empties(self) -> None:
        """What is taken for the socket is handed out once, and no longer counts as waiting."""
        s = session()
        s.push(chunk(b"abc"))
        assert s.queued == 3
        assert s.take() == b"abc"
        assert (s.take(), s.queued) == (b"", 0)

    def test_cut_session_counts_on(self) -> None:
        """Frames for a cut session are counted and kept, and do not wait for a socket that is not there."""
        s = session()
        s.detach()
        s.push(chunk(b"a"))
        assert (s.sent, s.outbox, s.queued) == (1, None, 0)
        assert resumed(s, 0) == [b"a"]

    def test_cuts_are_told_apart(self) -> None:
        """Each cut has a number, so that an old expiry does not end a session that was resumed since."""
        s = session()
        s.detach()
        s.attach(WIRE)
        s.detach()
        assert s.cuts == 2


class TestAcknowledge:
    def test_forgets_what_arrived(self) -> None:
        """Acknowledged frames are kept no longer: a client that asks for them again cannot have them."""
        s = session()
        for data in (b"a", b"b", b"c"):
            s.push(chunk(data))
        assert s.acknowledge(2)
        assert kept(s) == (1, 1)
        assert s.resume(1, ()) == "buffer_exceeded"
        assert resumed(s, 2) == [b"c"]

    def test_part_of_a_chunk_stays(self) -> None:
        """A chunk is kept until its last frame has arrived."""
        s = session()
        s.push(chunk(b"a", b"b", b"c"))
        assert s.acknowledge(2)
        assert resumed(s, 2) == [b"c"]

    def test_all_of_it(self) -> None:
        """An idle session keeps no buffer at all."""
        s = session()
        s.push(chunk(b"a", b"b"))
        assert s.acknowledge(2)
        assert not s.replay
        assert resumed(s, 2) == []

    def test_more_than_was_sent(self) -> None:
        """A client cannot have had more than was sent; nothing is forgotten on its word."""
        s = session()
        s.push(chunk(b"a"))
        assert not s.acknowledge(2)
        assert resumed(s, 0) == [b"a"]

    def test_late_report(self) -> None:
        """An acknowledgement that was overtaken by a later one changes nothing."""
        s = session()
        for data in (b"a", b"b", b"c"):
            s.push(chunk(data))
        assert s.acknowledge(2)
        assert s.acknowledge(1)
        assert resumed(s, 2) == [b"c"]


class TestTrimming:
    def test_by_frames(self) -> None:
        """Beyond its number of frames the buffer lets the oldest go, and says so when they are asked for."""
        s = session(SessionLimits(1_000, 2_000, replay_frames=3, replay_bytes=100))
        for data in (b"a", b"b", b"c", b"d"):
            s.push(chunk(data))
        assert s.resume(0, ()) == "buffer_exceeded"
        assert resumed(s, 1) == [b"b", b"c", b"d"]

    def test_by_bytes(self) -> None:
        """The same by bytes."""
        s = session(SessionLimits(1_000, 2_000, replay_frames=100, replay_bytes=10))
        for data in (b"aaaa", b"bbbb", b"cccc"):
            s.push(chunk(data))
        assert kept(s) == (2, 8)
        assert s.resume(0, ()) == "buffer_exceeded"
        assert resumed(s, 1) == [b"bbbb", b"cccc"]

    def test_larger_than_the_buffer(self) -> None:
        """A chunk that is larger than the whole buffer leaves it empty, and the count right."""
        s = session(SessionLimits(1_000, 2_000, replay_frames=100, replay_bytes=10))
        s.push(chunk(b"a" * 11))
        assert (s.sent, *kept(s)) == (1, 0, 0)
        assert s.resume(0, ()) == "buffer_exceeded"
        assert resumed(s, 1) == []

    def test_seldom(self) -> None:
        """With room for many frames the buffer is trimmed many at a time; it is never an eighth above its limits."""
        limits = SessionLimits(1_000, 2_000, replay_frames=80, replay_bytes=2**20)
        s, small = session(limits), chunk(b"")
        sizes = []
        for _ in range(1_000):
            s.push(small)
            sizes.append(len(s.replay))
        assert set(sizes[90:]) == set(range(80, 91))
        assert s.resume(1_000 - 81, ()) == "buffer_exceeded"
        assert len(resumed(s, 1_000 - 80)) == 80

    @given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 30_000)), max_size=60))
    def test_never_above_its_limits(self, pushed: list[tuple[int, int]]) -> None:
        """Whatever is sent, the buffer is at most an eighth above its limits, and keeps all it may."""
        limits = SessionLimits(1_000, 2_000, replay_frames=100, replay_bytes=100_000)
        s, all_sent = session(limits), []
        for count, size in pushed:
            sent = chunk(*[b"x"] * (count - 1), b"x" * size)
            all_sent.append(sent)
            s.push(sent)
            frames, total = kept(s)
            assert frames <= 112
            assert total <= 112_500
        assert s.sent == sum(len(c.ends) for c in all_sent)
        unkept = all_sent[: len(all_sent) - len(s.replay)]
        assert not unkept or _above(limits, [unkept[-1], *s.replay])


def _above(limits: SessionLimits, chunks: list[Chunk]) -> bool:
    """Whether these are more than may be kept."""
    return (
        sum(len(c.ends) for c in chunks) > limits.replay_frames
        or sum(len(c.data) for c in chunks) > limits.replay_bytes
    )


class TestResume:
    def test_inside_a_chunk(self) -> None:
        """A client that had half of a chunk gets the other half, byte for byte."""
        s = session()
        s.push(chunk(b"one", b"two", b"three", b"four"))
        s.push(chunk(b"five"))
        assert resumed(s, 2) == [b"three", b"four", b"five"]

    def test_shared_bytes_stay(self) -> None:
        """The chunk that was cut is shared with other sessions and keeps its frames."""
        shared = chunk(b"one", b"two")
        s = session()
        s.push(shared)
        resumed(s, 1)
        assert frames([shared]) == [b"one", b"two"]

    def test_again(self) -> None:
        """A resume whose answer was lost can be repeated, and gives the same frames."""
        s = session()
        s.push(chunk(b"a", b"b", b"c"))
        assert resumed(s, 1) == [b"b", b"c"]
        assert resumed(s, 1) == [b"b", b"c"]
        assert resumed(s, 3) == []

    def test_more_than_was_sent(self) -> None:
        """A client that claims more frames than there were is another one, or broken: its count is worth nothing."""
        s = session()
        s.push(chunk(b"a"))
        assert s.resume(2, ()) == "received_too_high"

    def test_chatrooms_left(self) -> None:
        """Frames of chatrooms that the user has left are left out, and both ends agree on the new count."""
        s = session()
        s.push(chunk(b"ack"))
        s.push(chunk(b"secret", b"secret", room=OTHER, seq=2))
        s.push(chunk(b"open", room=ROOM, seq=5))
        s.push(chunk(b"gone"))
        assert resumed(s, 0, ROOM) == [b"ack", b"open", b"gone"]
        assert s.sent == 3
        assert resumed(s, 1, ROOM) == [b"open", b"gone"]

    def test_limits_hold_after_it(self) -> None:
        """What is kept is what was just sent again; the limits go on from there."""
        s = session(SessionLimits(1_000, 2_000, replay_frames=4, replay_bytes=100))
        s.push(chunk(b"a", b"b"))
        resumed(s, 1)
        assert kept(s) == (1, 1)
        s.push(chunk(b"c", b"d", b"e"))
        assert resumed(s, 1) == [b"b", b"c", b"d", b"e"]


class TestSlowReader:
    """The ladder: first ephemeral events are dropped, then room events; answers never are."""

    def test_ephemeral_first(self) -> None:
        """Above the first limit typing and the like are dropped, while room events still come."""
        s = session()
        s.push(chunk(b"x" * 1_001))
        assert not s.push_ephemeral(chunk(b"typing"))
        assert s.push_room(chunk(b"message", room=ROOM, seq=2))
        assert s.sent == 2

    def test_ephemeral_while_cut(self) -> None:
        """An ephemeral event is told once, to those who are there."""
        s = session()
        s.detach()
        assert not s.push_ephemeral(chunk(b"typing"))
        assert resumed(s, 0) == []

    def test_room_events_next(self) -> None:
        """Above the second limit room events are left out, neither counted nor kept, and answers still come."""
        s = session()
        s.push(chunk(b"x" * 2_001))
        assert not s.push_room(chunk(b"message", room=ROOM, seq=2))
        s.push(chunk(b"ack"))
        assert s.sent == 2
        assert s.take() == b"x" * 2_001 + b"ack"

    def test_told_once(self) -> None:
        """When the reader has caught up it is told, once, up to which seq each chatroom went on without it."""
        s = session()
        s.push(chunk(b"x" * 2_001))
        for room, seq in ((ROOM, 2), (OTHER, 7), (ROOM, 3)):
            s.push_room(chunk(b"message", room=room, seq=seq))
        s.take()
        assert s.drained() == {ROOM: 3, OTHER: 7}
        assert s.drained() is None

    def test_quiet_until_synced(self) -> None:
        """A chatroom with a hole stays out until it was synced: what comes after a hole is not shown before it."""
        s = session()
        s.push(chunk(b"x" * 2_001))
        s.push_room(chunk(b"message", room=ROOM, seq=2))
        s.take()
        s.drained()
        assert not s.push_room(chunk(b"message", room=ROOM, seq=3))
        assert s.push_room(chunk(b"message", room=OTHER, seq=2))
        s.caught_up(ROOM)
        assert s.push_room(chunk(b"message", room=ROOM, seq=4))
        assert s.lagging is None

    def test_hole_outlives_a_cut(self) -> None:
        """A cut frees the outbox, and the chatroom with a hole still waits for its sync."""
        s = session()
        s.push(chunk(b"x" * 2_001))
        s.push_room(chunk(b"message", room=ROOM, seq=2))
        s.detach()
        s.attach(WIRE)
        assert not s.push_room(chunk(b"message", room=ROOM, seq=3))
        assert s.lagging == {ROOM: 3}

    def test_memory_is_bounded(self) -> None:
        """However much is said, a reader who takes nothing holds no more than its two limits and one event."""
        s = session(SessionLimits(1_000, 2_000, replay_frames=1_000, replay_bytes=3_000))
        for seq in range(10_000):
            s.push_room(chunk(b"x" * 100, room=ROOM, seq=seq))
        assert s.queued <= 2_100
        assert kept(s)[1] <= 3_000


class TestPushAll:
    """One chunk to many: the quick way where nothing else waits."""

    def test_shared(self) -> None:
        """Sessions that are simply there share one outbox, and so the bytes to write."""
        some = [session() for _ in range(3)]
        assert Session.push_all(some, chunk(b"one", b"two", room=ROOM, seq=2)) == []
        assert [s.sent for s in some] == [2, 2, 2]
        assert len({id(s.outbox) for s in some}) == 1
        assert [s.take() for s in some] == [b"onetwo"] * 3
        assert [resumed(s, 1, ROOM) for s in some] == [[b"two"]] * 3

    def test_still_shared_later(self) -> None:
        """Those for whom the same waits share it still when more comes, and a session that was written does not."""
        some = [session() for _ in range(3)]
        Session.push_all(some, chunk(b"one"))
        some[2].take()
        second = chunk(b"two")
        for s in Session.push_all(some, second):
            s.push_room(second)
        assert some[0].outbox is some[1].outbox
        assert [s.take() for s in some] == [b"onetwo", b"onetwo", b"two"]

    def test_others(self) -> None:
        """Cut ones, slow ones, and those that have something waiting are left to a closer look, and get nothing yet."""
        cut, stuck, lagging, waiting = some = [session() for _ in range(4)]
        cut.detach()
        stuck.stuck = True
        lagging.lagging = {ROOM: 1}
        waiting.push_uncounted(chunk(b"pong"))
        assert Session.push_all(some, chunk(b"message", room=ROOM, seq=2)) == some
        assert [s.sent for s in some] == [0, 0, 0, 0]
        assert waiting.take() == b"pong"


class Counting(RuleBasedStateMachine):
    """A session beside a plain list of all its frames: a resume gives just the rest of the list, or says it can't."""

    def __init__(self) -> None:
        super().__init__()
        self.session = session(SessionLimits(10**6, 10**6, replay_frames=12, replay_bytes=60))
        self.all: list[tuple[UUID | None, bytes]] = []
        self.wire: list[bytes] = []
        self.received = 0
        self.member_of = {ROOM, OTHER}
        self.made = 0

    @rule(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), room=st.sampled_from([None, ROOM, OTHER]))
    def push(self, sizes: list[int], room: UUID | None) -> None:
        """Some frames are sent, in one chunk."""
        if room is not None and room not in self.member_of:
            return
        self.made += 1
        sent = [bytes([97 + (self.made + n) % 26]) * size for n, size in enumerate(sizes)]
        self.session.push(chunk(*sent, room=room))
        self.all += [(room, frame) for frame in sent]
        if self.session.attached:
            self.wire += sent

    @precondition(lambda self: self.session.attached)
    @rule(share=st.floats(0, 1))
    def arrive(self, share: float) -> None:
        """Some of what is on the wire reaches the client."""
        self.received += round(len(self.wire) * share)
        del self.wire[: round(len(self.wire) * share)]
        self.session.take()

    @rule()
    def acknowledge(self) -> None:
        """The client says what it has had."""
        assert self.session.acknowledge(self.received)

    @rule(room=st.sampled_from([ROOM, OTHER]))
    def leave(self, room: UUID) -> None:
        """The user leaves a chatroom; only a resume looks at that."""
        if not self.session.attached:
            self.member_of.discard(room)

    @rule()
    def cut(self) -> None:
        """The socket breaks."""
        if self.session.attached:
            self.session.detach()
            self.wire.clear()

    @rule()
    def resume(self) -> None:
        """A socket comes back."""
        kept = [(room, frame) for room, frame in self.all[self.received :] if room is None or room in self.member_of]
        answer = self.session.resume(self.received, self.member_of)
        if isinstance(answer, str):
            assert answer == "buffer_exceeded"
            lost = self.all[self.received :]
            assert len(lost) > 12 - 4 or sum(len(frame) for _, frame in lost) > 60 - 5 * 9
            self.session = session(self.session.limits)
            self.all, self.wire, self.received = [], [], 0
            return
        assert frames(answer) == [frame for _, frame in kept]
        self.all[self.received :] = kept
        self.wire = [frame for _, frame in kept]
        self.session.attach(WIRE)

    @invariant()
    def counts_agree(self) -> None:
        """`sent` is what the client will have counted, and the buffer keeps within its limits."""
        assert self.session.sent == len(self.all)
        frames, size = kept(self.session)
        assert frames <= 12
        assert size <= 60


TestCountingAgainstAModel = Counting.TestCase
TestCountingAgainstAModel.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
