"""The batched core of the dream: many beliefs, each stepped by the model in a memory of its own."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from gtmsm_env import drawing
from gtmsm_env.belief import Shown, shown_space, told
from gtmsm_env.episodes import NOWHERE, Episodes, Looks, Nearby, Starts, choose_goals
from gtmsm_env.graphs import Replayed
from gtmsm_env.loops import loops_for
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM, Stops
from gtmsm_env.networks import x_to_frames
from gtmsm_env.types import WITHIN, Belief, result_of
from gtmsm_env.vector import BatchedRows, Flags, Info, Observation, Rows
from gtmsm_env.worlds import (
    WorldsAhead,
    alike,
    check_given,
    check_world,
    end_of,
    finding_places,
    has_goals,
    index,
    move,
    newest_rewards,
    open_model,
    put_over,
    spread,
    tolerance,
    without_views,
)

if TYPE_CHECKING:
    from gtmsm_env.dream_compiled import Stepping

Task = Literal["world", "goal", "reward"]
AHEAD, PICTURED = 256, 8  # episodes that are drawn for a row at once, at most; the same where each shows its goal
TOGETHER = 65_536  # episodes of all rows from which only PICTURED are drawn for each, as all places are looked at for each
NOBODY, INT64 = np.empty(0, np.int64), np.dtype(np.int64)
BULK = 256  # worlds that are walked at once, at most: more take little less time each, and the first reset waits for all


class Stepped(NamedTuple):
    """A step as arrays: what Gymnasium's and Stable-Baselines3's infos are made of, and no infos."""

    observation: Observation
    reward: NDArray[np.float32]
    terminated: Flags
    truncated: Flags
    facts: dict[str, NDArray[Any]]  # what infos tell of every row, (N,) each
    final: tuple[Rows, Observation, dict[str, NDArray[Any]]] | None  # rows (R,) that began again at once, their last observation, facts


class DreamVectorEnv(BatchedRows):
    """Many dreams in one batched computation. Row i seeded s + i dreams what `DreamEnv` seeded s + i dreams, but for rounding.

    See `DreamEnv` for spaces, rewards, the life of a dream, arguments and options. In a vector, "state" and "goal" among the options
    have one entry a row, and `options` may also hold Gymnasium's "reset_mask". `autoreset_mode` is an `AutoresetMode` or its value.
    `max_episode_steps` is what `make_vec` hands over; the smaller of it and `horizon` counts.
    """

    _home: Belief  # where each row's walk ended, and the places it remembers
    _lent = False  # whether somebody outside may hold that memory
    _nearby: Nearby  # these places, to be searched
    _looks: Looks  # which of them look alike, where there are goals
    _stops: Stops | None  # where obstacles are known
    _found: Tensor | None = None  # (N,) novelty of where the rows are, once asked for

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str = "GTMSM-ImageNavigation-v0",
        world_kwargs: Mapping[str, Any] | None = None,
        model: str | GTMSM | None = None,
        memory: str | Path | SpatialMemory | None = None,
        belief: Belief | None = None,
        walk_steps: int = 256,
        episodes_per_walk: int | None = 8,
        start: Literal["walk_end", "remembered"] = "walk_end",
        horizon: int | None = 128,
        observation: Shown = "frame",
        novelty: bool = False,
        task: Task | None = "world",
        device: str = "cpu",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        view: Literal["dream", "all"] = "dream",
    ) -> None:
        limits = {"num_envs": num_envs, "horizon": horizon, "max_episode_steps": max_episode_steps, "episodes_per_walk": episodes_per_walk}
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1{', or None for no limit' * (name != 'num_envs')}, got {limit}")
        for name, value, allowed in (
            ("start", start, ("walk_end", "remembered")),
            ("render_mode", render_mode, (None, "rgb_array")),
            ("view", view, ("dream", "all")),
            ("task", task, ("world", "goal", "reward", None)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
        if memory is not None and belief is not None:
            raise ValueError("A dream starts from one memory: give memory, or belief, which holds one, not both.")
        self.num_envs, self.render_mode, self.view = num_envs, render_mode, view
        self.start, self.episodes_per_walk, self.walk_steps, self.novelty = start, episodes_per_walk, walk_steps, novelty
        self.horizon = min((limit for limit in (horizon, max_episode_steps) if limit is not None), default=np.iinfo(np.int64).max)
        self.model = open_model(model, world, device)
        self._device, self._step_length = self.model.transition.W_a.device, self.model.step_length
        self._prepare(num_envs, autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.world, self.world_kwargs = world, dict(world_kwargs or {})
        given = end_of(memory, self.model) if memory is not None else belief
        pictured = {"render_mode": "rgb_array"} if render_mode and view == "all" and given is None else {}
        self._walkers = gym.make_vec(world, min(num_envs, BULK) if given is None else 1, **{**pictured, **self.world_kwargs})
        shown, actions = self._walkers.single_observation_space, self._walkers.single_action_space
        check_world(self.model, world, self.world_kwargs, shown, actions)
        assert isinstance(shown, spaces.Dict)
        self._world_space, self.single_action_space = shown, actions
        self._there = tolerance(self.model, self._walkers)
        self.action_space = batch_space(actions, num_envs)
        self.task = self._checked_task(task)
        most = min(AHEAD, max(PICTURED, TOGETHER // num_envs))
        self._ahead = min(episodes_per_walk or most, most) if given is None else most
        self.show(observation)

        self._warned = False  # of a memory that knows of no obstacles
        self._replays = self._device.type == "cuda" and render_mode is None
        self._replayed: tuple[Replayed, list[str]] | None = None
        self._stepping: Stepping | None = None
        self._left = np.zeros(num_envs, np.int64)  # episodes that are still to be drawn until another world is walked
        self._paid = np.zeros(num_envs, np.int64)
        self._places = torch.zeros(num_envs, dtype=torch.int64, device=self._device)  # the first of each memory, which are distinct
        self._drawn: list[np.random.Generator] = [np.random.default_rng(0)] * num_envs  # what is left of each world's random numbers
        self._asides = list(self._drawn)  # what draws the episodes in beliefs that rows are given in the place of their worlds
        self._pictures: list[NDArray[np.uint8] | None] = [None] * num_envs  # each world as its walk ended
        self._drawing = render_mode is not None and view == "all"
        self._paths: list[list[Tensor]] = [[] for _ in range(num_envs)]  # imagined states of the episode, to be drawn
        self._source: Belief | WorldsAhead
        if given is None:
            keep = self._walked_pictures if pictured else None
            self._source = WorldsAhead(self._walkers, self.model, walk_steps, self._snapshot, self.task == "goal", keep, num_envs)
        else:
            self._source = self._rows_of(given)

    # ---------------------------------------------------------------- what is asked for

    def _checked_task(self, task: Task | None) -> Literal["goal", "reward"] | None:
        """Where reward and termination come from; nothing is guessed."""
        goal = "goal" in self._world_space.spaces
        if task == "world" and not goal:
            raise ValueError(
                f"This dream has no source of reward: {self.world} with {self.world_kwargs} shows no goal. Give task='reward' to read what "
                "was received at remembered places, or task=None for a dream without reward."
            )
        if task in ("reward", None) and goal:
            raise ValueError(
                f"{self.world} shows a goal, so its dream, which has the same spaces, has the task of reaching it; given task={task!r}. "
                "Make the world without its own task: world_kwargs={'task': None}."
            )
        if task == "goal" and not goal:
            raise ValueError(f"task 'goal' needs a world that shows one under 'goal'; {self.world} with {self.world_kwargs} does not.")
        return "goal" if goal else "reward" if task == "reward" else None

    def show(self, observation: Shown) -> None:
        """Choose the observation: "frame", "belief" or "state". The belief wrappers call it before the first reset."""
        if self._ready.any():
            raise ValueError("What a dream shows is chosen before its first reset.")
        space = shown_space(self._world_space, self.model, observation)
        self.single_observation_space, self.observation_space = space, batch_space(space, self.num_envs)
        self._frames, self._entries = "frame" in space.spaces, "state" in space.spaces
        self._episodes = Episodes(self.num_envs, min(self._ahead, PICTURED) if self._frames else self._ahead, self._device)

    def _rows_of(self, belief: Belief) -> Belief:
        """A belief the caller gave, as one a row. Raises ValueError for one of another model."""
        check_given(self.model, belief.memory)
        if self.model.landmarks is not None and not {"effect", "tried"} & belief.memory.values.keys() and not self._warned:
            gym.logger.warn(
                "A dream stops at obstacles where its memory keeps what moves did (`origin`, `action`, `effect`); the one given keeps none "
                "of that, so obstacles are not honoured. Remember the walk with a model that has landmarks: model.remember(walk)."
            )
            self._warned = True
        if not (belief.mean.isfinite().all() and belief.displacement.isfinite().all()):
            raise ValueError("A dream begins at a state of finite numbers; the belief given has NaN or infinity. Look where that began.")
        belief = spread(result_of(self._snapshot(move(belief, self._device))), self.num_envs)
        if self.task == "goal" and not has_goals(belief.memory).all():
            raise ValueError("A goal is a place that looks unlike the start; in the memory given everything looks the same. Walk further.")
        return belief

    def _walked_pictures(self, rows: Rows) -> list[Any]:
        pictures = self._walkers.render() or ()
        return [pictures[row] for row in rows]

    def _snapshot(self, belief: Belief) -> Generator[bool, None, Belief]:
        """Finds what a dream holds of a belief: its distinct places, with what frames are made of where these are shown or drawn."""
        views = self._frames or self.render_mode is not None
        memory = yield from finding_places(self.model, belief.memory, views)
        if self.task == "reward":
            memory = newest_rewards(memory, belief.memory, WITHIN * self._step_length)
        distinct = memory.distinct(WITHIN * self._step_length).count  # in bulk, as it looks at one place after another
        memory = memory.but(facts={**memory.facts, "distinct": distinct})
        memory = memory if views else without_views(memory)
        return Belief(belief.mean, belief.variance, belief.displacement, memory)

    # ---------------------------------------------------------------- the life of a dream

    def __getstate__(self) -> dict[str, Any]:
        # A function, made of the memory; a graph of one device; arrays that lie where the tensors do.
        return self.__dict__ | {"_stops": None, "_replayed": None, "_stepping": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._ready.any():
            self._stops = self.model.stops(self._home.memory)

    @property
    def _ended(self) -> Flags:  # kept on the device, for `step_tensors`
        flags: Flags = self._over.cpu().numpy()
        return flags

    @_ended.setter
    def _ended(self, ended: Flags) -> None:
        self._over = torch.from_numpy(ended).to(self._device)

    def _seeded(self, rows: Rows) -> None:
        if isinstance(self._source, WorldsAhead):
            self._source.forget(rows)
            for row in rows.tolist():
                self._asides[row] = self.generators[row].spawn(1)[0]
        self._episodes.forget(self._index(rows))
        self._left[rows] = self._paid[rows] = 0

    def _index(self, rows: Rows) -> Tensor:
        return torch.from_numpy(rows).to(self._device)

    @torch.no_grad()
    def _begin(self, rows: Rows, options: dict[str, Any]) -> None:
        self._replayed = self._stepping = None  # they read what may now be replaced
        belief, state, goal = (options.pop(name, None) for name in ("belief", "state", "goal"))
        if options:
            raise ValueError(f"reset options are belief, state, goal and (in a vector) reset_mask, got also {sorted(options)}")
        if goal is not None and self.task != "goal":
            raise ValueError(f"options['goal'] is for dreams with a goal; this one's task is {self.task!r}")
        spent = rows[self._episodes.spent.cpu().numpy()[rows]] if belief is None else rows
        if len(spent):
            self._enter_worlds(spent if belief is not None else spent[self._left[spent] == 0], belief)
            self._draw_episodes(spent)
        if state is not None or goal is not None:
            self._choose_episodes(rows, state, goal)
        self._owe(rows)
        over = np.zeros(self.num_envs, np.bool_)
        over[rows] = True
        self._restart(torch.from_numpy(over).to(self._device))

    def _owe(self, rows: Rows) -> None:
        """Rows that begin will need worlds before long."""
        if isinstance(self._source, WorldsAhead) and self.episodes_per_walk:
            self._source.owe(2 * len(rows) / self.episodes_per_walk)  # so that worlds are there for rows twice as fast as others

    def _restart(self, over: Tensor) -> None:
        """The rows `over` (N,) bool begin their next episode."""
        self._episodes.begin(over)
        self._found = None
        if self._drawing:
            for row in np.flatnonzero(over.cpu().numpy()):
                self._paths[row] = [self._episodes.mean[row]]

    def _enter_worlds(self, new: Rows, belief: Belief | None) -> None:
        """These rows enter the next world, or that of a belief."""
        if not len(new):
            return
        source = self._source if belief is None else self._rows_of(belief)
        if isinstance(source, WorldsAhead):
            entered, drawn, pictures, paid = source.next(new, self.generators)
            self._paid[new] += paid
        else:
            entered = source if len(new) == self.num_envs else source[index(new, source)]
            # Where worlds are walked ahead, the rows' own generators have been asked for these by now, or not yet.
            asked = self._asides if isinstance(self._source, WorldsAhead) else self.generators
            drawn = [np.random.default_rng([int(asked[row].integers(2**31)), 1]) for row in new]
            pictures = [None] * len(new)
        for row, own, picture in zip(new, drawn, pictures, strict=True):
            self._drawn[row], self._pictures[row] = own, picture
        which, memory = self._index(new), entered.memory
        if len(new) == self.num_envs:
            self._home, fits = entered, False
        else:
            fits = not self._lent and memory.s_mean.shape[1] <= self._home.memory.s_mean.shape[1]
            self._home = put_over(self._home, which, entered) if fits else self._home.put(which, entered)
        if fits:
            self._nearby.put(which, memory)
            if self.task == "goal":
                self._looks.put(which, Looks.of(memory))
        else:
            self._lent = self._home is source  # which others enter later
            self._nearby = Nearby(self._home.memory)
            if self.task == "goal":
                self._looks = Looks.of(self._home.memory)
        self._stops = self.model.stops(self._home.memory)
        self._places[which] = memory.facts["distinct"]
        resets = self.episodes_per_walk if isinstance(self._source, WorldsAhead) else None
        self._left[new] = resets or np.iinfo(np.int64).max

    def _draw_episodes(self, rows: Rows) -> None:
        """The next episodes of rows, in the worlds that they are in."""
        numbers = torch.from_numpy(np.stack([self._drawn[row].random((self._episodes.size, 2)) for row in rows])).to(self._device)
        count = np.minimum(self._left[rows], self._episodes.size)
        self._left[rows] -= count
        which = self._index(rows)
        self._episodes.put(which, self._starts(rows, numbers), self._index(count), numbers)

    def _starts(self, rows: Rows, numbers: Tensor, state: Tensor | None = None) -> Starts:
        """Where episodes begin by two uniform numbers each (R, E, 2), or by states (R, n) that were asked for."""
        which = self._index(rows)
        shape = (*numbers.shape[:2], self._home.mean.shape[-1])
        s, count = self._home.memory.s_mean[which], self._places[which]
        mean, displacement = self._home.mean[which, None], self._home.displacement[which, None]
        if state is not None:
            mean = state[:, None]
        elif self.start == "remembered":
            entry = (numbers[..., 0] * count[:, None]).long()
            mean = s.take_along_dim(entry[..., None], dim=1)
        if state is not None or self.start == "remembered":
            displacement = torch.zeros_like(mean)
        goals, frames = mean.new_zeros(*shape[:2], 0, shape[2]), None
        if self.task == "goal":
            looks = self._looks[which]
            entry, choices = choose_goals(numbers[..., 1], mean, s, count, looks, self._there, WITHIN * self._step_length)
            if not choices.all():
                row = rows[int((choices == 0).any(dim=1).nonzero()[0])]
                raise ValueError(
                    f"row {row} remembers no place that looks unlike its start, so there is no goal to draw; give another start"
                )
            goals = looks.places(entry, s)
            if self._frames:
                values, each = self._home.memory.values, (which[:, None], entry)
                if "view" in values:
                    frames = x_to_frames(values["view"][each])
                elif self.model.views is not None:
                    canvas = self._home.memory.facts["canvas"]
                    canvas = canvas if len(rows) == self.num_envs else canvas[which]  # not copied, as rows may share one
                    frames = self.model.views.frames(canvas, s.take_along_dim(entry[..., None], dim=1))
                else:
                    frames = x_to_frames(self.model.decoder(values["z_mean"][each]))
        return Starts(mean.expand(shape), displacement.expand(shape), goals, frames)

    def _choose_episodes(self, rows: Rows, state: Any, goal: Any) -> None:
        """The next episodes of rows begin at states, or have goals, that were asked for."""
        which = self._index(rows)
        asked = None if state is None else self._state_option("state", state)[which]
        starts = self._episodes.next_of(which)
        if asked is not None:
            starts = replace(starts, mean=asked[:, None], displacement=torch.zeros_like(asked)[:, None])
        if goal is not None:
            starts = self._goal_option(goal, which, starts)
        elif self.task == "goal":
            starts = self._starts(rows, self._episodes.next_numbers(which), asked)
        self._episodes.put_next(which, starts)

    def _state_option(self, name: str, value: Any) -> Tensor:
        """A state a row, in steps as the observation tells it, in the model's unit."""
        array, shape = np.asarray(value), (self.num_envs, self.model.in_steps(self._home.mean).shape[-1])
        if array.shape != shape or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ValueError(
                f"options[{name!r}] must be finite states in steps of shape {shape}, got {array.dtype} of shape {array.shape}"
                + ("; or uint8 frames as the world shows them" if name == "goal" else "")
            )
        return self.model.from_steps(torch.from_numpy(array.astype(np.float32)).to(self._device))

    def _goal_option(self, goal: Any, which: Tensor, starts: Starts) -> Starts:
        """These starts (E = 1) with a goal asked for: a frame that is found by the memory in reverse, or a state."""
        array, memory, s = np.asarray(goal), self._home.memory[which], starts.mean[:, 0]
        z = memory.values["z_mean"]
        frames: Tensor | None = None
        if array.dtype == np.uint8 and array.shape == (self.num_envs, *self.model.frame_shape):
            frames = torch.from_numpy(array).to(self._device)[which]
            found = self.model.locate(frames, memory)
            state, like = found.s_mean[:, 0], alike(z, found.z_mean)
        else:
            state = self._state_option("goal", goal)[which]
            nearest = memory.read(state, 1)
            like = alike(z, nearest.z_mean) & (nearest.distance <= WITHIN * self._step_length)
            frames = self.model.decode(state, memory) if self._frames else None
        like &= memory.used
        order = like.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, : int(like.sum(dim=-1).max())]  # (R, G)
        places = memory.s_mean.take_along_dim(order[..., None], dim=1)
        goals = torch.cat([state[:, None], places.masked_fill(~like.take_along_dim(order, dim=1)[..., None], NOWHERE)], dim=1)
        if self._there(goals, s[:, None]).any():
            raise ValueError("options['goal'] is reached at the start already; choose another goal or another start")
        return replace(starts, goals=goals[:, None], frames=frames[:, None] if self._frames and frames is not None else None)

    # ---------------------------------------------------------------- steps

    @torch.no_grad()
    def step_tensors(self, actions: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """`step` for learners on the device: observations, rewards (N,) float32, terminated and truncated (N,) bool, fresh tensors there.

        Nothing is copied to NumPy and nothing waits for the device, so that actions are not checked for their range, and rows begin again
        by mask: in `autoreset_mode` "NextStep" in the step after their last, whose action leads nowhere; in "SameStep" at once, and the
        last observation of an episode is not shown. What is drawn ahead for a row are episodes of its world; a row that
        has begun them all (`spent`) begins the same again until `renew` draws it others. ValueError in mode "Disabled", or for other
        actions than (N,) int64 on the device; ResetNeeded before `reset`.

        On a GPU the first step after a reset, or after `step` or `renew` has begun rows, records a CUDA graph, which waits for the device;
        later ones replay it. What is changed of this object or of the model's settings (not its weights) is seen by the next recording; on
        a CPU likewise by the first step after rows have begun or a belief was asked for, but the horizon and the law at once. A
        dream that is made with a render_mode records none.
        """
        if self.autoreset_mode == AutoresetMode.DISABLED:
            raise ValueError("step_tensors begins rows again by mask: make the dream with autoreset_mode 'NextStep' or 'SameStep'.")
        if not isinstance(actions, Tensor):
            raise ValueError(f"step_tensors takes a tensor of actions, one a row; given {type(actions)}: `step` takes NumPy's.")
        if actions.shape != (self.num_envs,) or actions.dtype != torch.int64 or actions.device != self._device:
            raise ValueError(
                f"step_tensors takes one action a row, int64 of shape ({self.num_envs},) on {self._device}; given {actions.dtype} of shape "
                f"{tuple(actions.shape)} on {actions.device}."
            )
        if not self._ready.all():
            raise ResetNeeded("step_tensors needs an episode: call reset first")
        if not self._replays:
            return self._by_mask(actions)
        if self._replayed is None:
            self._replayed = self._record(actions)
        replayed, names = self._replayed
        reward, terminated, truncated, self._over, *others = replayed(actions, self._over, *self._episodes.now)
        count = len(self._episodes.now)
        self._episodes.now, self._found = others[:count], None
        return dict(zip(names, others[count:], strict=True)), reward, terminated, truncated

    def _by_mask(self, actions: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """`step_tensors` itself."""
        if stepping := self._by_loops():
            ended = stepping.over.nonzero()[0]
            reward, terminated, truncated = map(torch.from_numpy, stepping.move(actions.numpy(), self.horizon))
            ended = self._over_now(stepping, ended, terminated.numpy(), truncated.numpy())
            if len(ended):
                self._go_on(stepping, ended)
            self._found = None
            shown = self._shown() if self._frames else {name: torch.from_numpy(value) for name, value in stepping.told().items()}
            return shown, reward, terminated, truncated
        ended = self._over
        reward, terminated, truncated = self._move(actions, ended)
        over = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            self._restart(over)
        else:  # the actions of rows that had ended led nowhere
            self._restart(ended)
            self._over = over
        return self._shown(), reward, terminated, truncated

    def _record(self, actions: Tensor) -> tuple[Replayed, list[str]]:
        """`_by_mask` as a function of all that a step changes, to be replayed, and the names of what it shows last."""
        kept = self._over, self._episodes.now
        names: list[str] = []

        def step(actions: Tensor, over: Tensor, *now: Tensor) -> list[Tensor]:
            self._over, self._episodes.now = over, now
            shown, *judged = self._by_mask(actions)
            names[:] = shown
            return [*judged, self._over, *self._episodes.now, *shown.values()]

        replayed = Replayed(step, actions, self._over, *self._episodes.now)
        self._over, self._episodes.now = kept
        return replayed, names

    @property
    def spent(self) -> Tensor:
        """Rows that have begun all episodes drawn for them, (N,) bool on the device; `step` draws the next itself."""
        return self._episodes.spent

    @torch.no_grad()
    def renew(self) -> dict[str, Tensor]:
        """Between rollouts by `step_tensors`: rows that are `spent` begin an episode anew, in the next world where it is time for one.

        The episode that they were in counts as truncated. Waits for the device, and for worlds to be walked. Returns the observations.
        ResetNeeded before `reset`.
        """
        if not self._ready.all():
            raise ResetNeeded("renew needs episodes: call reset first")
        rows = np.flatnonzero(self.spent.cpu().numpy())
        if len(rows):
            self._begin(rows, {})
            self._over = self._over.index_fill(0, self._index(rows), False)
        return self._shown()

    def step(self, actions: Rows) -> tuple[Observation, NDArray[np.float64], Flags, Flags, Info]:
        """See `BatchedRows`."""
        stepped = self.step_rows(actions)
        if stepped is None:
            return super().step(actions)
        observation, reward, terminated, truncated, facts, final = stepped
        info = self._told(**facts)
        if final is not None:
            rows, last, before = final
            info |= self._final_of(rows, last, self._told(**before))
        return observation, reward.astype(np.float64), terminated, truncated, info

    def step_rows(self, actions: Rows) -> Stepped | None:
        """`step` by loops alone, with what Gymnasium's infos are made of; None where `step` itself is to be asked, or says what is wrong.

        ValueError for actions that are none.
        """
        stepping = self._by_loops()
        if stepping is None:
            return None
        ended = NOBODY if self.autoreset_mode == AutoresetMode.SAME_STEP else stepping.over.nonzero()[0]
        if len(ended) and self.autoreset_mode == AutoresetMode.DISABLED:
            return None
        if not isinstance(actions, np.ndarray) or actions.shape != (self.num_envs,) or actions.dtype != INT64:
            actions = self._checked(actions)
        try:
            reward, terminated, truncated = stepping.move(actions, self.horizon)
        except IndexError:
            self._checked(actions)
            raise
        self._found = None
        if isinstance(self._source, WorldsAhead):
            with torch.no_grad():
                self._source.pay(self.generators, self._soonest)
        ended, final = self._over_now(stepping, ended, terminated, truncated), None
        if len(ended):
            if self.autoreset_mode == AutoresetMode.SAME_STEP:
                final = ended, self._observation_of(ended) if self._frames else stepping.told(ended), self._facts()
            if (stepping.begun[ended] < stepping.drawn[ended]).all():  # none is spent
                self._owe(ended)
                self._go_on(stepping, ended)
            else:
                self._begin(ended, {})
            self._found = None
        observation = self._observation() if self._frames or self._stepping is None else stepping.told()
        return Stepped(observation, reward, terminated, truncated, self._facts(), final)

    def _over_now(self, stepping: Stepping, ended: Rows, terminated: Flags, truncated: Flags) -> Rows:
        """Which rows begin again in this step, by those that had ended before it."""
        over = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            return over.nonzero()[0]
        stepping.over[:] = over
        return ended

    def _go_on(self, stepping: Stepping, rows: Rows) -> None:
        """Rows (R,) begin their next episode."""
        if self._frames:
            self._episodes.begin_frames(self._index(rows))
        stepping.begin(rows)

    def _by_loops(self) -> Stepping | None:
        """What steps this dream without torch, made anew where tensors may have been replaced; None where that is for torch."""
        law: Any = self.model._modules["transition"]  # as attributes, modules take half a microsecond to find
        if self._stepping and not self._stepping.moves.fits(law):
            self._stepping = None
        if self._stepping is None:
            now, its_own = self._episodes, type(self) is not DreamVectorEnv  # whose methods steps here would pass by
            if its_own or self._drawing or self.task == "reward" or self.model.landmarks is not None or not self._ready.all():
                return None
            loops, networks = loops_for("dream_compiled", now.mean), loops_for("networks_compiled", now.mean)
            moves = networks.moves(self.model.transition) if loops and networks else None
            if loops is None or moves is None or self._nearby.places is None:
                return None
            now.mean, now.displacement = now.mean.clone(), now.displacement.clone()  # others may hold them, in a belief
            self._stepping = loops.Stepping(moves, self._there, self._step_length, now, self._over, self._nearby.places)
        return self._stepping

    @torch.no_grad()
    def _advance(self, actions: Rows) -> tuple[NDArray[np.float64], Flags, Flags]:
        reward, terminated, truncated = self._move(self._index(actions), self._over)
        if isinstance(self._source, WorldsAhead):
            self._source.pay(self.generators, self._soonest)
        return reward.double().cpu().numpy(), terminated.cpu().numpy(), truncated.cpu().numpy()

    def _soonest(self) -> Rows:
        """All rows, those first that have fewest episodes left in their worlds."""
        begun: Rows = (self._episodes.drawn - self._episodes.begun).cpu().numpy()
        return np.argsort(begun + self._left, kind="stable")

    def _move(self, actions: Tensor, ended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All rows by their actions (N,): reward float32, terminated and truncated, (N,) each, all zero of rows that had `ended` (N,)."""
        now = self._episodes
        loops, networks = loops_for("dream_compiled", now.mean), loops_for("networks_compiled", now.mean)
        if networks and self._stops is None and (moves := networks.moves(self.model.transition)):
            now.mean, now.displacement = moves(now.mean, actions)
        else:
            now.mean, now.displacement = self.model.advance(now.mean, now.displacement, actions, self._stops)
        self._found = None
        if self._drawing:
            for row, path in enumerate(self._paths):
                path.append(now.mean[row])
        if loops and self.task != "reward":
            judged: tuple[Tensor, Tensor, Tensor] = loops.judged(self._there, self.horizon, now.goals, now.mean, now.steps, ended)
            return judged
        now.steps = now.steps + 1
        if self.task == "reward":
            nearest = self._nearby.index(now.mean)
            each = torch.arange(self.num_envs, device=self._device)
            values = self._home.memory.values
            reward, terminated = values["reward"][each, nearest], values["termination"][each, nearest]
        else:
            terminated = self._there(now.goals, now.mean[:, None]).any(dim=1)
            reward = terminated.float()
        going = ~ended
        terminated = terminated & going
        return reward * going, terminated, (now.steps >= self.horizon) & ~terminated & going

    @property
    def belief(self) -> Belief:
        """What is believed now, one a row; planners imagine from it. Its memory holds the distinct places."""
        if not self._ready.any():
            raise ResetNeeded("a dream has a belief from its first reset on")
        self._lent, self._stepping = True, None  # whoever holds these states keeps them as they are
        variance = self._home.variance + self._episodes.steps[:, None] * self.model.transition.sigma_s**2
        return Belief(self._episodes.mean, variance, self._episodes.displacement, self._home.memory)

    def _shown(self, rows: Tensor | None = None) -> dict[str, Tensor]:
        """What is observed, of some rows (R,) or all, as fresh tensors."""
        shown: dict[str, Tensor] = {}
        now, memory = self._episodes, self._home.memory

        def of(x: Tensor) -> Tensor:
            return x if rows is None else x[rows]

        if self._frames:
            shown["frame"] = self.model.decode(of(now.mean), memory if rows is None else memory[rows])
            if now.frames is not None:
                shown["goal"] = of(now.frames).clone()
        if self._entries:
            free = None
            if self.model.landmarks is not None:
                free = of(self.model.leads(now.mean, now.displacement, self._stops)) > WITHIN * self._step_length
            goal = of(self._goal) if self.task == "goal" else None
            shown |= told(of(now.mean), goal, of(self._novelty()), free, self._step_length)
        return shown

    @torch.no_grad()
    def _observation(self) -> Observation:
        return {name: value.cpu().numpy() for name, value in self._shown().items()}

    @torch.no_grad()
    def _observation_of(self, rows: Rows) -> Observation:
        return {name: value.cpu().numpy() for name, value in self._shown(self._index(rows)).items()}

    def _info(self) -> Info:
        return self._told(**self._facts())

    def _facts(self) -> dict[str, NDArray[Any]]:
        """What infos tell of every row, fresh."""
        facts: dict[str, NDArray[Any]] = {"world_steps": self._paid.copy()}
        if self.novelty:
            with torch.no_grad():
                facts["novelty"] = self._novelty().cpu().numpy().copy()
        return facts

    @property
    def _goal(self) -> Tensor:
        return self._episodes.goals[:, 0]

    def _novelty(self) -> Tensor:
        """How far each row is from anything it remembers, in steps (N,); asked of the memory once, whoever tells it."""
        if self._found is None:
            self._found = self._nearby.distance(self._episodes.mean) / self._step_length
        return self._found

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Every row's dream drawn large; view "all" adds its world as the walk ended, the goal and a map. None without a render_mode."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; make the environment with render_mode='rgb_array'")
            return None
        belief, goal = self.belief, self._goal if self.task == "goal" else self._episodes.mean
        with torch.no_grad():
            seen = self.model.decode(torch.stack([belief.mean, goal], dim=1), belief.memory).cpu().numpy()  # (N, 2, H, W, C)
        if self.view == "dream":
            return tuple(drawing.enlarge(frame) for frame, _ in seen)
        return tuple(self._all_of(row, *map(drawing.enlarge, frames)) for row, frames in enumerate(seen))

    def _all_of(self, row: int, dream: NDArray[np.uint8], goal: NDArray[np.uint8]) -> NDArray[np.uint8]:
        memory = self.belief.memory[torch.tensor([row], device=self._device)]
        target = self._goal[row] if self.task == "goal" else None
        picture = self._pictures[row]
        panels = {} if picture is None else {"world, where the walk ended": picture}
        panels |= {"goal": goal} if self.task == "goal" else {}
        panels |= {"dream": dream}
        stones = self.model.obstacle_states(memory[torch.tensor(0)])
        mapped = drawing.map_of_places(memory, self._paths[row], target, len(dream), obstacles=stones, axes=self.model.axes)
        panels |= {"places remembered, path imagined": mapped}
        return drawing.side_by_side(list(panels.values()), list(panels))

    def close_extras(self, **kwargs: Any) -> None:
        self._walkers.close()
