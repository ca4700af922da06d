"""Image files: which there are, which are whole, and how one becomes a small square picture."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
WHOLE = {".jpg": (b"\xff\xd8", b"\xff\xd9"), ".jpeg": (b"\xff\xd8", b"\xff\xd9"), ".png": (b"\x89PNG", b"IEND")}  # first and last bytes
TAIL = 64  # some cameras write a little after the last marker


class ImageSourceError(ValueError):
    """A source of images that is missing, empty or malformed; says what was looked for and how to get it."""


@dataclass
class Album:
    """Image files by name. `read` gives a file's bytes, `keep` is the kept share of the shorter side, `lost` counts files left out."""

    names: list[str]
    read: Callable[[str], bytes]
    keep: float = 1.0
    lost: int = 0


def folder_album(folder: Path, *, nested: bool = True) -> Album:
    """The whole image files of a folder, and of the folders in it when `nested`, sorted by their path from there."""
    found = [path for path in (folder.rglob("*") if nested else folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    files = sorted(path.relative_to(folder).as_posix() for path in found if not path.name.startswith(".") and path.is_file())
    names = [name for name in files if _is_whole(folder / name)]
    return Album(names, lambda name: (folder / name).read_bytes(), lost=len(files) - len(names))


def split_of(name: str) -> str:
    """The split of a file of an ordinary folder, by a hash of its path: 80 % train, 10 % validation, 10 % test, whatever else is there."""
    tenth = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10
    return "train" if tenth < 8 else "validation" if tenth == 8 else "test"


def _is_whole(file: Path) -> bool:
    """Whether a file begins and ends as its kind does: two short reads, since decoding every file would make opening a folder slow."""
    first, last = WHOLE.get(file.suffix.lower(), (b"", b""))
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(len(first))
        opened.seek(max(0, size - TAIL))
        return size > 0 and head == first and last in opened.read()


def square(data: bytes, size: int, keep: float) -> NDArray[np.uint8]:
    """Decode an image, cut the central square (`keep` of the shorter side) and shrink it, antialiased, to (size, size, 3) uint8.

    ImageSourceError when the bytes are no whole image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(data)) as opened:
            opened.draft("RGB", (4 * size, 4 * size))  # a JPEG file may be decoded at a fraction of its size; others ignore this
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageSourceError(f"not a whole image: {error}") from error
    width, height = image.size
    side = round(keep * min(width, height))
    left, top = (width - side) // 2, (height - side) // 2
    kept = image.crop((left, top, left + side, top + side))
    return np.asarray(kept.resize((size, size), Image.Resampling.LANCZOS))
