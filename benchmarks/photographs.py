"""Cut the photographs that the scikit-image and scikit-learn wheels ship into a folder of small square images.

    python benchmarks/photographs.py FOLDER [--tile 32] [--short-side 128]

Nothing is downloaded. Each photograph is resized (antialiased) until its short side is 128 pixels and cut into 32 x 32 tiles, the
left-over at the borders shared evenly. Figures, drawings, microscope slides and the second picture of a stereo pair are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOUR = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
GREY = ("brick.png", "camera.png", "clock_motion.png", "coins.png", "grass.png", "gravel.png", "moon.png")
SCIKIT_LEARN = ("china.jpg", "flower.jpg")


def photographs(*, grey: bool = True) -> dict[str, Path]:
    """The photographs' files by name; those a wheel does not ship are left out. An error says what to install when there are none."""
    try:
        import skimage.data
        import sklearn.datasets
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the photographs come with scikit-image and scikit-learn ({error}); pip install scikit-image scikit-learn"
        ) from error
    skimage_folder = Path(str(skimage.data.__file__)).parent
    sklearn_folder = Path(str(sklearn.datasets.__file__)).parent / "images"
    files = [skimage_folder / name for name in COLOUR + (GREY if grey else ())] + [sklearn_folder / name for name in SCIKIT_LEARN]
    return {file.stem: file for file in files if file.is_file()}


def tiles(file: Path, *, tile: int = 32, short_side: int = 128) -> Iterator[NDArray[np.uint8]]:
    """The (tile, tile, 3) uint8 pieces of one photograph, row by row."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    scale = short_side / min(image.size)
    width, height = (max(tile, round(side * scale)) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))
    top, left = height % tile // 2, width % tile // 2
    for row in range(top, height - tile + 1, tile):
        for column in range(left, width - tile + 1, tile):
            yield pixels[row : row + tile, column : column + tile].copy()


def write_tiles(folder: Path, *, tile: int = 32, short_side: int = 128, grey: bool = True) -> int:
    """Write every tile as FOLDER/name-number.png and return how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, file in photographs(grey=grey).items():
        for number, pixels in enumerate(tiles(file, tile=tile, short_side=short_side)):
            Image.fromarray(pixels).save(folder / f"{name}-{number:03d}.png")
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the tiles go (made when missing)")
    parser.add_argument("--tile", type=int, default=32, help="side of a tile in pixels (default 32)")
    parser.add_argument("--short-side", type=int, default=128, help="short side of a resized photograph in pixels (default 128)")
    parser.add_argument("--colour-only", action="store_true", help="leave out the grey photographs")
    arguments = parser.parse_args()
    count = write_tiles(arguments.folder, tile=arguments.tile, short_side=arguments.short_side, grey=not arguments.colour_only)
    print(f"{count} tiles of {arguments.tile} x {arguments.tile} pixels in {arguments.folder}")


if __name__ == "__main__":
    main()
