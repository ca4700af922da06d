"""Pictures of dreams: frames drawn large, maps of remembered places, panels side by side. What needs text or lines needs Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

    from gtmsm_env.memory import SpatialMemory

Picture = NDArray[np.uint8]  # (H, W, 3)
Colour = tuple[int, int, int]

SIZE = 512  # pixels a side of a drawn frame
BACKGROUND, PANEL, TEXT = (19, 21, 27), (29, 32, 41), (214, 218, 228)
PLACE, PATH, PLAN, GOAL, HERE = (84, 92, 116), (92, 156, 255), (64, 214, 176), (255, 214, 0), (255, 255, 255)
OBSTACLE = (176, 84, 72)
SMOOTH = 3  # lines are drawn this much larger and scaled down


def enlarge(frame: Picture, scale: int | None = None) -> Picture:
    """A frame (H, W, 3) `scale` times as large, pixel for pixel; as near to `SIZE` as whole pixels allow by default."""
    scale = max(1, SIZE // len(frame)) if scale is None else scale
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)


def map_of_places(
    memory: SpatialMemory | Any,
    path: Any = None,
    goal: Any = None,
    size: int = SIZE,
    *,
    plan: Any = None,
    obstacles: Any = None,
    axes: Any = None,
) -> Picture:
    """A square map of one memory's places: where the agent is believed to have been, to be, to be going, and what stands in its way.

    Args:
        memory: of one world, (N,) or (1, N) entries; or their states (N, n)
        path: (T, n) states since the episode began, the last one now
        goal: (n,) state
        size: pixels a side
        plan: (T, n) states that lie ahead
        obstacles: (O, n) states that cannot be entered
        axes: (n, 2) turns states into (down, right), as a model's `views.A` does; the first two axes of the state by default
    """
    places = _numbers(getattr(memory, "s_mean", memory))
    places = places.reshape(-1, places.shape[-1])[: int(memory.count.max()) if hasattr(memory, "count") else None]
    lines = [None if line is None else _numbers(line).reshape(-1, places.shape[1]) for line in (path, plan, goal)]
    stones = places[:0] if obstacles is None else _numbers(obstacles)
    turn = np.eye(places.shape[1], 2) if axes is None else _numbers(axes)
    everything = np.concatenate([places, stones, *[line for line in lines if line is not None]]) @ turn
    middle, reach = (everything.max(0) + everything.min(0)) / 2, max(float(np.ptp(everything, axis=0).max()) / 2, 1e-6)
    spots = places @ turn
    step = _spacing(spots, reach)

    def pixels(points: NDArray[np.float64]) -> list[tuple[float, float]]:
        scaled = ((points @ turn - middle) / (reach + step) * 0.46 + 0.5) * size * SMOOTH
        return [(float(x), float(y)) for y, x in scaled]

    image, draw = _canvas(size * SMOOTH, size * SMOOTH, PANEL)
    dot = min(max(step / (reach + step) * 0.46 * size * SMOOTH * 0.26, 2.5 * SMOOTH), 9 * SMOOTH)
    for x, y in pixels(stones):
        draw.rectangle([x - 1.5 * dot, y - 1.5 * dot, x + 1.5 * dot, y + 1.5 * dot], fill=OBSTACLE)
    for spot in pixels(places):
        _disc(draw, spot, dot, PLACE)
    walked, ahead, target = lines
    if walked is not None:
        trace = pixels(walked)
        for age, (a, b) in enumerate(pairwise(trace), start=2 - len(trace)):
            shade = 0.3 + 0.7 * max(0.0, 1 + age / 40)  # what lies back fades
            draw.line([a, b], fill=_mix(PATH, PANEL, shade), width=int(dot * 0.7))
            _disc(draw, a, dot * 0.35, _mix(PATH, PANEL, shade))
    if ahead is not None:
        draw.line(pixels(ahead if walked is None else np.concatenate([walked[-1:], ahead])), fill=PLAN, width=int(dot * 0.5), joint="curve")
        for spot in pixels(ahead):
            _disc(draw, spot, dot * 0.6, PLAN)
    if target is not None:
        (spot,) = pixels(target)
        _disc(draw, spot, dot * 1.9, PANEL)
        _ring(draw, spot, dot * 1.7, GOAL, int(dot * 0.55))
    if walked is not None:
        here = pixels(walked[-1:])[0]
        _disc(draw, here, dot * 1.35, PANEL)
        _disc(draw, here, dot * 1.05, HERE)
    return np.asarray(image.resize((size, size), resample=4)).copy()  # 4: Image.BOX, the mean of each square


def side_by_side(pictures: Sequence[Picture], labels: Sequence[str], height: int | None = None) -> Picture:
    """Pictures in a row on one dark background, each under its label; enlarged in whole pixels towards `height`, the tallest by default."""
    height = max(len(picture) for picture in pictures) if height is None else height
    pictures = [enlarge(picture, max(1, height // len(picture))) for picture in pictures]
    gap, strip = max(8, height // 32), max(18, height // 14)
    font = _font(max(11, height // 26))
    even = 2  # video codecs want even sizes
    width = -(-(sum(picture.shape[1] + gap for picture in pictures) + gap) // even) * even
    tall = -(-(strip + gap + height + gap) // even) * even
    image, draw = _canvas(width, tall, BACKGROUND)
    canvas = np.asarray(image).copy()
    left = gap
    for picture, label in zip(pictures, labels, strict=True):
        down = strip + gap + (height - len(picture)) // 2
        canvas[down : down + len(picture), left : left + picture.shape[1]] = picture
        draw.text((left + picture.shape[1] / 2, (strip + gap) / 2), label, fill=TEXT, font=font, anchor="mm")
        left += picture.shape[1] + gap
    canvas[: strip + gap] = np.asarray(image)[: strip + gap]
    return canvas


def _numbers(values: Any) -> NDArray[np.float64]:
    """Tensors, lists of them, and arrays alike."""
    if isinstance(values, list | tuple):
        return np.stack([_numbers(value) for value in values])
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, np.float64)


def _spacing(points: NDArray[np.float64], otherwise: float) -> float:
    """The usual distance from a place to the next."""
    if len(points) < 2:
        return otherwise
    between = np.linalg.norm(points[:, None] - points, axis=-1)
    near = np.where(between > 1e-3 * between.max(), between, np.inf).min(axis=1)
    return float(np.median(near)) if np.isfinite(near).all() else otherwise


def _canvas(width: int, height: int, colour: Colour) -> tuple[Any, ImageDraw.ImageDraw]:
    try:
        from PIL import Image, ImageDraw
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("maps and labels are drawn with Pillow: pip install 'gtmsm-env[images]'") from error
    image = Image.new("RGB", (width, height), colour)
    return image, ImageDraw.Draw(image)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _disc(draw: ImageDraw.ImageDraw, spot: tuple[float, float], radius: float, colour: Colour) -> None:
    x, y = spot
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def _ring(draw: ImageDraw.ImageDraw, spot: tuple[float, float], radius: float, colour: Colour, width: int) -> None:
    x, y = spot
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=colour, width=width)


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    r, g, b = (round(share * mine + (1 - share) * theirs) for mine, theirs in zip(colour, other, strict=True))
    return r, g, b
