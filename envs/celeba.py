"""CelebA in the layouts people have. It may not be redistributed, so nothing of it is in this package.

The aligned and cropped images are 178 x 218 pixels; as is usual in generative modelling the central 148 x 148 are kept (columns 15 to
162, rows 35 to 182), which hold the face from chin to hair and leave out the borders that alignment repeated.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from gtmsm_env.envs.files import Album, ImageSourceError, folder_album

PARTITIONS = {"0": "train", "1": "validation", "2": "test"}
KEEP = 148 / 178  # of the shorter side
HOW = (
    "To get CelebA, download img_align_celeba.zip and list_eval_partition.txt (Align&Cropped Images, Train/Val/Test Partitions) from "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html into one folder and give that folder; unpacking is not needed"
)
IMAGES = [f"{folder}img_align_celeba{end}" for folder in ("", "Img/", "celeba/") for end in ("/img_align_celeba", "", ".zip")]
TABLES = [f"{folder}list_eval_partition{end}" for folder in ("", "Eval/", "celeba/") for end in (".txt", ".csv")]


def find_celeba(path: Path) -> tuple[Path | None, Path | None]:
    """The images (a folder or zip) and the partition table at or under `path`, None for what is not there.

    `path` is the folder that holds both, in the official layout (Img/, Eval/), torchvision's (celeba/), the doubly nested one or flat, or
    else the folder or zip of images itself, whose table lies beside it or in the Eval folder next to its own.
    """
    if path.name in ("img_align_celeba", "img_align_celeba.zip"):
        nested = path / "img_align_celeba"
        images: Path | None = nested if nested.is_dir() else path
        bases = [path, path.parent, path.parent.parent]
    else:
        images = next((path / name for name in IMAGES if (path / name).exists()), None)
        bases = [path]
    return images, next((base / name for base in bases for name in TABLES if (base / name).is_file()), None)


def open_celeba(images: Path | None, table: Path | None, given: Path, split: str) -> Album:
    """The images of one official split. ImageSourceError when a half is missing, unreadable, or holds none of the split."""
    if images is None or table is None or not images.exists():
        missing = "the partition table" if table is None else "the images"
        looked = TABLES if table is None else IMAGES
        raise ImageSourceError(f"{given} looks like CelebA, but {missing} cannot be found; looked for {', '.join(looked)}. {HOW}")
    if split == "all":
        raise ImageSourceError(f"{given} is CelebA, which keeps its official splits: 'train', 'validation' or 'test', not 'all'")
    listed = [name for name, part in _partition(table) if part == split]
    album = _zip_album(images) if images.suffix == ".zip" else folder_album(images, nested=False)
    there = set(album.names)
    album.names = [name for name in listed if name in there]
    album.lost += len(listed) - len(album.names)
    album.keep = KEEP
    if not album.names:
        raise ImageSourceError(f"none of the {len(listed)} images that {table} lists for split {split!r} is in {images}. {HOW}")
    return album


def _partition(table: Path) -> list[tuple[str, str]]:
    """(image name, split) of every line of list_eval_partition.txt, or of the .csv whose first line is a heading."""
    rows = [line.replace(",", " ").split() for line in table.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if table.suffix == ".csv":
        rows = rows[1:]
    for row in rows:
        if len(row) != 2 or row[1] not in PARTITIONS:
            raise ImageSourceError(f"{table} is malformed: a line must be an image's name and 0, 1 or 2, got {' '.join(row)!r}. {HOW}")
    return [(name, PARTITIONS[part]) for name, part in rows]


def _zip_album(archive: Path) -> Album:
    """The images of a zip, by their last name, since some copies nest them and some do not."""
    try:
        opened = ZipFile(archive)
    except (BadZipFile, OSError) as error:
        raise ImageSourceError(f"{archive} cannot be read as a zip ({error}), perhaps a broken download. {HOW}") from error

    def read(name: str) -> bytes:
        try:
            return opened.read(members[name])
        except (BadZipFile, zlib.error) as error:
            raise ImageSourceError(f"{name} in {archive} is damaged: {error}") from error

    members = {member.filename.rsplit("/", 1)[-1]: member for member in opened.infolist() if not member.is_dir() and member.file_size}
    return Album(list(members), read)
