"""Videos as H.264 in MP4, which browsers and README pages play. Needs the extra `video`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def missing() -> str | None:
    """One line that says what to install before videos can be drawn and written; None where nothing is missing."""
    absent = [name for name in ("imageio_ffmpeg", "PIL") if find_spec(name) is None]
    return f"no video is written without {' and '.join(absent)}: pip install 'gtmsm-env[video]'" if absent else None


def write_video(file: Path, pictures: Iterable[NDArray[np.uint8]], fps: int) -> None:
    """Writes pictures (H, W, 3) of one size with even sides, one after another as they come, and renames the finished file into place."""
    import imageio_ffmpeg

    new = file.with_name(f"{file.stem}.new{file.suffix}")  # the suffix names the format
    writer = None
    for picture in pictures:
        if writer is None:
            size = (picture.shape[1], picture.shape[0])
            writer = imageio_ffmpeg.write_frames(
                new, size, fps=fps, codec="libx264", quality=8, macro_block_size=2, ffmpeg_log_level="error"
            )
            writer.send(None)
        writer.send(np.ascontiguousarray(picture))
    if writer is None:
        raise ValueError(f"A video has at least one picture; none came for {file}.")
    writer.close()
    new.replace(file)
