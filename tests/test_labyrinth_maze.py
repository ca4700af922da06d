import subprocess
import sys
from math import hypot
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env.data import record

pytest.importorskip("numba")

from test_labyrinth import SlowEye, free_distance
from test_labyrinth_paths import on_a_grid

from gtmsm_env.envs.labyrinth import LabyrinthEnv, LabyrinthVectorEnv
from gtmsm_env.envs.labyrinth_lab import lab_surface
from gtmsm_env.envs.labyrinth_map import map_from_above
from gtmsm_env.envs.labyrinth_paths import path_length
from gtmsm_env.envs.labyrinth_physics import overlap
from gtmsm_env.envs.labyrinth_raycaster import draw
from gtmsm_env.envs.labyrinth_rooms import CELL, HEIGHT, PASSAGE, RADIUS, build
from gtmsm_env.envs.labyrinth_textures import shade_rim
from gtmsm_env.envs.labyrinth_walker import Scavenger

WORLD = "GTMSM-LabyrinthMaze-v0"
ONE = np.zeros(1, np.int64)


FRAMES: dict[Any, Any] = {
    ("train", 0, (1, 1)): [59999, 95969, 56868, 69776],
    ("train", 7, (1, 1)): [123859, 74132, 96343, 74233],
    ("validation", 1, (1, 1)): [120189, 88616, 68069, 66873],
    ("test", 7, (1, 1)): [62541, 88166, 57784, 73549],
    ("train", 1, (2, 4)): [99573, 90530, 97589, 86766],
    ("test", 0, (2, 4)): [63244, 72798, 77402, 69363],
}


def test_the_procedural_rooms_stay_as_they_were() -> None:
    """Models are trained on them: the light of the four quarters of a frame, to what other processors round otherwise."""
    for (split, number, rooms), quarters in FRAMES.items():
        world = build(split, number, rooms)
        frame = draw(world, ONE, world.anywhere(0, np.random.default_rng(number))[None], 32, 90.0, 0.6)[0].astype(int)
        found = [frame[top : top + 16, left : left + 16].sum() for top in (0, 16) for left in (0, 16)]
        assert np.abs(np.subtract(found, quarters)).max() < 20, (split, number, rooms, found)


@pytest.fixture(scope="module")
def maze() -> Any:
    pytest.importorskip("labmaze")
    return lambda number, textures="lab": build("train", number, (4, 4), "maze", textures)


class TestMazes:
    def test_they_are_labmaze_s(self, maze: Any) -> None:
        import labmaze

        for number in range(3):
            symbols = np.asarray(labmaze.RandomMaze(height=11, width=11, max_rooms=4, random_seed=number).entity_layer)
            world = maze(number)
            assert world.sectors[0] == (symbols != "*").sum()
            for west, south, east, north in world.bounds[0, : world.sectors[0]]:
                assert (east - west, north - south) == pytest.approx((CELL, CELL))
                assert symbols[10 - round(south / CELL), round(west / CELL)] != "*"  # its first line is the north

    @pytest.mark.parametrize("number", range(5))
    def test_cells_hang_together_and_nothing_is_in_the_way(self, maze: Any, number: int) -> None:
        world = maze(number)
        reached, new = {0}, [0]
        while new:
            beyond = {int(sector) for sector in world.beyond[0, new.pop()]} - {-1} - reached
            reached |= beyond
            new += beyond
        assert len(reached) == world.sectors[0]
        for sector in range(world.sectors[0]):
            assert (world.wide(0, sector) == (world.beyond[0, sector] >= 0)).all()
            for side, beyond in enumerate(world.beyond[0, sector]):
                assert beyond < 0 or world.beyond[0, beyond, side ^ 1] == sector
                middle = world._middle(0, sector, side)
                assert (free_distance(world, *middle) > RADIUS) == (beyond >= 0)
        assert world.discs[0] > 0
        for disc, (x, y, radius, _) in enumerate(world.disc[0, : world.discs[0]].copy()):
            west, south, east, north = world.bounds[0, world.disc_sector[0, disc]]
            assert min(x - west, east - x, y - south, north - y) >= radius  # rays look for it there alone
            world.discs[0] = disc
            assert free_distance(world, x, y) >= radius + PASSAGE - 1e-9

    def test_worlds_differ_and_splits_share_none(self, maze: Any) -> None:
        for one, other in zip(maze(7), maze(7), strict=True):
            assert np.array_equal(one, other)
        worlds = [build(split, number, (4, 4), "maze", "lab") for split in ("train", "validation", "test") for number in range(4)]
        assert len({world.bounds.tobytes() for world in worlds}) == len({world.texels.tobytes() for world in worlds}) == 12

    def test_textures_fit_into_the_space_kept_for_them(self, maze: Any) -> None:
        for number in range(4):
            world = maze(number)
            used = max(
                int(first + rows * columns) for first, (rows, columns) in zip(world.first.ravel(), world.shape.reshape(-1, 2), strict=True)
            )
            assert used * 4 // 3 < world.texels.shape[1]
            shut = world.beyond[0, : world.sectors[0]] < 0
            walls = world.first[0, : world.sectors[0], :4][shut]
            assert len(set(walls.tolist())) == shut.sum()  # each has its own

    def test_floors_and_walls_run_on_from_cell_to_cell(self, maze: Any) -> None:
        """What two cells show beside the line between them is more alike than what lies a cell apart, but where another floor begins."""
        world = maze(1, "procedural")
        for side, surface in ((1, 4), (3, 4), (1, 5), (3, 5), (1, 2), (3, 0)):  # going east or north, on floor, ceiling and walls
            seams, apart = [], []
            for one, other in enumerate(world.beyond[0, : world.sectors[0], side]):
                if other < 0 or (surface < 4 and max(world.beyond[0, [one, other], surface]) >= 0):
                    continue
                here, there = (
                    world.texels[0, first : first + rows * columns].reshape(rows, columns, 3).astype(float)
                    for first, (rows, columns) in ((world.first[0, s, surface], world.shape[0, s, surface]) for s in (one, other))
                )
                if side == 3 and surface > 3:  # rows of a floor lie from south to north
                    here, there = here.swapaxes(0, 1), there.swapaxes(0, 1)
                seams.append(np.abs(here[:, -1] - there[:, 0]).mean())
                apart.append(np.abs(here[:, -1] - there[:, -1]).mean())
            assert len(seams) >= 8
            assert np.mean(np.less(seams, np.multiply(0.7, apart))) > 0.6

    @pytest.mark.parametrize("textures", ["lab", "procedural"])
    def test_frames_are_those_of_the_slow_eye(self, maze: Any, textures: str) -> None:
        world, generator = maze(2, textures), np.random.default_rng(3)
        poses = np.array([world.anywhere(0, generator) for _ in range(2)])
        for pose, frame in zip(poses, draw(world, np.zeros(2, np.int64), poses, 20, 90.0, 0.6), strict=True):
            off = np.abs(SlowEye(world, 20).frame(pose) - frame).max(axis=-1)
            assert (off <= 0.51).mean() > 0.99
            assert np.median(off) < 0.5

    def test_agents_are_drawn_all_over_it_and_touch_nothing(self, maze: Any) -> None:
        world, generator = maze(0), np.random.default_rng(0)
        drawn = np.array([world.anywhere(0, generator)[:2] for _ in range(400)])
        assert min(free_distance(world, *place) for place in drawn) > RADIUS
        assert all(overlap(world, 0, *place, RADIUS)[0] <= 0 for place in drawn)
        to_side = np.abs((drawn + CELL / 2) % CELL - CELL / 2).min(axis=1)
        assert (to_side < RADIUS).mean() > 0.2  # over the lines between cells, too
        for place in drawn[:50]:
            assert world.clearance(0, *place) <= free_distance(world, *place) + 1e-12

    def test_paths(self, maze: Any) -> None:
        world, generator = maze(4), np.random.default_rng(1)
        for _ in range(2):
            start, goal = world.anywhere(0, generator)[:2], world.anywhere(0, generator)[:2]
            ours, grid = path_length(world, 0, start, goal, 0.3), on_a_grid(world, start, goal, 0.3)
            assert 0.96 * grid - 0.15 < ours < grid + 1e-6

    def test_the_scavenger_walks_through_it_and_touches_nothing(self) -> None:
        pytest.importorskip("labmaze")
        envs: Any = gym.make_vec(WORLD, num_envs=8, frame_size=4)
        envs.reset(seed=0, options={"phase": "walk"})
        policy, seen = Scavenger(envs, np.random.default_rng(0)), [set() for _ in range(8)]  # type: ignore[var-annotated]
        for _ in range(300):
            *_, info = envs.step(policy())
            assert not info["touched"].any()
            for row in range(8):
                seen[row].add(envs.unwrapped.worlds.sector_at(row, *info["pose"][row, :2]))
        assert np.mean([len(cells) for cells in seen]) > 12

    def test_a_map_shows_it(self, maze: Any) -> None:
        world = maze(0)
        picture = map_from_above(world, 0, world.anywhere(0, np.random.default_rng(0)), None, size=256)
        open_ = (picture != (19, 21, 27)).any(axis=-1).mean()
        bounds = world.bounds[0, : world.sectors[0]]
        side = (bounds[:, 2:].max(axis=0) - bounds[:, :2].min(axis=0)).max() * 1.08
        assert 1 < open_ / (world.sectors[0] * CELL**2 / side**2) < 1.35  # walls are drawn around it


class TestLabTextures:
    def test_they_are_labmaze_s_pictures(self) -> None:
        """The mean colour of every wall is that of one of the files."""
        labmaze = pytest.importorskip("labmaze")
        from labmaze import assets
        from PIL import Image

        known = []
        for style in assets.MAZE_STYLES:
            for path in assets.get_wall_texture_paths(style).values():
                known.append(np.asarray(Image.open(path).convert("RGBA"), float)[..., :3].mean(axis=(0, 1)) / 255)
        assert labmaze
        drawn = set()
        for seed in range(60):
            wall = lab_surface(np.random.default_rng(seed), HEIGHT, 4.0, "wall")
            assert wall.shape == (48, 96, 3)
            off = np.abs(np.array(known) - wall.mean(axis=(0, 1))).max(axis=1)
            assert off.min() < 0.01
            drawn.add(int(off.argmin()))
            tiles = wall.reshape(48, 3, 32, 3)  # three pictures side by side, 4/3 units each
            assert np.abs(tiles[:, 0] - tiles[:, 2]).max() < 0.01
        assert len(drawn) > 20  # in several styles

    def test_floors_and_ceilings(self) -> None:
        pytest.importorskip("labmaze")
        for kind in ("floor", "ceiling"):
            pictures = [lab_surface(np.random.default_rng(seed), 4.5, 3.6, kind) for seed in range(40)]
            assert {picture.shape for picture in pictures} == {(112, 96, 3)}
            assert len({picture.tobytes() for picture in pictures}) >= (5 if kind == "ceiling" else 15)
            assert min(picture.min() for picture in pictures) >= 0
            assert max(picture.max() for picture in pictures) <= 1

    def test_rooms_keep_their_layout_and_change_their_looks(self) -> None:
        pytest.importorskip("labmaze")
        ours, theirs = (LabyrinthVectorEnv(3, rooms=(1, 3), textures=textures) for textures in ("procedural", "lab"))
        ours.reset(seed=0)
        theirs.reset(seed=0)
        for field in ("sectors", "bounds", "opening", "beyond", "disc"):
            assert np.array_equal(getattr(ours.worlds, field), getattr(theirs.worlds, field))
        assert not np.array_equal(ours.worlds.texels, theirs.worlds.texels)
        assert np.array_equal(ours._pose, theirs._pose)
        assert np.abs(ours._frame.astype(int) - theirs._frame).mean() > 10

    def test_a_rim_may_have_some_of_its_edges(self) -> None:
        for edge in range(4):
            picture = np.ones((32, 48, 3))
            shade_rim(picture, [side == edge for side in range(4)])
            line = picture[:, :, 0].mean(axis=0 if edge < 2 else 1)
            assert line[0 if edge % 2 == 0 else -1] == line.min() < 0.75
            assert line[-1 if edge % 2 == 0 else 0] > 0.97


class TestArguments:
    def test_what_is_refused(self) -> None:
        for kwargs, message in (({"layout": "cave"}, "layout must be one of 'rooms', 'maze'"), ({"textures": "dmlab"}, "textures must be")):
            with pytest.raises(ValueError, match=message):
                LabyrinthEnv(**kwargs)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("missing", "kwargs"), [("labmaze", {}), ("PIL", {}), ("labmaze", {"layout": "rooms"})])
    def test_without_labmaze_it_says_what_to_install(self, tmp_path: Path, missing: str, kwargs: dict[str, Any]) -> None:
        code = f"""
import importlib.util
there = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "{missing}" else there(name, *more)
import gymnasium, gtmsm_env
gymnasium.make("GTMSM-Labyrinth-v0").reset(seed=0)
try:
    gymnasium.make("{WORLD}", **{kwargs})
except ModuleNotFoundError as error:
    print(error)
"""
        run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "pip install 'gtmsm-env[labmaze]'" in run.stdout

    def test_a_model_of_rooms_may_dream_of_mazes(self) -> None:
        from gtmsm_env.worlds import _rules

        rooms, mazes = (_rules("GTMSM-Labyrinth-v0", kwargs) for kwargs in ({}, {"layout": "maze", "textures": "lab"}))
        assert rooms == mazes

    def test_the_goal_of_a_walk_can_be_reached(self) -> None:
        pytest.importorskip("labmaze")
        env = gym.make(WORLD, frame_size=8)
        record(env, 120, seed=2, policy=Scavenger(env, np.random.default_rng(0)))
        _, info = env.reset(options={"phase": "task", "world": "same"})
        world: Any = env.unwrapped
        assert 0 < world.steps_to_goal() < 200
        assert (
            path_length(world.batch_of_one.worlds, 0, info["pose"], info["goal_pose"], 0.3)
            >= hypot(*(info["pose"] - info["goal_pose"])[:2]) - 0.3 - 1e-9
        )
