"""Procedural colour pictures: seeded, unlimited and free to redistribute, with statistics near those of small photographs.

A picture is painted from back to front, as in the dead-leaves model of natural images (Lee, Mumford and Huang, 2001): a sky with
clouds, hills, and a dozen leaves (ellipses, polygons, bars), the nearer the smaller. Every leaf has its own colours,
shading, 1/f texture or stripes, and darkens what lies just behind its edge. Edges are a pixel-wide ramp of the distance to the
outline, textures are sums of waves the grid can hold, so a picture is antialiased at any size without being drawn larger first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Planes = NDArray[np.float32]
Pairs = NDArray[np.int64]

SPLITS = {"train": 0, "validation": 1, "test": 2}
LENGTHS = {"train": 100_000, "validation": 10_000, "test": 10_000}
HILLS, LEAVES, COLOURS, CHUNK = 3, 14, 6, 4
WAVES = 16  # highest spatial frequency of the textures, in waves a picture
EDGE = 1.1  # width of an edge in pixels


def paint(split: str, indices: Sequence[int] | NDArray[np.int64], image_size: int) -> NDArray[np.uint8]:
    """Pictures `indices` of `split` as (N, image_size, image_size, 3) uint8. Each is a function of split, index and size alone."""
    numbers = np.asarray(indices, dtype=np.int64)
    pictures = np.empty((len(numbers), image_size, image_size, 3), np.uint8)
    for first in range(0, len(numbers), CHUNK):  # the planes of a few pictures fit the processor's cache
        pictures[first : first + CHUNK] = _Painter(SPLITS[split], numbers[first : first + CHUNK], image_size).picture()
    return pictures


class _Painter:
    """Paints N pictures at once. Coordinates run from 0 to 1 over a picture; a plane is (N, S, S), a canvas (N, 3, S, S).

    The outlines of all hills and leaves are computed together, M (row, part) pairs a kind, and then laid one over the other.
    """

    def __init__(self, split: int, numbers: NDArray[np.int64], size: int) -> None:
        generators = [np.random.default_rng([split, int(number)]) for number in numbers]
        self.n, self.size = len(numbers), size
        self.whole = np.stack([generator.random(32, np.float32) for generator in generators])  # (N, 32)
        self.parts = np.stack([generator.random((HILLS + LEAVES, 32), np.float32) for generator in generators])  # (N, L, 32)
        waves = np.stack([generator.standard_normal((2, 2, 2 * WAVES + 1, WAVES + 1), np.float32) for generator in generators])
        self.leaves = (4 + (LEAVES - 3) * self.whole[:, 25] ** 1.1).astype(np.int64)  # from a landscape to a heap
        self.parts = self.parts[:, : HILLS + self.leaves.max()]  # L, only as many as the fullest picture has
        self.palette = self._palette()
        self.textures = self._textures(waves)  # (N, 2, S, S)
        axis = (np.arange(size, dtype=np.float32) + 0.5) / np.float32(size)
        self.y, self.x = axis[None, :, None], axis[None, None, :]

    def _palette(self) -> Planes:
        """(N, COLOURS, 3) colours of one harmony: hues around a base and its complement, values spread from dark to bright."""
        u = self.whole[:, :16].astype(np.float64)
        k = np.arange(COLOURS)
        anchor = np.interp(u[:, :1], [0, 0.3, 0.42, 0.58, 0.88, 0.95, 1], [0, 0.12, 0.2, 0.4, 0.64, 0.85, 1])  # orange and blue abound
        hue = anchor + (0.08 + 0.22 * u[:, 1:2]) * (u[:, 2 : 2 + COLOURS] - 0.5) + 0.5 * (k % 3 == 2)
        saturation = np.clip(0.04 + 0.55 * u[:, 8:9] ** 1.5 + 0.25 * (u[:, 2 : 2 + COLOURS] * 7 % 1 - 0.5), 0.03, 0.9)
        value = ((k * 5 % COLOURS + u[:, 9 : 9 + COLOURS]) / COLOURS) ** 0.7
        saturation *= 1.2 - 0.6 * value
        channel = np.clip(np.abs((hue[..., None] + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1, 0, 1)
        return (value[..., None] * (1 - saturation[..., None] * (1 - channel))).astype(np.float32)

    def _textures(self, waves: Planes) -> Planes:
        """Two fields a picture, of deviation about 1, whose amplitude falls as a power of frequency, as of stone or cloth."""
        size, top = self.size, min(WAVES, (self.size - 1) // 2)
        rows = np.r_[0 : top + 1, -top:0]
        frequency = np.hypot(rows[:, None], np.arange(top + 1)[None, :]).astype(np.float32)
        frequency[0, 0] = np.inf
        power = 0.35 + 0.6 * self.whole[:, 16:18]  # (N, 2)
        amplitude = frequency ** -power[..., None, None] * (frequency <= WAVES)
        spectrum = np.zeros((self.n, 2, size, size // 2 + 1), np.complex64)
        chosen = waves[..., rows, : top + 1] * amplitude[:, :, None]
        spectrum[..., rows, : top + 1] = chosen[:, :, 0] + 1j * chosen[:, :, 1]
        deviation = np.sqrt(4 * (amplitude**2).sum((-2, -1)))[..., None, None]
        return np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32) * (size * size / deviation).astype(np.float32)

    def picture(self) -> NDArray[np.uint8]:
        """The finished pictures, (N, S, S, 3) uint8."""
        canvas = self._sky()
        distance, across = self._outlines()
        cover = np.clip(0.5 - distance * np.float32(self.size / EDGE), 0, 1)
        through = (self._light(distance) * (1 - cover))[:, :, None]  # what is left of the picture so far, (L, N, 1, S, S)
        ink = self._ink(cover, across)
        for part in range(len(ink)):  # from back to front
            canvas *= through[part]
            canvas += ink[part]
        exposure = 1.28 + 0.8 * self.whole[:, 20, None, None, None]
        canvas = 0.5 + 0.5 * np.tanh(exposure * (2 * canvas - 1)) / np.tanh(exposure)
        return np.ascontiguousarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(0, 2, 3, 1))

    def _outlines(self) -> tuple[Planes, Planes]:
        """Distance to each part's outline (negative inside, far for a part that is not there) and a coordinate across it: (L, N, S, S)."""
        distance = np.ones((self.parts.shape[1], self.n, self.size, self.size), np.float32)
        across = np.zeros_like(distance)
        number = np.arange(self.parts.shape[1])[:, None]
        kind = self.parts[:, :, 0].T  # (L, N)
        leaf = (number >= HILLS) & (number < HILLS + self.leaves)
        for outline, chosen in (
            (self._hill, (number < HILLS) & (kind < 0.5)),
            (self._ellipse, leaf & (kind < 0.45)),
            (self._polygon, leaf & (kind >= 0.45) & (kind < 0.8)),
            (self._bar, leaf & (kind >= 0.8)),
        ):
            part, row = np.nonzero(chosen)
            distance[part, row], across[part, row] = outline(row, part)
        return distance, across

    def _sky(self) -> Planes:
        u = self.whole
        angle = (6.2832 * u[:, 23])[:, None, None]
        mix = 0.5 + np.cos(angle) * (self.x - 0.5) + np.sin(angle) * (self.y - 0.5) + (0.3 * u[:, 24])[:, None, None] * self.textures[:, 0]
        low, high = self._colour(u[:, 21])[..., None, None], self._colour(u[:, 22])[..., None, None]
        return low + (high - low) * np.clip(mix, 0, 1)[:, None]

    def _colour(self, u: Planes) -> Planes:
        """The colours number u (..., N), from 0 to 1, of the rows' palettes: (..., N, 3)."""
        return self.palette[np.arange(self.n), (u * COLOURS).astype(np.int64) % COLOURS]

    def _hill(self, row: Pairs, part: Pairs) -> tuple[Planes, Planes]:
        u = self.parts[row, part][:, :, None, None]
        height = (0.25 + 0.2 * part[:, None, None]).astype(np.float32) + 0.3 * u[:, 1]
        ridge = (0.02 + 0.05 * u[:, 2]) * self.textures[row, part % 2, self.size * part // HILLS][:, None, :]
        distance = height + ridge + (u[:, 3] - 0.5) * 0.5 * (self.x - 0.5) - self.y
        return distance, np.clip(-1.5 * distance, -1, 1)

    def _frame(self, row: Pairs, part: Pairs) -> tuple[Planes, Planes, Planes]:
        """Coordinates along and across a leaf in units of its half-axes, and its shorter half-axis."""
        u = self.parts[row, part][:, :, None, None]
        nearer = ((part - HILLS) / (LEAVES - 1)).astype(np.float32)[:, None, None]  # leaves in front are smaller
        half = 0.6 * (1 - nearer) * (0.5 + 0.5 * u[:, 1]) + 0.28 + 0.2 * u[:, 1]
        slim = 0.6 + 0.4 * u[:, 2]
        angle = 6.2832 * u[:, 3]
        dx, dy = self.x - (1.2 * u[:, 4] - 0.1), self.y - (1.2 * u[:, 5] - 0.1)
        cos, sin = np.cos(angle) / half, np.sin(angle) / half
        return cos * dx + sin * dy, (cos / slim) * dy - (sin / slim) * dx, half * slim

    def _ellipse(self, row: Pairs, part: Pairs) -> tuple[Planes, Planes]:
        along, across, half = self._frame(row, part)
        return (np.sqrt(along * along + across * across) - 1) * half, along

    def _polygon(self, row: Pairs, part: Pairs) -> tuple[Planes, Planes]:
        along, across, half = self._frame(row, part)
        u = self.parts[row, part]
        corners = 3 + (u[:, 6] * 3).astype(np.int64)
        distance = np.full(along.shape, -1, np.float32)
        for side in range(5):
            angle = (6.2832 * ((side % corners + 0.3 * u[:, 7 + side]) / corners)).astype(np.float32)[:, None, None]
            np.maximum(distance, np.cos(angle) * along + np.sin(angle) * across - 0.75, out=distance)
        return distance * half, along

    def _bar(self, row: Pairs, part: Pairs) -> tuple[Planes, Planes]:
        along, across, half = self._frame(row, part)
        return np.maximum(np.abs(along) * 0.5 - 1, np.abs(across) * 2.5 - 1) * half / 2.5, across

    def _light(self, distance: Planes) -> Planes:
        """What a part leaves of the light behind it: its shadow fades away from its outline."""
        shadow = np.clip(1 - distance / np.float32(0.08), 0, 1)
        depth = (0.1 + 0.25 * self.parts[:, :, 19].T)[:, :, None, None]
        return 1 - depth * shadow * shadow

    def _ink(self, cover: Planes, across: Planes) -> Planes:
        """What each part adds where it covers, (L, N, 3, S, S): two colours, mixed by shading and texture or by stripes."""
        u = self.parts.transpose(2, 1, 0)  # (32, L, N)
        texture = self.textures[np.arange(self.n), (u[16] * 2).astype(np.int64)]
        mix = (0.25 + 0.25 * u[14])[:, :, None, None] * across + (0.065 + 0.185 * u[15])[:, :, None, None] * texture
        striped = u[17] < 0.05
        mix[striped] = 0.8 * np.sin((3.1416 * (0.8 + 1.2 * u[18][striped]))[:, None, None] * across[striped])
        mix = np.clip(0.35 + 0.65 * mix, -0.1, 1.1)
        first, second = self._colour(u[12]), self._colour(u[12] + 0.17 + 0.5 * u[13])
        colours = np.stack([first, second - first], axis=-1)  # (L, N, 3, 2)
        amounts = np.stack([cover, cover * mix], axis=2)  # (L, N, 2, S, S)
        return (colours @ amounts.reshape(*amounts.shape[:3], -1)).reshape(*colours.shape[:3], self.size, self.size)
