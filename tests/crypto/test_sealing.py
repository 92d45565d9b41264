"""Sealing: the public vector, and that nothing but the right key, place and bytes opens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.sealing import MasterKeyMissing, MasterKeys, SealBroken, new_key, seal, seal_with, unseal

KEY = bytes(range(32))


class TestVector:
    """draft-irtf-cfrg-xchacha-03, A.3.1."""

    plaintext = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    ad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    key = bytes(range(0x80, 0xA0))
    nonce = bytes(range(0x40, 0x58))
    sealed = bytes.fromhex(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )

    def test_sealing_gives_the_published_bytes(self) -> None:
        """Our sealing is AEAD_XChaCha20_Poly1305."""
        assert seal_with(self.key, self.nonce, self.plaintext, self.ad) == self.sealed

    def test_the_published_bytes_open(self) -> None:
        """Our unsealing takes what another implementation made."""
        assert unseal(self.key, self.nonce, self.sealed, self.ad) == self.plaintext


@given(plaintext=st.binary(max_size=200), ad=st.binary(max_size=50))
def test_what_was_sealed_opens(plaintext: bytes, ad: bytes) -> None:
    """Any bytes come back, the nonce has 24 bytes and the tag adds 16."""
    nonce, sealed = seal(KEY, plaintext, ad)
    assert (len(nonce), len(sealed)) == (24, len(plaintext) + 16)
    assert unseal(KEY, nonce, sealed, ad) == plaintext


@given(data=st.data(), plaintext=st.binary(max_size=64), ad=st.binary(min_size=1, max_size=32))
def test_any_flipped_bit_keeps_it_shut(data: st.DataObject, plaintext: bytes, ad: bytes) -> None:
    """One changed bit in key, nonce, sealed bytes or associated data, and it does not open."""
    nonce, sealed = seal(KEY, plaintext, ad)
    parts = [KEY, nonce, sealed, ad]
    which = data.draw(st.integers(0, 3))
    bit = data.draw(st.integers(0, len(parts[which]) * 8 - 1))
    changed = bytearray(parts[which])
    changed[bit // 8] ^= 1 << bit % 8
    parts[which] = bytes(changed)
    with pytest.raises(SealBroken):
        unseal(*parts)


@given(cut=st.integers(0, 26))
def test_a_cut_piece_does_not_open(cut: int) -> None:
    """Sealed bytes that end early, even inside the tag, do not open."""
    nonce, sealed = seal(KEY, b"eleven byte", b"")
    with pytest.raises(SealBroken):
        unseal(KEY, nonce, sealed[:cut], b"")


@given(nonce=st.binary(max_size=40))
def test_a_nonce_of_any_length_is_an_answer(nonce: bytes) -> None:
    """A damaged nonce is a broken seal, never another error."""
    _, sealed = seal(KEY, b"text", b"")
    with pytest.raises(SealBroken):
        unseal(KEY, nonce, sealed, b"")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_what_is_no_key_is_refused(size: int) -> None:
    """Keys have 32 bytes; of another length nothing is read, and nothing is sealed or opened."""
    nonce, sealed = seal(KEY, b"text", b"")
    with pytest.raises(ValueError, match="32 bytes"):
        unseal(bytes(size), nonce, sealed, b"")
    with pytest.raises(ValueError, match="32 bytes"):
        seal(bytes(size), b"text", b"")


def test_what_is_no_nonce_is_refused() -> None:
    """Nothing is sealed under a nonce that is too short or too long."""
    for size in (0, 23, 25):
        with pytest.raises(ValueError, match="24 bytes"):
            seal_with(KEY, bytes(size), b"text", b"")


def test_nonces_do_not_repeat() -> None:
    """Each sealing draws a nonce of its own."""
    assert len({seal(KEY, b"text", b"")[0] for _ in range(1000)}) == 1000


class TestMasterKeys:
    """Master keys wrap data keys."""

    def test_the_newest_key_wraps_and_every_key_unwraps(self) -> None:
        """After a rotation old data keys open, and new ones name the new master key."""
        old, new = ("old", new_key()), ("new", new_key())
        data_key = new_key()
        before = MasterKeys([old]).wrap(data_key, b"room 1")
        rotated = MasterKeys([new, old])
        after = rotated.wrap(data_key, b"room 1")
        assert (before[0], after[0], rotated.current) == ("old", "new", "new")
        assert rotated.unwrap(*before, b"room 1") == rotated.unwrap(*after, b"room 1") == data_key

    def test_a_missing_master_key_is_named(self) -> None:
        """Without the key that wrapped it, a data key is refused by that key's name; no other key is tried."""
        name, wrapped = MasterKeys([("gone", KEY)]).wrap(new_key(), b"")
        with pytest.raises(MasterKeyMissing, match="gone") as missing:
            MasterKeys([("here", KEY)]).unwrap(name, wrapped, b"")
        assert missing.value.master_key_id == "gone"

    def test_a_wrapped_key_belongs_to_its_place(self) -> None:
        """A wrapped key moved to another room does not open."""
        keys = MasterKeys([("one", KEY)])
        name, wrapped = keys.wrap(new_key(), b"room 1")
        with pytest.raises(SealBroken):
            keys.unwrap(name, wrapped, b"room 2")

    @given(wrapped=st.binary(max_size=100))
    def test_rubbish_does_not_unwrap(self, wrapped: bytes) -> None:
        """Bytes that are no wrapped key are a broken seal."""
        with pytest.raises(SealBroken):
            MasterKeys([("one", KEY)]).unwrap("one", wrapped, b"")

    @pytest.mark.parametrize("keys", [[], [("a", b"short")], [("a", KEY), ("a", new_key())]])
    def test_unusable_keys_are_refused(self, keys: list[tuple[str, bytes]]) -> None:
        """No key, a key of the wrong length, two keys of one name: none of them is taken."""
        with pytest.raises(ValueError, match="master key"):
            MasterKeys(keys)
