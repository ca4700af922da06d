"""Dreams of places an agent has walked through, as Gymnasium environments.

Importing the package registers every environment by name and loads nothing heavy: torch is imported when a model is.
"""

from gymnasium.envs.registration import register

__version__ = "0.1.0"

register(
    id="GTMSM-ImageNavigation-v0",
    entry_point="gtmsm_env.envs.image_navigation:ImageNavigationEnv",
    vector_entry_point="gtmsm_env.envs.image_navigation:ImageNavigationVectorEnv",
)
register(
    id="GTMSM-ObstacleGrid-v0",
    entry_point="gtmsm_env.envs.obstacle_grid:ObstacleGridEnv",
    vector_entry_point="gtmsm_env.envs.obstacle_grid:ObstacleGridVectorEnv",
)
register(
    id="GTMSM-Labyrinth-v0",
    entry_point="gtmsm_env.envs.labyrinth:LabyrinthEnv",
    vector_entry_point="gtmsm_env.envs.labyrinth:LabyrinthVectorEnv",
)
register(
    id="GTMSM-LabyrinthRotate-v0",
    entry_point="gtmsm_env.envs.labyrinth:LabyrinthEnv",
    vector_entry_point="gtmsm_env.envs.labyrinth:LabyrinthVectorEnv",
    kwargs={"speed": 0.0, "turn": 9.3, "goal_angle": 4.65},
)
register(
    id="GTMSM-LabyrinthRooms-v0",
    entry_point="gtmsm_env.envs.labyrinth:LabyrinthEnv",
    vector_entry_point="gtmsm_env.envs.labyrinth:LabyrinthVectorEnv",
    kwargs={"rooms": [2, 4]},
)
register(id="GTMSM-VizDoom-v0", entry_point="gtmsm_env.envs.vizdoom:VizDoomEnv")
register(
    id="GTMSM-DeepMindLab-v0",
    entry_point="gtmsm_env.envs.deepmind_lab:DeepMindLabEnv",
    vector_entry_point="gtmsm_env.envs.deepmind_lab:make_vector",
)
register(
    id="GTMSM-LabyrinthMaze-v0",
    entry_point="gtmsm_env.envs.labyrinth:LabyrinthEnv",
    vector_entry_point="gtmsm_env.envs.labyrinth:LabyrinthVectorEnv",
    kwargs={"layout": "maze", "textures": "lab", "rooms": [4, 4]},
)
register(
    id="GTMSM-Dream-v0",
    entry_point="gtmsm_env.dream:DreamEnv",
    vector_entry_point="gtmsm_env.dream:DreamVectorEnv",
)
