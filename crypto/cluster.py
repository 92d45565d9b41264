"""What nodes say to each other through Redis: sealed, so that whoever reads Redis learns nothing.

The cluster key descends from a master key by HKDF-SHA256 (RFC 5869), so nodes
that share master keys understand each other without another secret.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crypto.sealing import KEY_BYTES, NONCE_BYTES, SealBroken, seal, unseal


class ClusterKeys:
    """Seals under the newest key; opens what was sealed under any, as while keys rotate from node to node.

    `master` is what MasterKeys takes: ids and keys, newest first.
    """

    def __init__(self, master: Sequence[tuple[str, bytes]]) -> None:
        self._keys = {name.encode(): derive(key, b"parley cluster") for name, key in master}
        self._current = master[0][0].encode()

    def seal(self, plaintext: bytes, bound: bytes) -> bytes:
        """The sealed bytes: a length and the key's id, a nonce, and the rest. `bound` has to be given to open them."""
        name = self._current
        nonce, sealed = seal(self._keys[name], plaintext, bound)
        return bytes((len(name),)) + name + nonce + sealed

    def open(self, data: bytes, bound: bytes) -> bytes:
        """What was sealed. Raises SealBroken, also for a key that is not here."""
        end = 1 + data[0] if data else 0
        key = self._keys.get(data[1:end])
        if key is None:
            raise SealBroken("sealed under a key that is not here")
        return unseal(key, data[end : end + NONCE_BYTES], data[end + NONCE_BYTES :], bound)


def derive(master_key: bytes, purpose: bytes) -> bytes:
    """A key of 32 bytes for one purpose."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(master_key)
