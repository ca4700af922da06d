"""The door to Stable-Baselines3, and its only import: our vector environments as its `VecEnv`, and an eye for small frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from torch import Tensor, nn

from gtmsm_env.dream_vector import DreamVectorEnv, Stepped

try:
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from stable_baselines3.common.vec_env import VecEnv
    from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("gtmsm_env.sb3 needs Stable-Baselines3: pip install 'gtmsm-env[sb3]'") from error

Observations = dict[str, NDArray[Any]]


class DreamVecEnv(VecEnv):
    """A vector dream, or a world under `VectorBeliefWrapper`, as Stable-Baselines3 wants it; one batched computation still.

    envs: made with `autoreset_mode="SameStep"`, which is how a `VecEnv` begins its episodes. Each info holds the row's own (`world_steps`
    among them); where an episode ended also `terminal_observation`, and `TimeLimit.truncated`. ValueError in another autoreset mode.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ValueError(
                "Stable-Baselines3 takes many rows, which begin again in the step that ends an episode: gymnasium.make_vec(..., "
                f"autoreset_mode='SameStep'); given {envs} with {mode}."
            )
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> Observations:
        """Begin every row, with the seeds that `seed` has set and the options that `set_options` has: the same for all rows."""
        if any(options != self._options[0] for options in self._options):
            raise ValueError("A batched environment takes one set of options for all rows; in it, each has one entry a row.")
        seeds: Any = None if all(seed is None for seed in self._seeds) else self._seeds
        observation: Observations
        observation, info = self.envs.reset(seed=seeds, options=self._options[0] or None)
        self.reset_infos = self._rows(info)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        # Asked of a dream itself, as Gymnasium's infos take as long to make and to take apart again as all else does.
        stepped = self.envs.step_rows(self._actions) if isinstance(self.envs, DreamVectorEnv) else None
        return self._step_wait() if stepped is None else self._of_dream(stepped)

    def _of_dream(self, stepped: Stepped) -> VecEnvStepReturn:
        """A step as SB3 wants it; `_step_wait` says the same."""
        observation, reward, terminated, truncated, facts, final = stepped
        infos: list[dict[str, Any]] = [{"world_steps": steps, "TimeLimit.truncated": False} for steps in facts["world_steps"].tolist()]
        if "novelty" in facts:
            for info, novelty in zip(infos, facts["novelty"].tolist(), strict=True):
                info["novelty"] = novelty
        if final is not None:
            ended, last, before = final
            for i, row in enumerate(ended.tolist()):
                del infos[row]["TimeLimit.truncated"]
                self.reset_infos[row], infos[row] = infos[row], {name: column[row].item() for name, column in before.items()}
                infos[row]["terminal_observation"] = {name: value[i] for name, value in last.items()}
                infos[row]["TimeLimit.truncated"] = bool(truncated[row])
        return observation, reward, terminated | truncated, infos

    def _step_wait(self) -> VecEnvStepReturn:
        observation, reward, terminated, truncated, info = self.envs.step(self._actions)
        done = terminated | truncated
        cut = {"TimeLimit.truncated": truncated & ~terminated}
        rows = self._rows(info | cut)
        ended = np.flatnonzero(done)
        finals = self._rows({name: value[ended] for name, value in info["final_info"].items()}) if len(ended) else []
        for row, final in zip(ended.tolist(), finals, strict=True):
            self.reset_infos[row] = {name: value for name, value in rows[row].items() if name not in cut}
            rows[row] = {**final, "terminal_observation": info["final_obs"][row], "TimeLimit.truncated": rows[row]["TimeLimit.truncated"]}
        return observation, reward.astype(np.float32), done, rows

    @staticmethod
    def _rows(info: dict[str, Any]) -> list[dict[str, Any]]:
        """Each row's own info, filled column by column, as a batch of many rows makes many at every step."""
        told = {name: value for name, value in info.items() if not name.startswith(("_", "final_"))}
        rows: list[dict[str, Any]] = [{} for _ in range(len(next(iter(told.values()), ())))]
        for name, column in told.items():
            values = column.tolist() if column.ndim == 1 and column.dtype != object else list(column)
            pairs: Iterable[tuple[dict[str, Any], Any]] = zip(rows, values, strict=True)
            for row, value in compress(pairs, info[f"_{name}"].tolist()) if f"_{name}" in info else pairs:
                row[name] = value
        return rows

    def close(self) -> None:
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the batch, which all rows share."""
        return [getattr(self.envs, attr_name) for _ in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of the batch. ValueError for some of its rows only."""
        if len(self._chosen(indices)) != self.num_envs:
            raise ValueError(f"The rows of a batched environment share their attributes; {attr_name} cannot be set for {indices} alone.")
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the batch once; where it answers for every row, those asked for get theirs, else all get the same answer."""
        answer = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        own = isinstance(answer, list | tuple | np.ndarray) and len(answer) == self.num_envs
        return [answer[row] if own else answer for row in self._chosen(indices)]

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None) -> list[bool]:
        """Whether the batch is wrapped so; a wrapper of scalar environments never is."""
        env, wrapped = self.envs, False
        while isinstance(env, gym.vector.VectorWrapper):
            wrapped, env = wrapped or isinstance(env, wrapper_class), env.env
        return [wrapped for _ in self._chosen(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        drawn: Any = self.envs.render()
        return drawn or [None] * self.num_envs

    def _chosen(self, indices: VecEnvIndices) -> list[int]:
        rows: Iterable[int] = self._get_indices(indices)
        return [range(self.num_envs)[row] for row in rows]


class SmallFrameExtractor(BaseFeaturesExtractor):
    """Features of flat Dict observations with frames too small for SB3's `CnnPolicy` (36 pixels), for its `MultiInputPolicy`.

    Frames (channels first, in [0, 1], as SB3 hands them over) are seen together through two convolutions that keep their size; everything
    else is passed on as it is. Use: `policy_kwargs={"features_extractor_class": SmallFrameExtractor}`.
    """

    def __init__(self, observation_space: spaces.Dict, features_dim: int = 128, channels: int = 32) -> None:
        shapes = {name: space.shape for name, space in observation_space.spaces.items() if space.shape is not None}
        frames = sorted(name for name, shape in shapes.items() if len(shape) == 3)
        flat = sorted(shapes.keys() - set(frames))
        if len({shapes[name] for name in frames}) > 1:
            raise ValueError(f"SmallFrameExtractor sees frames of one size together; given {observation_space}.")
        super().__init__(observation_space, (features_dim if frames else 0) + sum(math.prod(shapes[name]) for name in flat))
        self.frames, self.flat = frames, flat
        if frames:
            colours, height, width = shapes[frames[0]]
            self.see = nn.Sequential(
                nn.Conv2d(colours * len(frames), channels, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(channels * height * width, features_dim),
                nn.ReLU(),
            )

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        seen = [self.see(torch.cat([observations[name] for name in self.frames], dim=1))] if self.frames else []
        return torch.cat([*seen, *(observations[name].flatten(1) for name in self.flat)], dim=1)


class GoalFromHere(BaseFeaturesExtractor):
    """Features of first-person observations "state", for SB3's `MultiInputPolicy`: the goal as the agent has it before itself.

    How far ahead and to the left it lies in tens of steps, the same two of length 1, the turn to its heading as cosine and sine, and the
    agent's own state. Use: `policy_kwargs={"features_extractor_class": GoalFromHere}`.
    """

    def __init__(self, observation_space: spaces.Dict) -> None:
        if any(name not in observation_space.spaces or observation_space[name].shape != (4,) for name in ("state", "goal_state")):
            raise ValueError(f"GoalFromHere sees 'state' and 'goal_state' of a place and a heading, 4 numbers; given {observation_space}.")
        super().__init__(observation_space, 10)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        here, goal = (torch.view_as_complex(observations[name].unflatten(1, (2, 2))) for name in ("state", "goal_state"))
        away, turn = (goal - here * here.new_tensor([1, 0])).mul(here[:, 1:].conj()).unbind(dim=1)  # place and heading, turned by ours
        told = torch.stack([away / 10, away / away.abs().clamp(min=1e-3), turn, here[:, 0] / 10, here[:, 1]], dim=1)
        return torch.view_as_real(told).flatten(1)
