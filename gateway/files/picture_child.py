"""The program that opens one picture and ends: decoders are written in C, and pictures come from anyone.

It gets a job (`previews` or `avatar`), the format and the most that it may take as arguments, the picture by standard
input, and answers by standard output, in MessagePack: what it has made, or the error code for which there is nothing.
It has no settings, no keys, no files and no network of ours, and it sees one picture.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

MEMORY = 512 * 1024 * 1024
"""Bytes of address space: the picture as it came, its pixels, and what decoders need besides."""

CPU_SECONDS = 10
DESCRIPTORS = 32
WALL_SECONDS = 120
"""Beyond the patience of who started it: nobody is there any more."""

NICE = 10


def confine() -> None:
    """Takes away what a picture needs not have, before anything looks at it."""
    limits = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: DESCRIPTORS,
        resource.RLIMIT_CORE: 0,
    }
    if sys.platform == "linux":
        limits[resource.RLIMIT_AS] = MEMORY  # of which macOS knows the name alone
        # Where the machine runs out of memory, this goes before what it works for (proc(5)).
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    os.nice(NICE)
    # A server that is told to stop finishes what it has taken; its end, and the limits, are this one's end as well.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.alarm(WALL_SECONDS)


if __name__ == "__main__":
    confine()

from io import BytesIO  # noqa: E402
from math import ceil  # noqa: E402
from typing import Any  # noqa: E402

import blurhash  # noqa: E402
import msgspec  # noqa: E402
from PIL import AvifImagePlugin, Image, UnidentifiedImageError  # noqa: E402
from PIL.Image import Resampling, Transpose  # noqa: E402

PIXELS = 50_000_000
FRAMES = 1_000
SMALL, LARGE, AVATAR = 320, 1_280, 256
"""Pixels of the longer side of what is made, and of an avatar's both."""

QUALITY = 80
"""Of WEBP, from 0 to 100."""

HASHED = 32
"""Pixels of the longer side of what a blurhash is made of; it has no room for more."""

BAND = 64
"""Rows that are made at once of a large picture."""

_ORIENTATION = 0x0112
"""The tag of EXIF (CIPA DC-008) that says how the camera was held."""

_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

_QUARTERS = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)
"""Those of them that change width and height."""

# Image.open() refuses what has more than twice as many; decoders are not asked before.
Image.MAX_IMAGE_PIXELS = PIXELS // 2
# Each thread has a stack, and address space is limited.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class TooLarge(Exception):
    """The picture would take more than there is."""


def answer(job: str, data: bytes, picture_format: str) -> dict[str, Any]:
    """What comes of a picture, or its refusal."""
    try:
        return (previews if job == "previews" else avatar)(data, picture_format)
    except (TooLarge, MemoryError, Image.DecompressionBombError):
        return {"refused": "IMAGE_TOO_LARGE"}
    # Pillow's decoders raise what their parsers trip over.
    except Exception as error:
        return {"refused": "IMAGE_TOO_LARGE" if _is_memory(error) else "IMAGE_INVALID", "reason": repr(error)[:200]}


def _is_memory(error: Exception) -> bool:
    """Whether a decoder in C ran out of memory, of which Pillow only has the words."""
    return "memory" in str(error).lower() and not isinstance(error, UnidentifiedImageError)


def previews(data: bytes, picture_format: str) -> dict[str, Any]:
    """Two pictures that are never larger than the original, its size as it is looked at, and a placeholder."""
    image = opened(data, picture_format)
    size = image.size
    scale = min(1.0, LARGE / max(size))
    load(image, ceil(size[0] * scale), ceil(size[1] * scale))
    turn = turn_of(image)
    large = turned(fitted(reduced(image, LARGE), LARGE), turn)
    small = fitted(large, SMALL)
    width, height = reversed(size) if turn in _QUARTERS else size
    return {
        "width": width,
        "height": height,
        "blurhash": placeholder(small),
        "small": encoded(small),
        "large": encoded(large),
    }


def avatar(data: bytes, picture_format: str) -> dict[str, Any]:
    """The square in the middle."""
    image = opened(data, picture_format)
    load(image, AVATAR, AVATAR)
    turn = turn_of(image)
    square = reduced(middle(image), AVATAR).resize((AVATAR, AVATAR), Resampling.LANCZOS)
    return {"picture": encoded(turned(square, turn))}


def opened(data: bytes, picture_format: str) -> Image.Image:
    """A picture whose pixels are still to be decoded."""
    image = Image.open(BytesIO(data), formats=[picture_format])
    if getattr(image, "n_frames", 1) > FRAMES:
        raise TooLarge
    return image


def load(image: Image.Image, width: int, height: int) -> None:
    """Decodes the first frame. JPEG does so at a half, a quarter or an eighth for less work, where that is enough."""
    image.draft("RGB", (width, height))
    image.load()


def turn_of(image: Image.Image) -> Transpose | None:
    """What brings the picture upright. What cannot be read turns nothing: the pixels are good all the same."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return None


def turned(image: Image.Image, turn: Transpose | None) -> Image.Image:
    """As it is looked at."""
    return image if turn is None else image.transpose(turn)


def middle(image: Image.Image) -> Image.Image:
    """The largest square in it."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def reduced(image: Image.Image, side: int) -> Image.Image:
    """In colours, and twice as large as it will be or less: by a whole factor, and in bands.

    A second copy of all its pixels, as most operations make it, might be one too many.
    """
    factor = max(1, max(image.size) // (2 * side))
    if factor == 1:
        return coloured(image)
    width, height = image.size
    bands = [
        coloured(image.crop((0, top, width, min(top + BAND * factor, height)))).reduce(factor)
        for top in range(0, height, BAND * factor)
    ]
    target = Image.new(bands[0].mode, (bands[0].width, sum(band.height for band in bands)))
    for number, band in enumerate(bands):
        target.paste(band, (0, number * BAND))
    return target


def coloured(image: Image.Image) -> Image.Image:
    """In RGB, with alpha where something can be seen through. Sixteen bits become eight."""
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
        image.info.pop("transparency", None)  # a value of sixteen bits
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return image if image.mode == mode else image.convert(mode)


def fitted(image: Image.Image, side: int) -> Image.Image:
    """A smaller one, unless it is small enough."""
    copy = image.copy()
    copy.thumbnail((side, side), Resampling.LANCZOS)
    return copy


def encoded(image: Image.Image) -> bytes:
    """As WEBP, with nothing in it but pixels: what else Pillow is to write it has to be given."""
    out = BytesIO()
    image.save(out, "WEBP", quality=QUALITY)
    return out.getvalue()


def placeholder(image: Image.Image) -> str:
    """A blurhash (github.com/woltapp/blurhash), on white."""
    tiny = fitted(image, HASHED).convert("RGBA")
    ground = Image.new("RGBA", tiny.size, "white")
    ground.alpha_composite(tiny)
    pixels = ground.convert("RGB").get_flattened_data()
    rows = [pixels[at : at + tiny.width] for at in range(0, len(pixels), tiny.width)]
    across, down = (4, 3) if tiny.width >= tiny.height else (3, 4)
    made: str = blurhash.encode(rows, components_x=across, components_y=down)
    return made


def main(job: str, picture_format: str) -> None:
    """One picture."""
    try:
        data = sys.stdin.buffer.read()
    except MemoryError:
        data = None
    result = {"refused": "IMAGE_TOO_LARGE"} if data is None else answer(job, data, picture_format)
    sys.stdout.buffer.write(msgspec.msgpack.encode(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
