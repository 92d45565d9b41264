"""API keys and public keys of bots: what is taken, and everything that is not."""

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
ALICE = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
"""Alice's public key in RFC 7748, section 6.1, in base64."""


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


class TestPublicKeys:
    def test_round_trip(self) -> None:
        """A key of RFC 7748 is taken and shown as it came."""
        key = bot_keys.read_public_key(ALICE)
        assert key.hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
        assert bot_keys.write_public_key(key) == ALICE

    @pytest.mark.parametrize("text", ["", "!", ALICE[:-1], ALICE[:40], base64.b64encode(bytes(33)).decode(), "é" * 44])
    def test_no_key(self, text: str) -> None:
        """Anything else than 32 bytes in base64 is refused."""
        with pytest.raises(ValueError, match=r"base64|bytes"):
            bot_keys.read_public_key(text)

    @pytest.mark.parametrize(
        "point",
        [
            "00" * 32,
            "01" + "00" * 31,
            "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
            "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ],
    )
    def test_points_of_low_order(self, point: str) -> None:
        """A point with which every secret is zero proves nothing, and is refused (those of RFC 7748's curve)."""
        with pytest.raises(ValueError, match="low order"):
            bot_keys.read_public_key(base64.b64encode(bytes.fromhex(point)).decode())
