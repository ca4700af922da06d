"""What every batched environment does alike: masks, seeds, checks of actions, and the three autoreset modes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

Observation = dict[str, NDArray[Any]]
Info = dict[str, Any]
Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Frames = NDArray[np.uint8]


def row_0(observation: Observation, info: Info) -> tuple[Observation, Info]:
    """What a batch of one tells, as a scalar environment tells it."""
    told = {key: value[0] for key, value in info.items() if not key.startswith("_") and info[f"_{key}"][0]}
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in told.items()}
    return {key: value[0] for key, value in observation.items()}, plain


class BatchedRows(VectorEnv[Observation, Rows, Any]):
    """A vector env whose rows never meet: each has a generator of its own, begins and ends for itself.

    A subclass says how rows begin (`_begin`), how all of them move (`_advance`), and what is told (`_observation`, `_info`; fresh arrays).
    """

    autoreset_mode: AutoresetMode
    generators: list[np.random.Generator]  # one a row; made by the first reset
    _ready: Flags  # (N,) has begun
    _ended: Flags  # (N,) its episode is over

    def _prepare(self, num_envs: int, autoreset_mode: AutoresetMode | str) -> None:
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            modes = [mode.value for mode in AutoresetMode]
            raise ValueError(f"autoreset_mode must be one of {modes}, got {autoreset_mode!r}") from error
        self.generators = []
        self._ready, self._ended = np.zeros((2, num_envs), np.bool_)

    @abstractmethod
    def _begin(self, rows: Rows, options: dict[str, Any]) -> None:
        """Begin an episode in some rows; what `reset` was given beside the mask is in `options`, {} when a row resets itself."""

    @abstractmethod
    def _advance(self, actions: Rows) -> tuple[NDArray[np.float64], Flags, Flags]:
        """Move all rows: reward, terminated, truncated, (N,) each. What it says of rows that have ended does not count."""

    @abstractmethod
    def _observation(self) -> Observation: ...

    def _observation_of(self, rows: Rows) -> Observation:
        """Of some rows alone, for those to whom this costs less."""
        return {key: value[rows] for key, value in self._observation().items()}

    @abstractmethod
    def _info(self) -> Info: ...

    def _seeded(self, rows: Rows) -> None:
        """These rows have got new generators: what was drawn from the old ones is void."""

    def reset(
        self, *, seed: int | Sequence[int | None] | NDArray[np.int64] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode in the rows of `options["reset_mask"]`, all by default. One seed s seeds row i with s + i; or give one a row."""
        options = dict(options or {})
        rows = self._masked(options.pop("reset_mask", None))
        seeds = self._row_seeds(seed)
        given = {row: own for row in rows.tolist() if (own := seeds[row]) is not None}
        if not self.generators:
            self.use_generators(np.arange(self.num_envs), [seeding.np_random(given.get(row))[0] for row in range(self.num_envs)])
        elif given:
            self.use_generators(np.array(list(given)), [seeding.np_random(own)[0] for own in given.values()])
        self._begin(rows, options)
        self._ready[rows] = True
        self._ended = self._ended & ~np.isin(np.arange(self.num_envs), rows)
        return self._observation(), self._info()

    def _row_seeds(self, seed: Any) -> list[int | None]:
        """The seed of each row, by one of Python's or NumPy's integers or a sequence of them; None leaves a row its generator."""
        if seed is None:
            return [None] * self.num_envs
        try:
            if np.ndim(seed) == 0:
                self._np_random, self._np_random_seed = seeding.np_random(index(seed))  # the vector's own, for walks; rows draw from theirs
                return [index(seed) + row for row in range(self.num_envs)]
            seeds = [None if own is None else index(own) for own in seed]
        except TypeError:
            raise ValueError(f"a seed is an integer, or one a row, got {seed!r}") from None
        if len(seeds) != self.num_envs:
            raise ValueError(f"a list of seeds has one entry a row, got {len(seeds)} for {self.num_envs} rows")
        return seeds

    def use_generators(self, rows: Rows, generators: list[np.random.Generator]) -> None:
        """Draw all that happens in some rows from these generators, from their next reset on."""
        if not self.generators:
            self.generators = list(generators)
        for row, generator in zip(rows.tolist(), generators, strict=True):
            self.generators[row] = generator
        self._seeded(rows)

    def step(self, actions: Rows) -> tuple[Observation, NDArray[np.float64], Flags, Flags, Info]:
        """Move every row by its action. ValueError for actions outside the space; ResetNeeded before `reset` or after the end."""
        actions = self._checked(actions)
        if not self._ready.all():
            raise ResetNeeded("step needs an episode: call reset first")
        ended = self._ended
        if self.autoreset_mode == AutoresetMode.DISABLED and ended.any():
            raise ResetNeeded(f"rows {np.flatnonzero(ended).tolist()} have ended: reset them first, as options={{'reset_mask': ...}} does")
        reward, terminated, truncated = self._advance(actions)
        reward, terminated, truncated = np.where(ended, 0.0, reward), terminated & ~ended, truncated & ~terminated & ~ended
        if ended.any():  # next-step autoreset: the actions of these rows led nowhere
            self._begin(np.flatnonzero(ended), {})
        self._ended = terminated | truncated
        final: Info = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._ended.any():
            final = self._final()
            self._begin(np.flatnonzero(self._ended), {})
            self._ended = np.zeros(self.num_envs, np.bool_)
        return self._observation(), reward, terminated, truncated, {**self._info(), **final}

    def _final(self) -> Info:
        """The last observation and info of the rows that ended, as Gymnasium's same-step autoreset tells them."""
        rows = np.flatnonzero(self._ended)
        return self._final_of(rows, self._observation_of(rows), self._info())

    def _final_of(self, rows: Rows, observation: Observation, info: Info) -> Info:
        """The same by the observation of these rows, and the info of all."""
        ended, final = np.zeros(self.num_envs, np.bool_), np.full(self.num_envs, None, dtype=object)
        ended[rows] = True
        for i, row in enumerate(rows):
            final[row] = {key: value[i].copy() for key, value in observation.items()}
        info = {key: value & ended if key.startswith("_") else value for key, value in info.items()}
        return {"final_obs": final, "_final_obs": ended, "final_info": info, "_final_info": ended.copy()}

    def _told(self, **values: NDArray[Any]) -> Info:
        """An info that tells these values for every row."""
        return {**values, **{f"_{key}": np.ones(self.num_envs, np.bool_) for key in values}}

    def _masked(self, mask: Any) -> Rows:
        if mask is None:
            return np.arange(self.num_envs)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must be a boolean array of shape ({self.num_envs},) with at least one True, got {mask!r}"
            )
        if not (self._ready | mask).all():
            raise ResetNeeded(
                f"rows {np.flatnonzero(~(self._ready | mask)).tolist()} never had a world: let the first reset_mask include them"
            )
        return np.flatnonzero(mask)

    def _checked(self, actions: Any) -> Rows:
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"actions must be integers, one a row, {self.num_envs} in all; got {array.dtype} of shape {array.shape}")
        assert isinstance(self.single_action_space, spaces.Discrete)
        first, last = int(self.single_action_space.start), int(self.single_action_space.start + self.single_action_space.n - 1)
        if array.min() < first or array.max() > last:
            wrong = np.unique(array[(array < first) | (array > last)])[:8]
            raise ValueError(f"actions must lie between {first} and {last}, got {', '.join(map(str, wrong))}")
        return array.astype(np.int64)
