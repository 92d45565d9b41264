from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.terminal.text import CONTINUED, lines, plain

ANYTHING = st.lists(
    (st.integers(0, 0x10FFFF) | st.integers(0, 0x9F) | st.integers(0x2000, 0x206F)).map(chr), max_size=60
).map("".join)
"""Every code point there is, halves of surrogate pairs included, and often those that do something."""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hello", "hello"),
        ("Grüße, 日本, עברית, 👩‍👩‍👧 ❤️", "Grüße, 日本, עברית, 👩‍👩‍👧 ❤️"),
        ("می‌خواهم", "می‌خواهم"),
        ("\x1b[2J\x1b]0;owned\x07", "␛[2J␛]0;owned␇"),
        ("\x9b2J\x90q\x9d0;t\x9c", "\ufffd2J\ufffdq\ufffd0;t\ufffd"),
        ("a\x08\x7fb", "a␈␡b"),
        ("a\tb", "a b"),
        ("safe\u202eexe.txt", "safe\ufffdexe.txt"),
        ("\u2066\u2067\u2068\u2069\u200e\u200f\u061c", "\ufffd" * 7),
        ("a\u200bd\U000e0041m\u00adin", "a\ufffdd\ufffdm\ufffdin"),
        ("half \ud83d", "half \ufffd"),
        ("one\r\ntwo\nthree\u2028four", "one two three four"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    """Text stays as it is; what a terminal would act on has a stand-in that can be seen."""
    assert plain(text) == shown


@given(ANYTHING)
def test_nothing_acts(text: str) -> None:
    """No text makes a line that holds a control character, turns the direction, or cannot be encoded."""
    for line in [plain(text), *lines(text)]:
        line.encode()
        assert line.splitlines() in ([line], [])
        assert not [char for char in line if unicodedata.category(char) in ("Cc", "Zl", "Zp", "Cs")]
        assert not re.search("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", line)


@given(ANYTHING)
def test_only_the_first_line_is_bare(text: str) -> None:
    """Every further line of a message is marked as its continuation."""
    _, *others = lines(text)
    assert all(line.startswith(CONTINUED) for line in others)
