"""The demo's film: the world from outside with the path that the robot plans, its cameras beside it, words below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from pi_policy_node.robot import Kinematics, Robot
from pi_policy_node.sim import film as films
from pi_policy_node.sim.world import DRAWER_TRAVEL

SIDE = films.SIDE  # (h, w) px of a camera's picture
BEHIND = 0.15  # s of a plan that were just played, shown as well
PATHS = {"left": (255, 170, 40), "right": (60, 190, 255), "base": (120, 255, 120)}  # rgb, by the name's beginning
# The view from outside: it goes along with the base, but does not turn with it.
LOOKAT, DISTANCE, AZIMUTH, ELEVATION = (0.4, 0.0, 0.75), 2.3, 145.0, -24.0


@dataclass(frozen=True)
class Plan:
    """A chunk: row k is due at stamp + k dt."""

    stamp: float  # s
    dt: float  # s
    rows: np.ndarray  # [H, A]


@dataclass(frozen=True)
class Moment(films.Moment):
    """One frame: what was measured, seen, said and planned at a time."""

    plan: Plan | None = None
    things: Mapping[str, Sequence[float]] = field(default_factory=dict)  # name -> position, quaternion w x y z
    drawer: float = 0.0  # 0 closed .. 1 open


class Film(films.Film):
    """Draws moments. Use it in one thread, and close it."""

    def __init__(self, robot: Robot, *, scene: str, seed: int) -> None:
        super().__init__(robot, scene=scene, seed=seed)
        self._kinematics = Kinematics(robot)

    def _outside(self, moment: Moment) -> np.ndarray:
        model, physics = self._simulator.model, self._simulator.physics
        data = physics.data
        for name, pose in moment.things.items():
            if name in physics.scene.names():
                physics.pose(name, pose[:3], pose[3:])
        data.qpos[model.mj.joint("drawer").qposadr[0]] = moment.drawer * DRAWER_TRAVEL
        self._pose(moment)
        lookat = (moment.base[0] + LOOKAT[0], moment.base[1] + LOOKAT[1], LOOKAT[2])
        image = self._renderer.free(data, films.VIEW, lookat=lookat, distance=DISTANCE, azimuth=AZIMUTH,
                                    elevation=ELEVATION)
        image = np.ascontiguousarray(image)
        for name, points in self._paths(moment).items():
            self._draw(image, points, lookat, next(c for start, c in PATHS.items() if name.startswith(start)))
        return image

    def _paths(self, moment: Moment) -> dict[str, np.ndarray]:
        """Where tools and base are to go: name -> [N, 3] of the world."""
        plan = moment.plan
        if plan is None:
            return {}
        due = plan.stamp + plan.dt * np.arange(len(plan.rows))
        rows = plan.rows[due >= moment.time - BEHIND][::2].astype(float)
        if len(rows) < 2:
            return {}
        poses = self._along(rows, moment.base, 2 * plan.dt)
        cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
        paths = {}
        for name, tool in self._kinematics.tools(rows).items():
            paths[name] = np.stack([poses[:, 0] + cos * tool[:, 0] - sin * tool[:, 1],
                                    poses[:, 1] + sin * tool[:, 0] + cos * tool[:, 1], tool[:, 2]], axis=1)
        paths["base"] = np.column_stack([poses[:, :2], np.full(len(poses), 0.02)])
        return {name: path for name, path in paths.items() if np.ptp(path, axis=0).max() > 0.01}

    def _along(self, rows: np.ndarray, base: tuple[float, float, float], dt: float) -> np.ndarray:
        """[N, 3] poses of the base along the plan, from its velocities."""
        poses = np.tile(np.array(base), (len(rows), 1))
        columns = np.flatnonzero(self._robot.is_base)
        if len(columns) == 3:
            for k in range(1, len(rows)):
                (vx, vy, wz), (x, y, yaw) = rows[k - 1, columns], poses[k - 1]
                poses[k] = (x + dt * (vx * math.cos(yaw) - vy * math.sin(yaw)),
                            y + dt * (vx * math.sin(yaw) + vy * math.cos(yaw)), yaw + dt * wz)
        return poses

    def _draw(self, image: np.ndarray, points: np.ndarray, lookat, colour) -> None:
        pixels = self.project(points, lookat)
        for a, b in zip(pixels, pixels[1:]):
            cv2.line(image, a, b, colour, 2, cv2.LINE_AA)
        cv2.circle(image, pixels[-1], 4, colour, -1, cv2.LINE_AA)

    def project(self, points: np.ndarray, lookat) -> list[tuple[int, int]]:
        """Where points [N, 3] of the world are in the picture from outside: x, y in px."""
        azimuth, elevation = math.radians(AZIMUTH), math.radians(ELEVATION)
        forward = np.array([math.cos(elevation) * math.cos(azimuth), math.cos(elevation) * math.sin(azimuth),
                            math.sin(elevation)])
        right = np.array([math.sin(azimuth), -math.cos(azimuth), 0.0])
        up = np.cross(right, forward)
        off = np.asarray(points) - (np.array(lookat) - DISTANCE * forward)
        depth = np.maximum(off @ forward, 0.05)
        height, width = films.VIEW
        focal = height / 2 / math.tan(math.radians(self._simulator.model.mj.vis.global_.fovy) / 2)
        x, y = width / 2 + focal * (off @ right) / depth, height / 2 - focal * (off @ up) / depth
        return [(int(np.clip(a, -9999, 9999)), int(np.clip(b, -9999, 9999))) for a, b in zip(x, y)]
