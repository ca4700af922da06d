"""Sources of the pictures that image navigation walks in: procedural, CelebA, or any folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.envs import procedural

Split = Literal["train", "validation", "test", "all"]
Indices = Sequence[int] | NDArray[np.int64]


class ImageSource(ABC):
    """A numbered collection of (image_size, image_size, 3) uint8 pictures of one split."""

    def __init__(self, name: str, split: str, image_size: int) -> None:
        self.name, self.split, self.image_size = name, split, image_size

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _read(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures of valid numbers."""

    def batch(self, indices: Indices) -> NDArray[np.uint8]:
        """Pictures `indices` as a fresh (N, image_size, image_size, 3) uint8 array; IndexError for a number outside 0 .. len - 1."""
        numbers = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(numbers) and not (0 <= numbers.min() and numbers.max() < len(self)):
            outside = numbers[(numbers < 0) | (numbers >= len(self))][0]
            raise IndexError(f"image {outside} asked for, but {self.name} {self.split} holds images 0 to {len(self) - 1}")
        return self._read(numbers)

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

    def _read(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        return procedural.paint(self.split, numbers, self.image_size)


def open_images(images: str = "procedural", *, split: str, image_size: int = 32) -> ImageSource:
    """The pictures of one split, "train", "validation", "test" or "all" (folders only), scaled to `image_size` pixels a side."""
    if split not in get_args(Split):
        raise ValueError(f"split must be one of {get_args(Split)}, got {split!r}")
    if image_size < 4:
        raise ValueError(f"image_size must be at least 4 pixels, got {image_size}")
    if images == "procedural":
        return ProceduralImages(split, image_size)
    raise NotImplementedError(images)
