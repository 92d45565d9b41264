"""What the user typed: a line becomes something to do."""

from __future__ import annotations

from dataclasses import dataclass

HELP = """\
/rooms            your chatrooms
/join ROOM        open one, by its name or its number in that list
/create NAME      make one, and open it
/invite USER      add someone to the open chatroom
/mute USER        they may not write there until you /unmute USER
/ban USER         remove someone, who cannot come back until you /unban USER
/send PATH WORDS  send a file, with words or without; "…" around a path with spaces
/save N PATH      save the file with this number, here or at a path
/who              its members, and who of them is online
/history          older messages
/help             this list
/quit             leave (Ctrl-D does, too)
Any other line is sent to the open chatroom; begin with // to send one that begins with /."""


@dataclass(frozen=True, slots=True)
class Say:
    """Send a message."""

    text: str


@dataclass(frozen=True, slots=True)
class Do:
    """A command, by its name without the slash. `argument` is empty for those that take none."""

    name: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A line that cannot be followed; `why` is for the user."""

    why: str


Typed = Say | Do | Wrong | None

ON_USERS = ("invite", "mute", "unmute", "ban", "unban")
WITH_ARGUMENT = {
    "join": "a room",
    "create": "a name",
    "send": "a path",
    "save": "the number of a file",
} | dict.fromkeys(ON_USERS, "a user name")
WITHOUT = frozenset({"rooms", "who", "history", "help", "quit"})


def parse(line: str) -> Typed:
    """What a line asks for; None for one with nothing in it."""
    text = line.strip()
    if not text:
        return None
    if not text.startswith("/") or text.startswith("//"):
        return Say(text.removeprefix("/"))
    name, _, argument = text[1:].partition(" ")
    return _command(name.lower(), argument.strip())


def _command(name: str, argument: str) -> Typed:
    if name in WITH_ARGUMENT:
        return Do(name, argument) if argument else Wrong(f"/{name} needs {WITH_ARGUMENT[name]}: /{name} …")
    if name in WITHOUT:
        return Wrong(f"/{name} stands alone") if argument else Do(name)
    return Wrong(f"there is no /{name}; /help lists what there is")


def first_word(text: str) -> tuple[str, str]:
    """The first word, or what stands between quotation marks, and the rest."""
    if text[:1] in ("'", '"') and text[0] in text[1:]:
        word, _, rest = text[1:].partition(text[0])
    else:
        word, _, rest = text.partition(" ")
    return word, rest.strip()


class Typist:
    """When to tell the others that the user types. Times are in seconds, of any steady clock."""

    AGAIN = 4.0
    """Seconds after which someone who goes on typing is told of again; receivers forget after a few seconds."""

    IDLE = 5.0
    """Seconds without a key after which the user has stopped."""

    def __init__(self) -> None:
        self._told: float | None = None
        self._last_key = 0.0

    def changed(self, text: str, now: float) -> bool | None:
        """The line is now this: whether to tell that the user types (True), has stopped (False), or nothing."""
        self._last_key = now
        if not text.strip() or (text.startswith("/") and not text.startswith("//")):
            return self.stopped()
        if self._told is not None and now - self._told < self.AGAIN:
            return None
        self._told = now
        return True

    def tick(self, now: float) -> bool | None:
        """Time has passed."""
        return self.stopped() if now - self._last_key >= self.IDLE else None

    def stopped(self) -> bool | None:
        """The line was sent, emptied or left: False if the others think otherwise."""
        if self._told is None:
            return None
        self._told = None
        return False
