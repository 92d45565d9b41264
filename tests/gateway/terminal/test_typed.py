from __future__ import annotations

import pytest

from gateway.terminal.typed import HELP, WITH_ARGUMENT, WITHOUT, Do, Say, Typed, Typist, Wrong, first_word, parse


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        ("", None),
        ("  \n", None),
        ("hello\n", Say("hello")),
        ("  hello  there ", Say("hello  there")),
        ("//join is a word", Say("/join is a word")),
        ("/quit", Do("quit")),
        ("/ROOMS\n", Do("rooms")),
        ("/join The Tea Room", Do("join", "The Tea Room")),
        ("/create   Tea  ", Do("create", "Tea")),
        ("/join", Wrong("/join needs a room: /join …")),
        ("/who is there", Wrong("/who stands alone")),
        ("/dance", Wrong("there is no /dance; /help lists what there is")),
        ("/", Wrong("there is no /; /help lists what there is")),
    ],
)
def test_parse(line: str, typed: Typed) -> None:
    """A line is a message, a command with what it needs, or wrong with a reason."""
    assert parse(line) == typed


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.txt", ("a.txt", "")),
        ("a.txt  look at  this ", ("a.txt", "look at  this")),
        ('"my plan.pdf" look', ("my plan.pdf", "look")),
        ("'my plan.pdf'", ("my plan.pdf", "")),
        ('"half a quote', ('"half', "a quote")),
        ("", ("", "")),
    ],
)
def test_first_word(text: str, parts: tuple[str, str]) -> None:
    """A path ends at a space, unless it stands in quotation marks."""
    assert first_word(text) == parts


def test_help_is_complete() -> None:
    """Every command is in the help."""
    assert all(f"/{name} " in HELP for name in {*WITH_ARGUMENT, *WITHOUT})


def test_typing_is_told_now_and_then() -> None:
    """The first key tells it; further keys tell it again only after a while, and sending ends it."""
    typist = Typist()
    assert [typist.changed("h" * n, now) for n, now in [(1, 0.0), (2, 1.0), (3, 3.9), (4, 4.0), (5, 5.0)]] == [
        True,
        None,
        None,
        True,
        None,
    ]
    assert typist.stopped() is False
    assert typist.stopped() is None


def test_typing_ends() -> None:
    """Who empties the line, or presses no key for a while, has stopped, once."""
    typist = Typist()
    assert typist.changed("h", 0.0) is True
    assert typist.changed("", 1.0) is False
    assert typist.changed("h", 2.0) is True
    assert [typist.tick(now) for now in (6.9, 7.0, 8.0)] == [None, False, None]


@pytest.mark.parametrize("text", ["/", "/join Tea", "  "])
def test_commands_are_not_typing(text: str) -> None:
    """What is not going to be a message is nobody's business."""
    assert Typist().changed(text, 0.0) is None
