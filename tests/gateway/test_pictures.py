"""Pictures: what is made of good ones, and what becomes of those that were made to do harm.

The process is the real one, except where it is to fail.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import blurhash
import msgspec
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from gateway.files import pictures
from gateway.files.picture_child import CPU_SECONDS, MEMORY, PIXELS
from gateway.files.pictures import Pictures, Previews
from protocol.errors import ChatError
from tests.pictures import (
    EPS,
    SCRIPT,
    SVG,
    animated,
    drawn,
    fits,
    gif,
    held_sideways,
    opened,
    png,
    polyglot,
    saved,
    text_bomb,
    zeros,
)

PATIENCE = 60
"""Seconds for what a busy machine may take its time with."""


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    """A file as it is read."""
    for at in range(0, len(data), 65_536):
        yield data[at : at + 65_536]


async def previews(data: bytes, file_type: str) -> Previews:
    """What is made of a picture."""
    return await Pictures().previews(pieces(data), file_type)


async def avatar(data: bytes, file_type: str) -> Image.Image:
    """What a picture is as an avatar."""
    return opened(await Pictures().avatar(pieces(data), file_type))


async def refusal(data: bytes, file_type: str, made: Pictures | None = None) -> str:
    """The code with which a picture is refused, whatever is to be made of it."""
    with pytest.raises(ChatError) as raised:
        await (made or Pictures()).previews(pieces(data), file_type)
    return raised.value.code


def colour(image: Image.Image, x: float, y: float) -> str:
    """What is seen at a place, in parts of width and height."""
    shown = image.convert("RGB").getpixel((int(image.width * x), int(image.height * y)))
    assert isinstance(shown, tuple)
    red, _, blue = shown
    return "red" if red > 150 > 100 > blue else "blue" if blue > 150 > 100 > red else str(shown)


def corners(image: Image.Image) -> list[str]:
    """Upper left, upper right, lower left, lower right."""
    return [colour(image, x, y) for y in (0.25, 0.75) for x in (0.25, 0.75)]


# --- good ones -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("picture_format", "mode"),
    [
        ("PNG", "RGB"),
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("GIF", "P"),
        ("WEBP", "RGB"),
        ("AVIF", "RGB"),
    ],
)
async def test_two_smaller_ones(picture_format: str, mode: str) -> None:
    """A picture gets two that are smaller, its size, and a placeholder of about its colours."""
    data = saved(drawn(1_600, 1_200, mode), picture_format, quality=95)
    made = await previews(data, f"image/{picture_format.lower()}")
    small, large = opened(made.small), opened(made.large)
    assert (made.width, made.height, small.size, large.size) == (1_600, 1_200, (320, 240), (1_280, 960))
    assert corners(small) == corners(large) == ["red", "blue", "blue", "blue"]
    assert (small.format, large.format) == ("WEBP", "WEBP")
    assert blurhash.components(made.blurhash) == (4, 3)
    (left, *_, right), *_ = blurhash.decode(made.blurhash, 20, 20)
    assert left[0] > left[2]
    assert right[2] > right[0]


@pytest.mark.parametrize("size", [(1, 1), (30, 20), (1, 3_000), (3_000, 1)])
async def test_never_larger(size: tuple[int, int]) -> None:
    """Small and narrow pictures stay what they are, and lose no side."""
    made = await previews(saved(Image.new("RGB", size, "red"), "PNG"), "image/png")
    large = opened(made.large)
    assert (made.width, made.height) == size
    assert (max(large.size), min(large.size)) == (min(1_280, max(size)), min(size))
    assert max(opened(made.small).size) == min(320, max(size))


async def test_nothing_but_pixels() -> None:
    """A picture of a camera that was held sideways stands upright, and says neither where it was taken nor by what."""
    data = held_sideways()
    assert b"planted" in data
    made = await previews(data, "image/jpeg")
    face = await avatar(data, "image/jpeg")
    assert (made.width, made.height) == (600, 800)
    for image in (opened(made.small), opened(made.large), face):
        assert corners(image) == ["blue", "red", "blue", "blue"]
        assert (dict(image.getexif()), set(image.info) & {"exif", "icc_profile", "xmp", "comment"}) == ({}, set())
    assert b"planted" not in made.small + made.large


async def test_profiles_go() -> None:
    """Neither a colour profile nor texts are taken along."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "planted author")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = await previews(saved(drawn(64, 48), "PNG", pnginfo=text, icc_profile=profile), "image/png")
    assert {"icc_profile", "Author", "xmp"} & set(opened(made.large).info) == set()


async def test_what_can_be_seen_through() -> None:
    """Transparency stays, from a palette too; sixteen bits become eight."""
    palette = drawn(64, 48, "P")
    blue = palette.getpixel((60, 40))
    made = await previews(saved(palette, "PNG", transparency=blue), "image/png")
    large = opened(made.large)
    assert large.mode == "RGBA"
    assert [large.getpixel(at)[3] for at in ((5, 5), (60, 40))] == [255, 0]  # type: ignore[index]
    deep = Image.new("I;16", (64, 48), 40_000)
    grey = opened((await previews(saved(deep, "PNG"), "image/png")).large).getpixel((30, 20))
    assert isinstance(grey, tuple)
    assert all(abs(value - 40_000 // 256) < 4 for value in grey)


@pytest.mark.parametrize("picture_format", ["GIF", "WEBP", "PNG", "AVIF"])
async def test_what_moves_stands_still(picture_format: str) -> None:
    """Of an animation, the first frame is shown."""
    made = await previews(animated(picture_format), f"image/{picture_format.lower()}")
    for image in (opened(made.small), opened(made.large)):
        assert getattr(image, "n_frames", 1) == 1
        assert corners(image) == ["red", "blue", "blue", "blue"]


@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "GIF", "WEBP"])
async def test_avatars_are_square(picture_format: str) -> None:
    """An avatar is the square in the middle, at 256 pixels, whatever it was."""
    wide = Image.new("RGB", (900, 300), "blue")
    wide.paste("red", (300, 0, 600, 300))
    face = await avatar(saved(wide, picture_format), f"image/{picture_format.lower()}")
    assert (face.size, face.format) == ((256, 256), "WEBP")
    assert {colour(face, x, y) for x in (0.05, 0.5, 0.95) for y in (0.05, 0.95)} == {"red"}
    assert (await avatar(saved(drawn(3, 2), picture_format), f"image/{picture_format.lower()}")).size == (256, 256)


async def test_fifty_megapixels() -> None:
    """As many pixels as there may be are opened, within the memory there is."""
    side = int(PIXELS**0.5)
    made = await previews(png(side, side), "image/png")
    assert (made.width, opened(made.large).size) == (side, (1_280, 1_280))


# --- bad ones --------------------------------------------------------------------------------


BAD: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "pixels": ("IMAGE_TOO_LARGE", "image/png", lambda: png(20_000, 20_000)),
    "sides": ("IMAGE_TOO_LARGE", "image/png", lambda: png(2**31 - 1, 2**31 - 1, rows=zeros(10))),
    "frames": ("IMAGE_TOO_LARGE", "image/gif", lambda: gif(10_000)),
    "zTXt": ("IMAGE_INVALID", "image/png", lambda: text_bomb(b"zTXt")),
    "iTXt": ("IMAGE_INVALID", "image/png", lambda: text_bomb(b"iTXt")),
    "iCCP": ("IMAGE_INVALID", "image/png", lambda: text_bomb(b"iCCP")),
    "no pixels": ("IMAGE_INVALID", "image/png", lambda: png(0, 8)),
    "too few rows": ("IMAGE_INVALID", "image/png", lambda: png(80, 80, rows=zeros(5))),
    "empty": ("IMAGE_INVALID", "image/png", lambda: b""),
    "cut JPEG": ("IMAGE_INVALID", "image/jpeg", lambda: saved(drawn(400, 300), "JPEG")[:1_500]),
    "cut WEBP": ("IMAGE_INVALID", "image/webp", lambda: saved(drawn(400, 300), "WEBP")[:300]),
    "FITS as PNG": ("IMAGE_INVALID", "image/png", fits),
    "EPS as JPEG": ("IMAGE_INVALID", "image/jpeg", lambda: EPS),
    "FITS": ("FILE_TYPE_NOT_ALLOWED", "image/fits", fits),
    "EPS": ("FILE_TYPE_NOT_ALLOWED", "application/postscript", lambda: EPS),
    "SVG": ("FILE_TYPE_NOT_ALLOWED", "image/svg+xml", lambda: SVG),
    "TIFF": ("FILE_TYPE_NOT_ALLOWED", "image/tiff", lambda: saved(drawn(40, 30), "TIFF")),
}


@pytest.mark.parametrize("name", BAD)
async def test_refused(name: str) -> None:
    """Pictures that were made to do harm, and those that are none, have their codes."""
    code, file_type, made = BAD[name]
    data = made()
    assert len(data) < 1_000_000
    assert await refusal(data, file_type) == code


async def test_more_rows_than_pixels() -> None:
    """Of rows that unpack to a million times the picture, only the picture is taken."""
    assert (await previews(png(8, 8, rows=zeros(100_000_000)), "image/png")).width == 8


async def test_a_script_in_a_picture() -> None:
    """What else a file may be to others, its pictures are pictures only."""
    data = polyglot()
    assert SCRIPT in data
    made = await previews(data, "image/gif")
    assert SCRIPT not in made.small + made.large


async def test_memory_is_bounded() -> None:
    """A picture without too many pixels that needs more memory than there is, is refused, and we grow by nothing."""
    data = saved(Image.new("RGB", (7_000, 7_000), "red"), "WEBP", method=0)
    before = psutil.Process().memory_info().rss
    assert await refusal(data, "image/webp") == "IMAGE_TOO_LARGE"
    assert psutil.Process().memory_info().rss - before < 32 * 1024 * 1024


# --- processes that fail ---------------------------------------------------------------------


def program(code: str, deadline: float = PATIENCE) -> Pictures:
    """Pictures that are opened by this code."""
    return Pictures((sys.executable, "-c", code), deadline)


@pytest.mark.parametrize(
    ("expected", "code"),
    [
        ("IMAGE_INVALID", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"),
        ("IMAGE_TOO_LARGE", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        ("IMAGE_TOO_LARGE", "import resource as r; r.setrlimit(r.RLIMIT_CPU, (1, 1))\nwhile True: pass"),
        ("IMAGE_TOO_LARGE", "import sys; sys.stdin.buffer.read()\nwhile True: sys.stdout.write('x' * 65536)"),
        ("IMAGE_INVALID", "import sys; sys.stdin.read(); print('what?')"),
        ("IMAGE_INVALID", "pass"),
        ("SERVICE_UNAVAILABLE", "import sys; sys.stdin.buffer.read(); sys.exit(1)"),
    ],
    ids=["crash", "killed", "processor-time", "endless", "nonsense", "silent", "broken"],
)
async def test_a_process_that_fails(expected: str, code: str) -> None:
    """However the process ends, there is a code, and the next picture is opened."""
    assert await refusal(saved(drawn(2_000, 1_500), "PNG", compress_level=0), "image/png", program(code)) == expected


async def test_a_process_that_hangs() -> None:
    """A process that never answers is ended at the deadline, and one that does not even read as well."""
    code = "import time; time.sleep(600)"
    made = program(code, deadline=0.5)
    assert await refusal(saved(drawn(2_000, 1_500), "PNG", compress_level=0), "image/png", made) == "IMAGE_TOO_LARGE"
    assert await refusal(b"", "image/png", made) == "IMAGE_TOO_LARGE"
    assert _children(code) == []


async def test_an_upload_that_breaks_off() -> None:
    """A file that cannot be read leaves no process behind, and what was wrong with it is what is told."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"\x89PNG"
        raise ChatError("FILE_DAMAGED")

    made = program(code := "import sys; sys.stdin.read(); sys.stdin.read()  # broken off")
    with pytest.raises(ChatError) as raised:
        await made.previews(broken(), "image/png")
    assert (raised.value.code, _children(code)) == ("FILE_DAMAGED", [])


async def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are opened at once, others wait, and beyond a number, or too long, they are sent away."""
    monkeypatch.setattr(pictures, "WAITING", 3)
    monkeypatch.setattr(pictures, "PATIENCE", 1.0)
    code = "import time; time.sleep(600)  # turns"
    made = program(code)
    opening = [asyncio.create_task(refusal(b"", "image/png", made)) for _ in range(2)]
    await _until(lambda: len(_children(code)) == 2)
    waiting = [asyncio.create_task(refusal(b"", "image/png", made)) for _ in range(3)]
    await asyncio.sleep(0)
    assert await refusal(b"", "image/png", made) == "SERVICE_UNAVAILABLE"
    assert not any(task.done() for task in waiting)
    assert await asyncio.gather(*waiting) == ["SERVICE_UNAVAILABLE"] * 3
    assert len(_children(code)) == 2
    for task in opening:
        task.cancel()
    await asyncio.gather(*opening, return_exceptions=True)
    assert _children(code) == []


async def test_alone_with_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process has none of our settings, in which keys may be, and limits that nobody can raise."""
    monkeypatch.setenv("PARLEY_MASTER_KEYS", "planted-key")
    code = """
import os, resource, sys, msgspec
from gateway.files.picture_child import confine
confine()
limits = {name: resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE")}
open_files = os.listdir("/proc/self/fd")
score = open("/proc/self/oom_score_adj").read()
told = {"limits": limits, "nice": os.nice(0), "environment": dict(os.environ), "open": len(open_files), "score": score}
sys.stdout.buffer.write(msgspec.msgpack.encode({"picture": msgspec.json.encode(told)}))
"""
    told: Any = msgspec.json.decode(await program(code).avatar(pieces(b""), "image/png"))
    assert told["limits"] == {"RLIMIT_AS": [MEMORY] * 2, "RLIMIT_CPU": [CPU_SECONDS] * 2, "RLIMIT_FSIZE": [0, 0]}
    assert told["score"] == "1000\n"
    assert told["nice"] == min(19, os.nice(0) + 10)
    assert "planted-key" not in str(told)
    assert told["open"] == 4  # input, output, errors, and the directory itself


def _children(code: str) -> list[int]:
    """Our processes that run this code."""
    found = []
    for process in psutil.Process().children():
        try:
            if code in process.cmdline():
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)
