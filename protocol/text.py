"""Text as it is kept and compared."""

from __future__ import annotations

import re
import unicodedata

from protocol.commands import Command
from protocol.errors import ChatError

MAX_NAME_KEY = 254
"""Characters in a folded user name or e-mail address: the length of an address (RFC 5321, with its erratum 1690).

Folding can make text eighteen times longer, and an index entry has to fit on a third of a database page.
"""

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt): what is drawn as nothing."""


def name_key(text: str) -> str:
    """The form in which names are the same name: Ann, ann and fullwidth ann (as Unicode's NFKC_Casefold)."""
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", folded))


def is_text(text: str) -> bool:
    """Whether the database can hold it: no NUL, no half of a surrogate pair."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))


def require_text(command: Command) -> None:
    """Raises ChatError VALIDATION_INVALID_FORMAT, naming the field, for a string that the database cannot hold."""
    for field in command.__struct_fields__:
        value = getattr(command, field)
        if isinstance(value, str) and not is_text(value):
            raise ChatError("VALIDATION_INVALID_FORMAT", "Expected text without NUL", details={"field": field})


def require_name(field: str, text: str) -> None:
    """Raises ChatError VALIDATION_INVALID_FORMAT for a name that looks like another or like an address.

    Invisible characters would make two names look alike, and a fullwidth @ would
    fold a user name into someone's e-mail address.
    """
    key = name_key(text)
    visible = text.isprintable() and key and " " not in key
    if not visible or len(key) > MAX_NAME_KEY or key.count("@") != (field == "email"):
        message = "Expected visible characters without spaces, and an @ in e-mail addresses only"
        raise ChatError("VALIDATION_INVALID_FORMAT", message, details={"field": field})
