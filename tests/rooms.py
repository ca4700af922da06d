"""A room of known geometry: the labyrinth's ray caster draws it from any pose, and says how deep its walls and pillars lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gtmsm_env.floorplan import CELLS, on_lattice
from gtmsm_env.networks import frames_to_x
from gtmsm_env.perspective import Camera
from gtmsm_env.recipe_labyrinth import CAMERA


def cell_of(places: Tensor) -> Tensor:
    """Column and row of the cells of places (*B, 2), those at the edge for places beyond it: (*B, 2) int64."""
    return on_lattice(places).round().long().clamp(0, CELLS - 1)


class KnownRoom:
    """Room `number` of the training split, of those with walls and pillars alone; its middle is near (0, 0). Tests of it need Numba."""

    def __init__(self, number: int = 3) -> None:
        pytest.importorskip("numba")
        from gtmsm_env.envs.labyrinth_rooms import build

        self.rooms = build("train", number)
        assert not self.rooms.disc[0, : self.rooms.discs[0], 3].any(), "a ball is no upright wall"

    def poses(self, count: int, seed: int = 0) -> Tensor:
        """Poses (count, 3) that touch nothing."""
        generator = np.random.default_rng(seed)
        return torch.from_numpy(np.stack([self.rooms.anywhere(0, generator) for _ in range(count)])).float()

    def frames(self, poses: Tensor, size: int = 32) -> Tensor:
        """What is seen from poses (N, 3): (N, size, size, C) uint8."""
        from gtmsm_env.envs.labyrinth_raycaster import draw

        return torch.from_numpy(draw(self.rooms, self._rows(poses), self._array(poses), size, CAMERA["field_of_view"], CAMERA["height"]))

    def views(self, poses: Tensor, size: int = 32) -> Tensor:
        """The same as x, (N, C, size, size) in [0, 1]."""
        return frames_to_x(self.frames(poses, size))

    def depths(self, poses: Tensor, size: int = 32) -> Tensor:
        """True depths of the columns, (N, size)."""
        from gtmsm_env.envs.labyrinth_raycaster import column_depths

        return torch.from_numpy(column_depths(self.rooms, self._rows(poses), self._array(poses), size, CAMERA["field_of_view"])).float()

    def clearance(self, x: Any, y: Any) -> float:
        """Distance from a place to what is nearest, 0 or less where it is not free."""
        return self.rooms.clearance(0, float(x), float(y))

    @staticmethod
    def camera(size: int = 32) -> Camera:
        return Camera(size, **CAMERA)

    @staticmethod
    def _array(poses: Tensor) -> Any:
        return poses.double().numpy()

    @staticmethod
    def _rows(poses: Tensor) -> Any:
        return np.zeros(len(poses), np.int64)


def psnr(x: Tensor, other: Tensor, where: Tensor | None = None) -> float:
    """In dB, of pictures (*B, C, H, W) in [0, 1], on some of their pixels (*B, H, W)."""
    square = (x - other).square().mean(dim=-3)
    return float(-10 * (square if where is None else square[where]).mean().log10())
