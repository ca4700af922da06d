"""How a world with obstacles is learned: an image navigation model rests, and only its landmarks (appendix D) and obstacles learn.

Obstacles stand elsewhere in every world, so no transition can know them. What it can know is how wrong it may be: its deviation grows
from a thousandth of a unit to a tenth of a step, or a single hit would cost 1e5 nats in KL(q(s_t) || p(s_t)). What sees too much of that
deviation would retrieve the wrong view; how little of it is kept is learned too.
"""

from __future__ import annotations

from typing import Any

import torch

from gtmsm_env.model import GTMSM
from gtmsm_env.recipe import Stage

WORLD = "GTMSM-ObstacleGrid-v0"
WALKS, STEPS = 8192, 320  # what is learned from
DEVIATION = 0.1  # of the transition, in steps
LANDMARKS = 16


def stages(displacements: bool) -> list[Stage]:
    """Landmarks, from the ELBO alone or from displacements as targets (section 4.2.2); then obstacles, from frames that did not change."""
    if displacements:
        landmarks = Stage("displacements", 200, {"landmarks": 1e-2}, 120, falling=True, tau=64)
    else:
        landmarks = Stage("landmarks", 200, {"landmarks": 1e-2}, 220, falling=True, tau=64, ahead=32, delta=0.1)
    return [landmarks, Stage("obstacles", 2000, {"obstacles": 3e-3}, 70, falling=True, tau=16)]


def new_model(size: str, seed: int) -> GTMSM:
    """A shipped model of image navigation, of our size or the paper's, with landmarks that have learned nothing."""
    base = GTMSM.load("image-navigation" if size == "default" else f"image-navigation-{size}")
    assert base.world is not None
    changes: dict[str, Any] = {"sigma_s": DEVIATION * base.step_length, "landmarks": LANDMARKS, "world": {**base.world, "id": WORLD}}
    torch.manual_seed(seed)
    model = GTMSM(**{**base.config, **changes})
    learned = {name: x for name, x in model.state_dict().items() if name.startswith(("landmarks", "obstacles"))}
    model.load_state_dict({**base.state_dict(), **learned})
    return model
