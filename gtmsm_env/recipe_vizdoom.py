"""How the walking experiment is carried over to another engine, ViZDoom: the law is learned anew, what is seen is taken as it ships.

The engine moves agents by laws of its own, told as displacements; its camera is told too. How depths are found and views projected was
learned in the labyrinth, of textures that the engine does not have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gymnasium.vector import VectorEnv

from gtmsm_env import recipe_labyrinth
from gtmsm_env.data import own_explorer
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe import Stage

WALKING = replace(recipe_labyrinth.WALKING, world="GTMSM-VizDoom-v0", walks=96)
AGENTS = {"labyrinth-vizdoom": WALKING}
ROWS = 16  # how many engines run at once
TRAINER = recipe_labyrinth.LabyrinthTrainer


def stages(size: str) -> list[Stage]:
    """The stages of a full training: the law alone."""
    if size == "paper":
        raise ValueError("What is seen in ViZDoom is taken from our model of the labyrinth, so there is one size; leave out --size paper.")
    return [stage for stage in recipe_labyrinth.stages("paper") if stage.name == "law"]


def new_model(seed: int) -> GTMSM:
    """The labyrinth's model as it ships, with this engine's camera and a law that has learned nothing."""
    from gtmsm_env.envs.vizdoom import VizDoomEnv as Engine

    camera = {"field_of_view": Engine.field_of_view, "height": Engine.camera_height, "ceiling": Engine.room_height}
    world = {"id": WALKING.world, "kwargs": {}, "start": "anywhere"}
    # Where the law is not quite the engine's, the labyrinth's contacts feel more than is there.
    return recipe_labyrinth.carried_over(seed, camera=camera, contacts=False, world=world)


def policy(world: VectorEnv[Any, Any, Any], generator: Any) -> Any:
    """The engine's wanderers, which do all actions now and then."""
    return own_explorer(world, generator, recipe_labyrinth.WHIMS)
