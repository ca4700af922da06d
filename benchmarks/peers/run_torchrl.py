"""Steps a second of torchrl's `WorldModelEnv` in a loop of `step` and `step_mdp`, states only: python run_torchrl.py ROWS"""

import sys
from collections.abc import Callable

from network import ACTIONS, STATE, Transition, reached
from timed import serve

ROWS = int(sys.argv[1])


def make() -> Callable[[], None]:
    import torch
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import Binary, Composite, OneHot, Unbounded
    from torchrl.envs import EnvBase
    from torchrl.envs.model_based import WorldModelEnv
    from torchrl.envs.utils import step_mdp
    from torchrl.modules import WorldModel

    class Specs(EnvBase):
        """Its spaces alone are read."""

        def __init__(self) -> None:
            super().__init__(batch_size=[ROWS])
            self.observation_spec = Composite(latent=Unbounded((ROWS, STATE)), shape=(ROWS,))
            self.action_spec = OneHot(ACTIONS, shape=(ROWS, ACTIONS), dtype=torch.float32)
            self.reward_spec = Unbounded((ROWS, 1))
            self.done_spec = Binary(1, shape=(ROWS, 1), dtype=torch.bool)

        def _reset(self, tensordict, **_):  # type: ignore[no-untyped-def]
            raise NotImplementedError

        _step = _reset

        def _set_seed(self, seed: int | None) -> None: ...

    torch.set_num_threads(1)
    model = WorldModel(
        TensorDictModule(torch.nn.Identity(), ["observation"], ["latent"]),
        TensorDictModule(Transition(), ["latent", "action"], [("next", "latent")]),
        TensorDictModule(lambda s: reached(s).float(), [("next", "latent")], [("next", "reward")]),
        done_head=TensorDictModule(reached, [("next", "latent")], [("next", "done")]),
    ).requires_grad_(False)
    env = WorldModelEnv(model, base_env=Specs(), batch_size=[ROWS])
    now = env.reset(TensorDict({"latent": torch.zeros(ROWS, STATE)}, batch_size=[ROWS]))
    actions = torch.eye(ACTIONS)[torch.randint(ACTIONS, (64, ROWS))]
    steps = 0

    def step() -> None:
        nonlocal now, steps
        with torch.no_grad():
            now = step_mdp(env.step(now.set("action", actions[steps % 64])))
        steps += 1

    return step


serve(make, ROWS)
