"""API keys of bots: what is taken, and everything that is not."""

from __future__ import annotations

import base64
import re
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto import bot_keys
from crypto.bot_keys import ApiKeyInvalid

BOT = uuid4()
KEY = bot_keys.new_api_key(BOT)


class TestApiKeys:
    @given(st.uuids())
    def test_form(self, bot_id: UUID) -> None:
        """A key is one word of 90 lower-case characters, safe in URLs, and names its bot."""
        key = bot_keys.new_api_key(bot_id).text
        assert re.fullmatch(r"ply_[a-z2-7]{26}_[a-z2-7]{58}", key)
        assert bot_keys.is_api_key(key)
        assert bot_keys.bot_of(key) == bot_id

    def test_every_key_is_new(self) -> None:
        """Two keys of one bot share nothing but its id."""
        assert len({bot_keys.new_api_key(BOT).text[31:47] for _ in range(100)}) == 100

    def test_what_is_kept(self) -> None:
        """The digest tells the key from every other, and does not contain it."""
        assert bot_keys.matches(KEY.text, KEY.digest)
        assert not bot_keys.matches(bot_keys.new_api_key(BOT).text, KEY.digest)
        assert not bot_keys.matches(KEY.text, None)
        assert len(KEY.digest) == 32

    @given(st.integers(4, len(KEY.text) - 1), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567_-A0é"))
    def test_one_wrong_character(self, place: int, character: str) -> None:
        """A mistyped key is refused without a look into the database, or at least is not the key."""
        wrong = KEY.text[:place] + character + KEY.text[place + 1 :]
        if wrong == KEY.text:
            return
        if place == len(KEY.text) - 1 or place == 29:  # its last bits mean nothing: base32 has room to spare
            assert not bot_keys.matches(wrong, KEY.digest)
            return
        with pytest.raises(ApiKeyInvalid):
            bot_keys.bot_of(wrong)

    @pytest.mark.parametrize(
        "text",
        ["ply_", KEY.text[:-1], KEY.text + "a", KEY.text.upper(), f" {KEY.text}", f"{KEY.text}\n", "ply_\ud800"],
        ids=["nothing", "short", "long", "upper", "space", "newline", "surrogate"],
    )
    def test_other_texts(self, text: str) -> None:
        """Only the whole key is one."""
        with pytest.raises(ApiKeyInvalid):
            bot_keys.bot_of(text)

    def test_no_access_token_looks_like_a_key(self) -> None:
        """The beginning of a JWT is that of a JSON object in base64."""
        assert not bot_keys.is_api_key(base64.urlsafe_b64encode(b'{"alg"').decode())
