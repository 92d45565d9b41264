"""What a file may be called: names that are safe wherever they are shown or kept, or a code."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.actions.files import NAME_BYTES, clean_name
from protocol.errors import ChatError

INVALID, LONG = "VALIDATION_INVALID_VALUE", "VALIDATION_LENGTH_EXCEEDED"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a.txt", "a.txt"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("C:\\Documents\\a.txt", "a.txt"),
        ("..\\..\\a.txt", "a.txt"),
        ("%2e%2e%2fa.txt", "%2e%2e%2fa.txt"),
        (" a.txt ", "a.txt"),
        ('"a".txt', '"a".txt'),
        ("a;b='c'.txt", "a;b='c'.txt"),
        (".hidden", ".hidden"),
        ("...", "..."),
        ("Zu\u0308rich.txt", "Z\u00fcrich.txt"),
        ("写真.png", "写真.png"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.txt",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.txt",
        ),
        ("\U0001f469\u200d\U0001f4bb.png", "\U0001f469\u200d\U0001f4bb.png"),
        ("x" * 255, "x" * 255),
        ("d/" * 1000 + "a", "a"),
    ],
)
def test_kept(name: str, kept: str) -> None:
    """The last step of a path, composed, as it is."""
    assert clean_name(name) == kept


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("", INVALID),
        (" ", INVALID),
        (".", INVALID),
        ("..", INVALID),
        ("a/", INVALID),
        ("a/..", INVALID),
        ("a\\", INVALID),
        ("a\0.txt", INVALID),
        ("\0/a.txt", INVALID),
        ("a\r\nSet-Cookie: b=c", INVALID),
        ("a\n", INVALID),
        ("a\x7f", INVALID),
        ("a\x85", INVALID),
        ("a\u202egpj.exe", INVALID),
        ("a\u2066b", INVALID),
        ("a\u200bb", INVALID),
        ("a\u2028b", INVALID),
        ("\ufeffa", INVALID),
        ("a\ud800", INVALID),
        ("\udc80a", INVALID),
        ("x" * 256, LONG),
        ("x" * 300, LONG),
        ("é" * 128, LONG),
    ],
)
def test_refused(name: str, code: str) -> None:
    """What no name has, and what is none, gets its code; the field is named."""
    with pytest.raises(ChatError) as refused:
        clean_name(name)
    assert (refused.value.code, refused.value.details["field"]) == (code, "filename")


@given(st.text(max_size=300))
def test_whatever_is_kept_is_safe(name: str) -> None:
    """Any name comes out harmless, and the same when it comes in again; or it is refused."""
    try:
        kept = clean_name(name)
    except ChatError:
        return
    assert clean_name(kept) == kept
    assert 0 < len(kept.encode()) <= NAME_BYTES
    assert kept not in (".", "..")
    assert not {"/", "\\"} & set(kept)
    assert all(unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp") for char in kept)
