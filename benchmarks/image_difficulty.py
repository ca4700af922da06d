"""How hard the pictures are that image navigation walks in, beside photographs.

    python benchmarks/image_difficulty.py [--train 4000] [--test 2000] [--images FOLDER ...] [--json FILE]

Crops of 8 x 8 pixels on the 9 x 9 grid. PCA-k: the first k principal components of the train pictures' crops reconstruct the test
pictures' crops. Copy: the last frame of a walk of 256 steps stands for each of the next 256. Mean: the walk's mean frame does. Visited:
the share of those next steps that come to a place the walk has been. All in dB, the squared error pooled over everything.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from photographs import write_tiles

from gtmsm_env.data import record
from gtmsm_env.envs.images import open_images
from gtmsm_env.envs.windows import crops
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.trials import psnr

COMPONENTS = (16, 64, 96)
WALK, AFTER = 256, 256


def difficulty(train: NDArray[np.uint8], test: NDArray[np.uint8], seed: int = 0) -> dict[str, float]:
    """The figures of test pictures (N, S, S, 3), the components fitted on train pictures; one walk a test picture."""
    cut = crops(test)
    n, side = cut.shape[:2]
    views = cut.reshape(n, side * side, -1).astype(np.float32) / 255  # (N, places, pixels)
    fitted = crops(train).reshape(-1, views.shape[-1]).astype(np.float32) / 255
    mean = fitted.mean(axis=0)
    axes = np.linalg.eigh(np.cov((fitted - mean).T))[1][:, ::-1].astype(np.float32)  # from the strongest
    centred = views - mean
    figures = {}
    for k in COMPONENTS:
        left = centred - centred @ axes[:, :k] @ axes[:, :k].T
        figures[f"PCA-{k}"] = psnr(float(np.square(left, dtype=np.float64).mean()))
    worlds = gym.make_vec("GTMSM-ImageNavigation-v0", num_envs=n, task=None)  # where a walk leads depends on no picture
    positions = record(worlds, WALK + AFTER, np.random.default_rng(seed), seed).positions
    assert positions is not None
    places = positions.numpy() @ np.array([side, 1])
    copied, averaged, visited = [], [], []
    for view, place in zip(views, places, strict=True):
        past, later = view[place[:WALK]], view[place[WALK:]]
        copied.append(np.square(later - past[-1]).mean())
        averaged.append(np.square(later - past.mean(axis=0)).mean())
        visited.append(np.isin(place[WALK:], place[:WALK]).mean())
    return {**figures, "copy": psnr(float(np.mean(copied))), "mean": psnr(float(np.mean(averaged))), "visited": float(np.mean(visited))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=4000, help="procedural pictures the components are fitted on (default 4000)")
    parser.add_argument("--test", type=int, default=2000, help="procedural test pictures, one walk each (default 2000)")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of images to measure as well")
    parser.add_argument("--seed", type=int, default=0, help="seed of the walks")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    check_writable(file=arguments.json)

    train = open_images(split="train").batch(range(arguments.train))
    sources = {"procedural": open_images(split="test").batch(range(arguments.test))}
    with TemporaryDirectory() as folder:
        for name, grey in (("photographs", True), ("colour photographs", False)):
            write_tiles(Path(folder) / name, grey=grey)
            tiles = open_images(str(Path(folder) / name), split="all")
            sources[name] = tiles.batch(range(len(tiles)))
    for path in arguments.images:
        found = open_images(str(path), split="all")
        sources[path.name] = found.batch(range(min(len(found), arguments.test)))

    rows: list[dict[str, Cell]] = []
    for name, pictures in sources.items():
        rows.append({"images": name, "fitted on": "procedural", "n": len(pictures), **difficulty(train, pictures, arguments.seed)})
        if name != "procedural":
            rows.append({"images": name, "fitted on": "themselves", "n": len(pictures), **difficulty(pictures, pictures, arguments.seed)})
    print(table(list(rows[0]), [list(row.values()) for row in rows]))
    if arguments.json:
        write_json(arguments.json, {"train_images": arguments.train, "difficulty": rows}, arguments.seed)


if __name__ == "__main__":
    main()
