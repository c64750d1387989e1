"""What a demonstration teaches beside its actions, found out afterwards from what the robot did.

Where the hand closed, there the thing was: every step before is told so. No label needs the simulator's truth, so a
real robot's demonstrations can be labelled in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pi_policy_node.learn.episodes import Episode
from pi_policy_node.robot import Kinematics, Robot

CLOSED = 0.5  # a gripper's command below this is closing


@dataclass(frozen=True)
class Labels:
    """Of every step of an episode."""

    tools: np.ndarray  # float32 [T, 2, 3] both tools' places in the base's frame
    arm: np.ndarray  # int8 [T]: the arm at work, -1 where none is
    reach: np.ndarray  # float32 [T, 3] from that arm's tool to where its fingers will next open or close; NaN: unknown
    base: np.ndarray  # float32 [T, 3] how far the base goes from here in this subtask: x, y, yaw
    cells: dict[str, np.ndarray]  # camera -> float32 [T, 2] where that place is in the picture, 0..1; NaN: outside
    cameras: dict[str, np.ndarray]  # camera -> float32 [T, 3, 4] its optical frame in the base's


class Labeller:
    """Labels episodes of a robot with two arms."""

    def __init__(self, robot: Robot, kinematics: Kinematics | None = None) -> None:
        self.robot, self.kinematics = robot, kinematics or Kinematics(robot)
        arms = [group for group in robot.groups if group.kind == "arm"]
        self.arms = tuple(group.name for group in arms)
        self._hands = [robot.group(a.name.replace("_arm", "_gripper")).columns.start for a in arms]
        self._base = np.flatnonzero(robot.is_base)

    def label(self, episode: Episode) -> Labels:
        state, action = episode.state.astype(float), episode.action
        count = len(state)
        tools = np.stack([self.kinematics.tools(state)[arm] for arm in self.arms], 1)
        arm = episode.arm.copy() if episode.piece else np.full(count, -1, np.int8)
        place = np.full((count, 3), np.nan)
        base = np.full((count, 3), np.nan if episode.piece else 0.0)
        track = self._track(state)
        nudges = [step for step, kind in episode.events if kind == "nudge"]
        for first, end in [] if episode.piece else segments(episode.subtask):  # a piece ends before the hand closes
            base[first:end] = _relative(track[first:end], track[end - 1])
            words = episode.subtasks[episode.subtask[first]]
            if not words.startswith(("pick", "place", "open", "close")):
                continue
            shut = action[first:end][:, self._hands] < CLOSED
            turns = [np.flatnonzero(np.diff(shut[:, k].astype(int))) + first for k in range(len(self.arms))]
            moved = [np.abs(np.diff(tools[first:end, k], axis=0)).sum() for k in range(len(self.arms))]
            chosen = max(range(len(self.arms)), key=lambda k: (len(turns[k]) > 0, moved[k]))
            arm[first:end] = chosen
            ends = [*turns[chosen], end - 1]
            begin = first
            for turn in ends:
                late = [n for n in nudges if begin < n < turn]
                place[max([begin, *late]) : turn + 1] = tools[turn, chosen]
                begin = turn + 1
        reach = place - tools[np.arange(count), np.maximum(arm, 0)]
        poses = {camera.name: self.kinematics.link_pose(state, camera.frame) for camera in self.robot.cameras}
        cells = {camera.name: project(camera, poses[camera.name], place) for camera in self.robot.cameras}
        return Labels(tools.astype(np.float32), arm, reach.astype(np.float32), base.astype(np.float32), cells,
                      {name: pose[:, :3].astype(np.float32) for name, pose in poses.items()})

    def _track(self, state: np.ndarray) -> np.ndarray:
        """[T, 3] the base's path by its own velocities."""
        vx, vy, wz = state[:, self._base].T
        yaw = np.cumsum(wz) * self.robot.dt
        x = np.cumsum(vx * np.cos(yaw) - vy * np.sin(yaw)) * self.robot.dt
        y = np.cumsum(vx * np.sin(yaw) + vy * np.cos(yaw)) * self.robot.dt
        return np.stack((x, y, yaw), 1)


def project(camera, pose: np.ndarray, place: np.ndarray) -> np.ndarray:
    """[T, 2] x and y of a place in the camera's picture, 0..1; NaN where it is not in it."""
    seen = np.einsum("tji,tj->ti", pose[:, :3, :3], place - pose[:, :3, 3])
    scale = 0.5 / math.tan(camera.fov / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = 0.5 + scale * camera.height / camera.width * seen[:, 0] / seen[:, 2]
        y = 0.5 + scale * seen[:, 1] / seen[:, 2]
        inside = (seen[:, 2] > 0.02) & (x > 0) & (x < 1) & (y > 0) & (y < 1)
    return np.where(inside[:, None], np.stack((x, y), 1), np.nan).astype(np.float32)


def stands(bases: np.ndarray, places: Sequence[Sequence[float]]) -> np.ndarray:
    """float32 [N, places, 4] poses x, y, yaw as seen from bases [N, 3]: x, y, cosine and sine of the angle."""
    seen = np.stack([_relative(bases, np.array(place)) for place in places], 1)
    return np.concatenate((seen[..., :2], np.cos(seen[..., 2:]), np.sin(seen[..., 2:])), 2).astype(np.float32)


def segments(numbers: np.ndarray) -> list[tuple[int, int]]:
    """(first step, step behind the last) of each run of equal numbers."""
    cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    return list(zip(cuts[:-1], cuts[1:]))


def _relative(track: np.ndarray, end: np.ndarray) -> np.ndarray:
    """[T, 3] an end pose as seen from each pose."""
    dx, dy, turn = (end - track).T
    c, s = np.cos(track[:, 2]), np.sin(track[:, 2])
    return np.stack((c * dx + s * dy, c * dy - s * dx, turn), 1)
