"""The simulated robot: MuJoCo made from the robot's URDF, a world to work in, and the controllers' own semantics."""

import os

os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa on the CPU: pictures this small take longer with threads
os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported: render off screen, on the CPU where need be

from pi_policy_node.sim.scene import SCENES, Item, Look, Scene, SceneError, sample, sampler  # noqa: E402
from pi_policy_node.sim.simulator import Observation, Simulator  # noqa: E402

__all__ = ["SCENES", "Item", "Look", "Observation", "Scene", "SceneError", "Simulator", "sample", "sampler"]
