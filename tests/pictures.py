"""Pictures for tests: good ones, and those that somebody made to do harm. None is larger than it has to be."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def drawn(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Red above and left, blue elsewhere: so one sees which way is up."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height // 2))
    return image.convert(mode)


def saved(image: Image.Image, picture_format: str, **options: object) -> bytes:
    """A picture as a file."""
    out = BytesIO()
    image.save(out, picture_format, **options)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    """A file as a picture."""
    image = Image.open(BytesIO(data))
    image.load()
    return image


# --- PNG by hand -----------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG (RFC 2083, 3.2)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *between: bytes, rows: bytes | None = None) -> bytes:
    """A PNG in shades of grey, one bit each; `between` are chunks before the pixels, which are `rows`."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zeros((1 + -(-width // 8)) * height) if rows is None else rows
    return SIGNATURE + head + b"".join(between) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """So many zero bytes, deflated piece by piece."""
    deflate = zlib.compressobj(9)
    piece = bytes(1 << 20)
    parts = [deflate.compress(piece[: min(len(piece), count - at)]) for at in range(0, count, len(piece))]
    return b"".join(parts) + deflate.flush()


def text_bomb(kind: bytes) -> bytes:
    """A tiny PNG with a text of 100 MB in a chunk of 100 kB: `zTXt`, `iTXt`, or a colour profile, `iCCP`."""
    head = {b"zTXt": b"Comment\0\0", b"iTXt": b"Comment\0\1\0\0\0", b"iCCP": b"Profile\0\0"}[kind]
    return png(8, 8, chunk(kind, head + zeros(100_000_000)))


# --- others ----------------------------------------------------------------------------------


def gif(frames: int) -> bytes:
    """A GIF of so many frames, each a copy of the same 30 bytes or so."""
    one = saved(drawn(8, 8, "P"), "GIF")
    start = one.index(b",\0\0\0\0", 13)
    return one[:start] + one[start:-1] * frames + b";"


def animated(picture_format: str, frames: int = 3) -> bytes:
    """A few frames, the first of which is like `drawn`, in a format that moves."""
    rest = [Image.new("RGB", (64, 48), colour) for colour in ("green", "yellow", "white", "black")[: frames - 1]]
    return saved(drawn(64, 48), picture_format, save_all=True, append_images=rest, duration=100)


def fits() -> bytes:
    """A FITS picture (NASA's format, 4.0) of 10 by 10."""
    cards = "SIMPLE  =                    T|BITPIX  =                    8|NAXIS   =                    2"
    cards += "|NAXIS1  =                   10|NAXIS2  =                   10|END"
    return "".join(card.ljust(80) for card in cards.split("|")).ljust(2_880).encode() + bytes(2_880)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/etc/passwd) (r) file showpage\n%%EOF\n"

SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'

SCRIPT = b"<script>alert(document.domain)</script>"


def polyglot() -> bytes:
    """A GIF that is a page with a script to who believes its name."""
    one = saved(drawn(40, 30, "P"), "GIF")
    comment = b"!\xfe" + bytes([len(SCRIPT)]) + SCRIPT + b"\0"
    start = one.index(b",\0\0\0\0", 13)
    return one[:start] + comment + one[start:]


def held_sideways() -> bytes:
    """A JPEG of a camera that was held sideways (EXIF's orientation 6), and knew where it was."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "planted description"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)})
    return saved(drawn(800, 600), "JPEG", exif=exif, quality=95)
