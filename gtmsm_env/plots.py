"""The figures of `evaluate`: the paper's figures 2 and 6, fidelity by horizon, positions, variance, and a film. Needs the extra `plot`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from gtmsm_env.drawing import Picture, map_of_places, side_by_side
from gtmsm_env.envs.windows import outlined
from gtmsm_env.vector import Flags, Floats

EAST_NORTH = np.array([[0.0, 1.0], [-1.0, 0.0]])  # of places (east, north): how far down and right they are drawn
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#2166ac", "#e08214", "#1b7837", "#c51b3c", "#762a83", "#8c8c8c"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "savefig.dpi": 200,
    "figure.facecolor": "white",
}


def save(figure: Figure, file: Path) -> None:
    """A PNG, renamed into place."""
    new = file.with_name(file.name + ".new")
    figure.savefig(new, format="png")
    new.replace(file)


def path(axes: Axes, at: Floats, title: str) -> PathCollection:
    """A walk through places (T, 2) as (across, down or up), coloured from its beginning to its end."""
    x, y = at.T
    axes.plot(x, y, color="#bbbbbb", linewidth=0.8, zorder=1)
    dots = axes.scatter(x, y, c=np.arange(1, len(at) + 1), cmap="viridis", s=26, linewidths=0, zorder=2)
    axes.scatter(x[-1:], y[-1:], marker="*", s=220, color=RED, edgecolor="white", linewidths=0.9, zorder=4, label="final position")
    axes.set_title(title)
    axes.set_aspect("equal", adjustable="box")
    axes.tick_params(length=0)
    return dots


def colours_of_steps(figure: FigureBase, dots: PathCollection, panels: Any) -> None:
    """The key to the colours of paths, right of their panels."""
    bar = figure.colorbar(dots, ax=panels, fraction=0.02, pad=0.01, aspect=26, shrink=0.85, anchor=(0, 1), ticks=[1, 64, 128, 192, 256])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)
    bar.set_label("step")


def figure_2(
    file: Path,
    picture: NDArray[np.uint8],
    positions: NDArray[np.int64],
    states: Floats,
    true: NDArray[np.uint8],
    imagined: NDArray[np.uint8],
    visited: Flags,
    step_size: int,
    horizons: Sequence[int],
) -> None:
    """The paper's figure 2. a: the world and the current observation; b: true positions of the remembered steps; c: inferred ones, in the
    model's own unit; d: true and predicted frames.

    picture: (S, S, 3); positions, states: (tau, 2) of the remembered steps; true, imagined: (H, h, w, 3) and visited (H,) of the imagined
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 6.2), layout="constrained")
        upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[1.6, 1]))
        a, b, c = upper.subplots(1, 3)

        a.imshow(picture)
        size = true.shape[1]
        top, left = positions[-1] * step_size
        for colour, width in (("black", 4.2), ("#ffd92f", 2.4)):
            a.add_patch(Rectangle((left - 0.5, top - 0.5), size, size, fill=False, edgecolor=colour, linewidth=width))
        a.set_title("a  World and current frame")
        a.set(xticks=[], yticks=[])
        a.grid(visible=False)
        a.spines[:].set_visible(False)

        path(b, positions[:, ::-1].astype(float), f"b  True positions of {len(positions)} steps")
        last = (len(picture) - size) // step_size
        b.set(xlim=(-0.6, last + 0.6), ylim=(last + 0.6, -0.6), xticks=range(last + 1), yticks=range(last + 1))
        b.set(xlabel="column", ylabel="row")
        dots = path(c, states[:, ::-1], "c  Inferred positions")
        middle, reach = (states.max(0) + states.min(0)) / 2, 0.575 * np.ptp(states, axis=0).max()
        c.set(xlim=(middle[1] - reach, middle[1] + reach), ylim=(middle[0] - reach, middle[0] + reach))
        c.set(xlabel="$s^2$", ylabel="$s^1$")
        colours_of_steps(upper, dots, [a, b, c])
        upper.legend(*b.get_legend_handles_labels(), loc="lower right", fontsize=8, handletextpad=0.2, borderaxespad=0.2)

        strip = frames_seen_and_imagined(
            lower, true, imagined, horizons, "imagined step; framed in orange: places the walk has not visited"
        )
        for column, horizon in zip(strip.T, horizons, strict=True):
            for spine in (spine for axes in column for spine in axes.spines.values()):
                spine.set(visible=True, color="#555555" if visited[horizon - 1] else ORANGE, linewidth=0.8 if visited[horizon - 1] else 2.6)
        save(figure, file)


def frames_seen_and_imagined(
    panel: Any,
    true: NDArray[np.uint8],
    imagined: NDArray[np.uint8],
    horizons: Sequence[int],
    below: str,
    title: str = "d  Frames seen and frames imagined from actions alone",
) -> NDArray[Any]:
    """Panel d of figures 2 and 3: true frames (H, h, w, 3) over imagined ones, at some imagined steps. Returns the axes, (2, steps)."""
    strip: NDArray[Any] = panel.subplots(2, len(horizons), squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    panel.suptitle(title, x=0.008, ha="left", fontsize=10, fontweight="bold")
    for column, horizon in zip(strip.T, horizons, strict=True):
        for axes, frames in zip(column, (true, imagined), strict=True):
            axes.imshow(frames[horizon - 1])
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
        column[0].set_title(f"{horizon}", fontsize=8, fontweight="normal", loc="center", pad=3)
    strip[0, 0].set_ylabel("true", fontsize=9)
    strip[1, 0].set_ylabel("imagined", fontsize=9)
    panel.supxlabel(below, x=0.008, ha="left", fontsize=8, color="#555555")
    return strip


def figure_3(
    file: Path,
    picture: Picture,
    poses: Floats,
    states: Floats,
    tau: int,
    true: NDArray[np.uint8],
    imagined: NDArray[np.uint8],
    horizons: Sequence[int],
) -> None:
    """The paper's figure 3, of one walk. a: the room from above, with the agent where it stands at the last frame shown; b: where the agent
    was while remembering and after; c: where it was believed to be; d: true and predicted frames.

    picture: (S, S, 3); poses, states: (T, 3) true, seen from the start, and inferred; true, imagined: (H, h, w, 3)
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 5.6), layout="constrained")
        upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[1.5, 1]))
        a, b, c = upper.subplots(1, 3, width_ratios=[1, 1, 1])
        a.imshow(picture)
        a.set_title("a  The room, and the agent now")
        a.set(xticks=[], yticks=[])
        a.grid(visible=False)
        a.spines[:].set_visible(False)
        until = tau + max(horizons)
        both = np.concatenate([poses[:until], states[:until]])[:, :2]
        middle, reach = (both.max(0) + both.min(0)) / 2, max(0.6, 0.56 * np.ptp(both, axis=0).max())
        lengths = (3, 5) if turns_alone(poses) else (22, 22)  # of arrows, inversely: all of a turn start at one place
        for axes, at, title in ((b, poses, "b  True places and headings"), (c, states, "c  Inferred ones")):
            parts = (at[:tau], "#555555", "remembered"), (at[tau:until], BLUE, "imagined")
            for (part, colour, label), length in zip(parts, lengths, strict=True):
                axes.plot(*part[:, :2].T, color=colour, linewidth=1, alpha=0.5)
                ahead = np.stack([np.cos(part[:, 2]), np.sin(part[:, 2])])
                axes.quiver(*part[:, :2].T, *ahead, color=colour, width=0.004, scale=length, headwidth=4, label=label)
            last = at[until - 1]
            axes.quiver(*last[:2], np.cos(last[2]), np.sin(last[2]), color=RED, width=0.012, scale=10, headwidth=4, label="now", zorder=4)
            axes.set_title(title)
            axes.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))
            axes.set_aspect("equal", adjustable="box")
            axes.tick_params(length=0)
            axes.set(xlabel="$s^1$", ylabel="$s^2$")
        upper.legend(*b.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        frames_seen_and_imagined(lower, true, imagined, horizons, "imagined step")
        save(figure, file)


def figure_4(file: Path, picture: Picture, true: NDArray[np.uint8], imagined: NDArray[np.uint8], horizons: Sequence[int]) -> None:
    """The paper's figure 4, of one walk from room to room: the rooms from above, and true and predicted frames at some imagined steps.

    picture: (S, S, 3), with the agent at the first of these steps and, as its goal, at the last; true, imagined: (H, h, w, 3)
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 3.9), layout="constrained")
        left, right = np.asarray(figure.subfigures(1, 2, width_ratios=[1, 2.3]))
        axes = left.subplots()
        axes.imshow(picture)
        axes.set_title(f"From step {horizons[0]} (white) to {horizons[-1]} (yellow)")
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        for panel, part in zip(np.asarray(right.subfigures(2, 1)), np.array_split(np.asarray(horizons), 2), strict=True):
            frames_seen_and_imagined(panel, true, imagined, part.tolist(), "imagined step", "")
        save(figure, file)


def figure_6(file: Path, free: Flags, paths: dict[str, Floats], hits: Flags, moves: NDArray[np.int64]) -> None:
    """The paper's figure 6, of one walk: where it went among obstacles, and where it is believed to have gone.

    free: (P, P); paths: title -> (T, 2) positions; hits: (T - 1,) which steps an obstacle stopped, marked where half the move `moves`
    (T - 1, 2) would have led
    """
    side = len(free)
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        panels = figure.subplots(1, len(paths), sharey=True)
        for letter, axes, (title, at) in zip("abc", panels, paths.items(), strict=False):
            for row, column in np.argwhere(~free):
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color="#dddddd", linewidth=0))
            dots = path(axes, at[:, ::-1], f"{letter}  {title}")
            y, x = (at[:-1] + moves / 2)[hits].T
            axes.scatter(x, y, marker="x", s=30, color=RED, linewidths=1.3, zorder=3, label="stopped by an obstacle")
            axes.set(xlim=(-0.9, side - 0.1), ylim=(side - 0.1, -0.9), xticks=range(side), yticks=range(side), xlabel="column")
            axes.grid(visible=False)
        panels[0].set_ylabel("row")
        colours_of_steps(figure, dots, panels)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        save(figure, file)


def drift_figure(file: Path, error: dict[str, dict[str, Floats]]) -> None:
    """Errors of inferred positions in steps, all along walks: a panel for each kind of walk -> what infers -> (W, T).

    The band leaves a quarter of the worlds below and one above, each world's error averaged over 16 steps, as it jumps from place to place.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.1), layout="constrained")
        panels = figure.subplots(1, len(error), sharey=True)
        for axes, (title, kinds) in zip(panels, error.items(), strict=True):
            for (name, values), colour in zip(kinds.items(), (BLUE, GREY), strict=True):
                steps = np.arange(values.shape[1])
                axes.plot(steps, values.mean(axis=0), color=colour, label=f"{name}, mean")
                even = np.lib.stride_tricks.sliding_window_view(values, 16, axis=1).mean(axis=-1)
                band = np.percentile(even, (25, 75), axis=0)
                axes.fill_between(steps[8:-7], *band, color=colour, alpha=0.2, linewidth=0, label="the middle half of the worlds")
            # A little below nothing, so that a line there is seen.
            axes.set(title=title[0].upper() + title[1:], xlabel="step", xlim=(0, steps[-1]), ylim=(-0.05, None))
            axes.tick_params(length=0)
            half_a_step(axes)
        panels[0].set_ylabel("error, steps")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
        save(figure, file)


def half_a_step(axes: Axes) -> None:
    """The line that errors should stay below."""
    axes.axhline(0.5, color=RED, linestyle=(0, (4, 3)), linewidth=1.2, label="half a step: the next place is nearer")


def binned(values: Floats, chosen: Flags, edges: NDArray[np.int64]) -> Floats:
    """Mean of chosen values (W, H) between consecutive edges; NaN where there are none."""
    means = np.full(len(edges) - 1, np.nan)
    for i, (low, high) in enumerate(pairwise(edges)):
        kept = values[:, low:high][chosen[:, low:high]]
        means[i] = kept.mean() if kept.size else np.nan
    return means


def horizon_figure(
    file: Path, error: dict[str, Floats], kinds: dict[str, Flags], styles: dict[str, dict[str, Any]], width: int = 40
) -> None:
    """PSNR of each read-out by imagined step, in bins of `width`, one panel a kind of places. error: read-out -> (W, H) mean squares."""
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.1), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(kinds), sharey=True))
        for axes, (title, chosen) in zip(panels, kinds.items(), strict=True):
            edges = np.unique(np.append(np.arange(0, chosen.shape[1], width), chosen.shape[1]))
            middle = (edges[:-1] + edges[1:] + 1) / 2
            for name, values in error.items():
                mse = binned(values, chosen, edges)
                if (mse[~np.isnan(mse)] > 0).any():  # an exact read-out has no decibels
                    axes.plot(middle, -10 * np.log10(np.where(mse > 0, mse, np.nan)), label=name, **styles[name])
            ticks = range(0, chosen.shape[1] + 1, 250 if chosen.shape[1] > 500 else 15 if chosen.shape[1] < 100 else 50)
            axes.set(title=title[0].upper() + title[1:], xlabel="imagined step", xlim=(0, chosen.shape[1]), xticks=ticks)
            axes.tick_params(length=0)
        panels[0].set_ylabel("PSNR, dB (pooled MSE)")
        handles = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        names = [name for name in error if name in handles]
        figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=min(5, (len(names) + 1) // 2), fontsize=8)
        save(figure, file)


def position_figure(file: Path, error: Floats, standardised: dict[str, Floats]) -> None:
    """Left: the error of inferred positions (W, H), in steps, by imagined step. Right: how often z lies where our prior expects it.

    standardised: kind of places -> any shape, (z - m)^2 / v
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9.5 if standardised else 5.6, 3.9), layout="constrained")
        panels = figure.subplots(1, 2 if standardised else 1, width_ratios=[1.45, 1] if standardised else [1], squeeze=False)[0]
        drift, steps = panels[0], np.arange(1, error.shape[1] + 1)
        for share, colour, name in ((100, GREY, "largest"), (95, BLUE, "95 % of worlds below"), (50, "#053061", "median")):
            drift.plot(steps, np.percentile(error, share, axis=0), color=colour, linewidth=1.2, label=name)
        half_a_step(drift)
        drift.set(title="Error of inferred positions", xlabel="imagined step", ylabel="steps", xlim=(0, len(steps)), yscale="log")
        drift.set_ylim(max(1e-4, np.percentile(error, 50, axis=0).min() / 3), max(1.0, 1.5 * error.max()))
        drift.tick_params(length=0, which="both")
        drift.legend(loc="upper left", bbox_to_anchor=(0, 0.86), fontsize=8)
        if standardised:
            calibration, grid = panels[1], np.linspace(0, 1, 101)
            calibration.plot([0, 100], [0, 100], color=GREY, linestyle=(0, (4, 3)), linewidth=1.2, label="an honest variance")
            quantiles = np.square([normal_quantile((1 + p) / 2) for p in grid[:-1]])
            for (name, values), colour in zip(standardised.items(), (BLUE, ORANGE), strict=False):
                inside = [100 * float((values < q).mean()) for q in quantiles]
                calibration.plot(100 * grid[:-1], inside, color=colour, label=name)
            calibration.set(title="Variance of our prior", xlabel="expected share of encodings within, %", ylabel="found, %")
            calibration.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
            calibration.tick_params(length=0)
            calibration.legend(loc="lower right", fontsize=8)
        save(figure, file)


def normal_quantile(p: float) -> float:
    """The value that a standard normal variable stays below with probability p."""
    return NormalDist().inv_cdf(p)


def film(
    picture: Picture,
    positions: NDArray[np.int64],
    states: Floats,
    true: Picture,
    imagined: Picture,
    visited: Flags,
    step_size: int,
    axes: Any,
    steps: int = 256,
) -> Iterator[Picture]:
    """Pictures of a video: the world and its window, the true frame, the imagined one, the map of the inferred positions.

    picture (S, S, 3); positions (H, 2), true and imagined (H, h, w, 3), visited (H,) of the imagined steps; states (tau + H, n) of all;
    axes: see `map_of_places`
    """
    remembered = states[: len(states) - len(true)]
    for h in range(steps):
        world = outlined(picture, positions[h], None, true.shape[1], step_size)
        path = states[len(remembered) : len(remembered) + h + 1]
        yield side_by_side(
            [world[::2, ::2], true[h], imagined[h], map_of_places(remembered, path, size=256, axes=axes)],
            ["world", "true frame", "imagined" if visited[h] else "imagined, never visited", f"inferred positions, step {h + 1}"],
            height=256,
        )


def turns_alone(states: Floats) -> bool:
    """Whether states (T, 3) are of an agent that stays where it is: what is left of places is rounding."""
    return bool(np.ptp(states[:, :2], axis=0).max() < 0.05)


def first_person_film(pictures: Iterable[Picture], true: Picture, imagined: Picture, states: Floats, tau: int) -> Iterator[Picture]:
    """Pictures of a video in first person: the room from above, the true frame, the imagined one, the map of the inferred places, or of
    the headings of an agent that only turns.

    pictures: of each imagined step, (S, S, 3); true, imagined (H, h, w, 3); states (tau + H, 3) of all
    """
    what, at = "places", states[:, :2]
    if turns_alone(states):
        what, at = "headings", np.stack([np.cos(states[:, 2]), np.sin(states[:, 2])], axis=1)
    for h, picture in enumerate(pictures):
        map_ = map_of_places(at[:tau], at[tau : tau + h + 1], size=256, axes=EAST_NORTH)
        titles = ["room", "true frame", "imagined", f"inferred {what}, step {h + 1}"]
        yield side_by_side([picture[::2, ::2], true[h], imagined[h], map_], titles, height=256)
