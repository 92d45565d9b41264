"""MessagePack as a client might write it, text that is no Unicode included."""

from __future__ import annotations

import struct
from typing import Any


def pack(value: Any) -> bytes:
    """A value of JSON in MessagePack: https://github.com/msgpack/msgpack/blob/master/spec.md."""
    match value:
        case None | bool():
            return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case int():
            return b"\xd3" + struct.pack(">q", value) if value < 2**63 else b"\xcf" + struct.pack(">Q", value)
        case dict():
            pairs = b"".join(pack(key) + pack(item) for key, item in value.items())
            return b"\xdf" + struct.pack(">I", len(value)) + pairs
        case list() | tuple():
            return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
    data = str(value).encode("utf-8", "surrogatepass")
    return b"\xdb" + struct.pack(">I", len(data)) + data
