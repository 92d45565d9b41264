"""Resume tokens name the node they were made on, and cannot be made up."""

from __future__ import annotations

from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from crypto.resume_tokens import ResumeTokens, home_of

NODE, SESSION = uuid4(), uuid4()
OLD, NEW = ("old", bytes(32)), ("new", bytes([1] * 32))


def test_home() -> None:
    """Any node with the same keys knows where a token was made, if it is for this session."""
    token = ResumeTokens(NODE, [OLD]).issue(SESSION)
    other = ResumeTokens(uuid4(), [OLD])
    assert other.home(token, SESSION) == home_of(token) == NODE
    assert other.home(token, uuid4()) is None


def test_no_two_alike() -> None:
    """A token is a secret of its own, not something that follows from the session."""
    tokens = ResumeTokens(NODE, [OLD])
    assert tokens.issue(SESSION) != tokens.issue(SESSION)


def test_rotation() -> None:
    """A token stays good while its key is there, and no longer."""
    tokens = ResumeTokens(NODE, [OLD])
    token = tokens.issue(SESSION)
    tokens.replace([NEW, OLD])
    assert tokens.home(token, SESSION) == NODE
    tokens.replace([NEW])
    assert tokens.home(token, SESSION) is None


def test_every_character() -> None:
    """A token with any character changed is nobody's."""
    tokens = ResumeTokens(NODE, [OLD])
    token = tokens.issue(SESSION)
    for at, character in enumerate(token):
        changed = token[:at] + ("A" if character != "A" else "B") + token[at + 1 :]
        assert tokens.home(changed, SESSION) is None, at


@given(st.text())
def test_rubbish(text: str) -> None:
    """Whatever a stranger sends is no token, and no failure either."""
    assert ResumeTokens(UUID(int=1), [OLD]).home(text, SESSION) is None
