"""Content-Disposition: one line of ASCII, whatever a file is called (RFC 6266, RFC 8187)."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rest.disposition import content_disposition


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.txt", 'attachment; filename="a.txt"'),
        ("a b=c'.txt", 'attachment; filename="a b=c\'.txt"'),
        ("a;b.txt", "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%3Bb.txt"),
        ('a"b.txt', "attachment; filename=\"a_b.txt\"; filename*=UTF-8''a%22b.txt"),
        ("a%41.txt", "attachment; filename=\"a_41.txt\"; filename*=UTF-8''a%2541.txt"),
        ("Zürich.txt", "attachment; filename=\"Zurich.txt\"; filename*=UTF-8''Z%C3%BCrich.txt"),
        ("写真.txt", "attachment; filename=\"__.txt\"; filename*=UTF-8''%E5%86%99%E7%9C%9F.txt"),
        ("a\r\nb: c", "attachment; filename=\"a__b: c\"; filename*=UTF-8''a%0D%0Ab%3A%20c"),
    ],
)
def test_names(name: str, header: str) -> None:
    """A name for those who know only ASCII, and the name as it is beside it where that is another."""
    assert content_disposition(name, "text/plain") == header


@pytest.mark.parametrize(
    ("file_type", "how"),
    [
        ("image/png", "inline"),
        ("video/mp4", "inline"),
        ("audio/mpeg", "inline"),
        ("image/svg+xml", "attachment"),
        ("text/html", "attachment"),
        ("text/xml", "attachment"),
        ("text/plain", "attachment"),
        ("application/pdf", "attachment"),
        ("application/xhtml+xml", "attachment"),
        ("application/javascript", "attachment"),
        ("application/octet-stream", "attachment"),
    ],
)
def test_types(file_type: str, how: str) -> None:
    """Shown is only what no browser runs."""
    assert content_disposition("a", file_type).partition(";")[0] == how


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_any_name(name: str) -> None:
    """Any name comes out again, and makes no second header."""
    header = content_disposition(name, "text/plain")
    parts = re.fullmatch(r"""attachment; filename="([ !#-:<-~]*)"(?:; filename\*=UTF-8''([!#-~]+))?""", header)
    assert parts is not None
    assert (parts[1] if parts[2] is None else unquote(parts[2], errors="strict")) == name
