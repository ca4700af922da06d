"""Steps a second of mbrl-lib's `ModelEnv`, or with "cem" its plans a second: python run_mbrl.py ROWS | cem CANDIDATES ROUNDS HORIZON"""

import sys
from collections.abc import Callable

from network import ACTIONS, STATE, reached
from timed import serve

PLANS = [int(size) for size in sys.argv[2:]]
ROWS = 1 if PLANS else int(sys.argv[1])


def make() -> Callable[[], object]:
    import numpy as np
    import torch
    from mbrl.models import GaussianMLP, ModelEnv, OneDTransitionRewardModel
    from mbrl.planning import CEMOptimizer

    class Spaces:
        observation_space = action_space = None

    torch.set_num_threads(1)
    network = GaussianMLP(STATE + ACTIONS, STATE, device="cpu", num_layers=3, hid_size=64, deterministic=True)
    model = OneDTransitionRewardModel(network, target_is_delta=True, learned_rewards=False)
    env = ModelEnv(Spaces(), model, lambda _, s: reached(s), lambda _, s: reached(s).float(), torch.Generator().manual_seed(0))
    if PLANS:
        candidates, rounds, horizon = PLANS
        shape = (horizon, ACTIONS)
        optimizer = CEMOptimizer(rounds, 0.1, candidates, np.zeros(shape).tolist(), np.ones(shape).tolist(), 0.5, torch.device("cpu"))
        at = np.zeros(STATE)
        return lambda: optimizer.optimize(lambda plans: env.evaluate_action_sequences(plans, at, 1), torch.full(shape, 0.5))
    actions = torch.eye(ACTIONS)[torch.randint(ACTIONS, (64, ROWS))]
    now = env.reset(np.zeros((ROWS, STATE)), return_as_np=False)
    steps = 0

    def step() -> None:
        nonlocal now, steps
        now = env.step(actions[steps % 64], now)[3]
        steps += 1

    return step


serve(make, ROWS)
