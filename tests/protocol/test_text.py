import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.commands import Login, Refresh, UpdateAccount
from protocol.errors import ChatError
from protocol.text import is_text, name_key, require_name, require_text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann", "aNN"),
        ("Straße", "STRASSE"),
        ("Ａｎｎ", "ann"),
        ("e\u0301va", "\u00c9VA"),
        ("\u017ftar", "star"),
        ("\U0001d400nn", "ann"),
        ("an\ufe0fn", "ann"),
    ],
)
def test_names_that_differ_in_case_or_width_are_one_name(one: str, other: str) -> None:
    """Case, width, composition, letter forms and signs drawn as nothing make no other name."""
    assert name_key(one) == name_key(other)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50))
def test_a_folded_name_stays_as_it_is(text: str) -> None:
    """Folding twice is folding once, so a key can be looked up by a key."""
    assert name_key(name_key(text)) == name_key(text)


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("\0\ud800\udfff"))))
def test_text_is_what_utf_8_holds_without_nul(text: str) -> None:
    """Exactly the strings that PostgreSQL can keep are text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        assert not is_text(text)
    else:
        assert is_text(text) == ("\0" not in text)


@pytest.mark.parametrize("bad", ["nul\0", "half\ud83d"])
def test_a_string_that_cannot_be_kept_is_refused_by_its_field(bad: str) -> None:
    """NUL and half a surrogate pair are a typed error that names the field, never a failure of the database."""
    with pytest.raises(ChatError) as refused:
        require_text(Login(username=bad, password="password"))
    assert (refused.value.code, refused.value.details) == ("VALIDATION_INVALID_FORMAT", {"field": "username"})


def test_what_is_no_string_is_left_alone() -> None:
    """Unset and null fields, and good strings of any script, pass."""
    require_text(UpdateAccount(avatar_url=None))
    require_text(Refresh(refresh_token="\U0001f511 ключ"))


@pytest.mark.parametrize(
    "name", ["ann", "Ann-Marie_9", "анна", "李小龍", "Ａｎｎ", "ann.o'neil+x", "\U0001f600\U0001f600\U0001f600"]
)
def test_a_name_may_be_of_any_script(name: str) -> None:
    """Visible characters without spaces are a name."""
    require_name("username", name)


BAD_NAMES = {
    "newline at the end": "ann\n",
    "zero width": "an\u200bn",
    "direction": "ann\u202e",
    "no-break space": "an\u00a0n",
    "space after folding": "\ufdfa",
    "address": "ann@example.org",
    "fullwidth address": "ann\uff20example.org",
    "small at": "ann\ufe6bexample.org",
    "tab": "an\tn",
    "nul": "an\0n",
    "surrogate": "an\ud800n",
    "private use": "an\ue000n",
    "nothing but fillers": "\u3164\u3164\u3164",
    "long after folding": "\u3316" * 50,
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
def test_a_name_that_looks_like_another_or_like_an_address_is_refused(name: str) -> None:
    """Nobody can take a user name that reads as someone else's, or folds into their e-mail address."""
    with pytest.raises(ChatError) as refused:
        require_name("username", name)
    assert (refused.value.code, refused.value.details) == ("VALIDATION_INVALID_FORMAT", {"field": "username"})


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("Ann@example.org", True),
        ("анна@пример.рф", True),
        ("ann@example.org\n", False),
        ("ann@ex\uff20ample.org", False),
        ("ann", False),
        ("\u3316" * 100 + "@example.org", False),
    ],
)
def test_an_address_has_one_at_and_nothing_invisible(address: str, good: bool) -> None:
    """An e-mail address is held to the same rule, with its one @."""
    if good:
        require_name("email", address)
        return
    with pytest.raises(ChatError):
        require_name("email", address)
