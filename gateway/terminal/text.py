"""What others wrote, made safe to print: it is text for the reader, never commands for the terminal."""

from __future__ import annotations

import re

NEWLINES = re.compile("\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""What str.splitlines, or a terminal, takes for the end of a line."""

BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Characters that turn the direction of text (Unicode Annex 9, 2): one left open would turn what follows, too."""

JOINERS = "\u200c\u200d"
"""Zero-width joiners, without which Persian, Hindi and many emoji are written wrong."""

_DANGEROUS = re.compile(
    f"[\x00-\x1f\x7f-\x9f{BIDI}\u00ad\u180e\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""Control characters of both sets (ECMA-48, 5), bidi controls, what is invisible, and halves of surrogate pairs."""

CONTINUED = "      | "
"""Stands before the further lines of a message, so that none of them can pass for a line of the terminal client."""


def plain(text: str) -> str:
    """Text on one line, with a visible stand-in for each character that a terminal would act on."""
    return _DANGEROUS.sub(_stand_in, NEWLINES.sub(" ", text))


def lines(text: str) -> list[str]:
    """The lines of a message, each safe to print; the first as it is, the others marked as its continuation."""
    first, *others = [plain(line) for line in NEWLINES.split(text)]
    return [first, *(CONTINUED + line for line in others)]


def _stand_in(match: re.Match[str]) -> str:
    char = match[0]
    if char == "\t":
        return " "
    if char < " ":
        return chr(0x2400 + ord(char))  # Unicode's control pictures: ESC is seen as ␛
    return "\u2421" if char == "\x7f" else "\ufffd"
