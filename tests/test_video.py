import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from gtmsm_env import video


def test_a_video_holds_the_pictures_in_order(tmp_path: Path) -> None:
    pictures = [np.full((64, 96, 3), level, np.uint8) for level in (20, 120, 220)]
    video.write_video(tmp_path / "v.mp4", iter(pictures), fps=5)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "v.mp4"), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8).reshape(-1, 64, 96, 3)
    assert read.mean(axis=(1, 2, 3)).round(-1).tolist() == [20, 120, 220]
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]


def test_a_video_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        video.write_video(tmp_path / "v.mp4", [], fps=5)


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert video.missing() is None
    monkeypatch.setattr(video, "find_spec", lambda name: None if name == "imageio_ffmpeg" else object())
    assert video.missing() == "no video is written without imageio_ffmpeg: pip install 'gtmsm-env[video]'"
