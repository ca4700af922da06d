"""How the walking experiment is carried over to DeepMind Lab's physics, where the agent runs into things.

The law is learned anew; contacts, which were felt among other momenta, go on learning; what is seen is taken as it ships.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gtmsm_env import recipe_labyrinth
from gtmsm_env.data import Walks
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe import Stage
from gtmsm_env.recipe_labyrinth import LabyrinthTrainer

WALKING = replace(recipe_labyrinth.WALKING, rules={"physics": "lab"}, careful=False, walks=2048)
AGENTS = {"labyrinth-quake": WALKING}
ROWS = 256  # how many worlds are walked at once
FREE = 0.01  # of the typical step: deviations beyond it count by their size and not by its square, as something was in the way there

policy = recipe_labyrinth.heedless


def stages(size: str) -> list[Stage]:
    """The stages of a full training: the law, and what stops it."""
    if size == "paper":
        raise ValueError("What is seen among contacts is taken from our model of the labyrinth, so there is one size; leave out --size.")
    return [Stage("law", 800, {"law": 1e-2}, 90, falling=True, tau=32), Stage("contacts", 4000, {"contacts": 7e-4}, 75, falling=True)]


def new_model(seed: int) -> GTMSM:
    """The labyrinth's model as it ships, with a law of hard limits that has learned nothing."""
    world = {"id": WALKING.world, "kwargs": WALKING.rules, "start": "anywhere"}
    return recipe_labyrinth.carried_over(seed, law="hard walking", world=world)


@dataclass
class QuakeTrainer(LabyrinthTrainer):
    """`LabyrinthTrainer` of walks on which things are in the way."""

    def law_loss(self, stage: Stage, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """The error of the displacements, smoothly from its square to its size at `FREE`: steps that met something pull little."""
        wrong = self.displacement_error(stage, rng)
        return 100 * ((wrong.square() + FREE**2).sqrt() - FREE).mean()

    def _heedless(self) -> Walks:
        return self.walks


TRAINER = QuakeTrainer
