"""Sources of the pictures that image navigation walks in: procedural, CelebA, or any folder."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.envs import procedural
from gtmsm_env.envs.celeba import HOW, find_celeba, open_celeba
from gtmsm_env.envs.files import SUFFIXES, Album, ImageSourceError, folder_album, split_of, square

SPLITS = ("train", "validation", "test", "all")
CACHE_BYTES = 32 * 2**20  # ten thousand pictures of 32 x 32

Indices = Sequence[int] | NDArray[np.int64]


class ImageSource(ABC):
    """A numbered collection of (image_size, image_size, 3) uint8 pictures of one split; the last `CACHE_BYTES` of them are kept."""

    def __init__(self, name: str, split: str, image_size: int) -> None:
        self.name, self.split, self.image_size = name, split, image_size
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._most = CACHE_BYTES // (3 * image_size**2)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _read(self, numbers: list[int]) -> NDArray[np.uint8]:
        """Pictures of valid numbers, (N, image_size, image_size, 3)."""

    def batch(self, indices: Indices) -> NDArray[np.uint8]:
        """Pictures `indices` as a fresh (N, image_size, image_size, 3) uint8 array; IndexError for a number outside 0 .. len - 1."""
        numbers = [int(index) for index in indices]
        outside = [number for number in numbers if not 0 <= number < len(self)]
        if outside:
            raise IndexError(f"image {outside[0]} asked for, but {self.name} {self.split} holds images 0 to {len(self) - 1}")
        missing = [number for number in dict.fromkeys(numbers) if number not in self._cache]
        fresh = dict(zip(missing, self._read(missing), strict=True)) if missing else {}
        pictures = np.empty((len(numbers), self.image_size, self.image_size, 3), np.uint8)
        for row, number in enumerate(numbers):
            pictures[row] = fresh[number] if number in fresh else self._cache[number]
        for number in missing[-self._most :] if self._most else ():
            self._cache[number] = fresh[number].copy()
            if len(self._cache) > self._most:
                del self._cache[next(iter(self._cache))]  # the oldest
        return pictures

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.batch([index])[0]


class ProceduralImages(ImageSource):
    """Painted on demand: picture `index` is a function of split, index and size alone, and no two splits share one."""

    def __init__(self, split: str, image_size: int) -> None:
        if split == "all":
            raise ValueError("split 'all' is for folders of images; procedural images are 'train', 'validation' or 'test'")
        super().__init__("procedural", split, image_size)

    def __len__(self) -> int:
        return procedural.LENGTHS[self.split]

    def _read(self, numbers: list[int]) -> NDArray[np.uint8]:
        return procedural.paint(self.split, numbers, self.image_size)


class FileImages(ImageSource):
    """Image files, decoded when first asked for. Those found corrupt at opening are not among them; one that turns out corrupt only when it
    is decoded is replaced by the next one, with one warning for the source, and counted in `replaced`.
    """

    def __init__(self, name: str, split: str, image_size: int, album: Album) -> None:
        super().__init__(name, split, image_size)
        self.album, self.replaced = album, 0

    def __len__(self) -> int:
        return len(self.album.names)

    def _read(self, numbers: list[int]) -> NDArray[np.uint8]:
        before = self.replaced
        pictures = np.stack([self._decode(number) for number in numbers])
        if self.replaced and not before:
            warnings.warn(
                f"{self.replaced} of {len(numbers)} images read from {self.name} are corrupt; the next ones take their place", stacklevel=3
            )
        return pictures

    def _decode(self, number: int) -> NDArray[np.uint8]:
        for shift in range(len(self)):
            try:
                return square(self.album.read(self.album.names[(number + shift) % len(self)]), self.image_size, self.album.keep)
            except ImageSourceError:
                self.replaced += 1
        raise ImageSourceError(f"none of the {len(self)} {self.split} images of {self.name} can be decoded; give whole images")


def open_images(images: str = "procedural", *, split: str, image_size: int = 32) -> ImageSource:
    """The pictures of one split, `image_size` pixels a side.

    `images` is "procedural"; or a path to CelebA in any usual layout, whose official split is kept; or any other folder of images, which
    are cut to their central square, and split by a hash of their paths (80 % "train", 10 % "validation", 10 % "test", or "all").
    ImageSourceError (a ValueError) for a source that is missing, malformed or empty; one warning counts corrupt files, which are skipped.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if image_size < 4:
        raise ValueError(f"image_size must be at least 4 pixels, got {image_size}")
    if images == "procedural":
        return ProceduralImages(split, image_size)
    path = Path(images).expanduser()
    if find_spec("PIL") is None:
        raise ModuleNotFoundError(f"the image files of {path} are read with Pillow: pip install 'gtmsm-env[images]'")
    faces, table = find_celeba(path)
    if faces or table:
        album = open_celeba(faces, table, path, split)
    elif path.is_dir():
        album = _open_folder(path, split)
    else:
        raise ImageSourceError(
            f"{path} is no folder of images; looked for 'procedural', CelebA, or a folder with {', '.join(SUFFIXES)} files. {HOW}"
        )
    if album.lost:
        warnings.warn(
            f"{album.lost} image files of {path} are missing or corrupt and are skipped; {len(album.names)} are left", stacklevel=2
        )
    return FileImages(str(path), split, image_size, album)


def _open_folder(folder: Path, split: str) -> Album:
    album = folder_album(folder)
    whole = len(album.names)
    album.names = [name for name in album.names if split in ("all", split_of(name))]
    if not whole:
        raise ImageSourceError(
            f"{folder} holds no whole image ({album.lost} corrupt); looked for {', '.join(SUFFIXES)} and for CelebA, at any depth. {HOW}"
        )
    if not album.names:
        raise ImageSourceError(f"none of the {whole} images of {folder} falls in split {split!r}; give more images, or split='all'")
    return album
