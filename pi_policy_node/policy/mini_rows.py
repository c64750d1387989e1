"""Between the robot's rows and mini's knots: a knot every 0.1 s, as tools move, in units of what is usual."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pi_policy_node.robot import Kinematics, Robot
from pi_policy_node.robot.reach import approach, apart, moved

BLEND = 0.3  # s in which a curve comes from where the committed rows lead it to where it wants to be


@dataclass(frozen=True)
class Scales:
    """What is usual, measured on the demonstrations. A = columns of the action, S = numbers of the state."""

    state_mean: np.ndarray  # [S]
    state_scale: np.ndarray  # [S]
    action_mean: np.ndarray  # [knots, A]
    action_scale: np.ndarray  # [knots, A]

    def state_in(self, state: np.ndarray) -> np.ndarray:
        return ((state - self.state_mean) / self.state_scale).astype(np.float32)

    def knots_in(self, knots: np.ndarray) -> np.ndarray:
        return ((knots - self.action_mean) / self.action_scale).astype(np.float32)

    def knots_out(self, knots: np.ndarray) -> np.ndarray:
        return knots * self.action_scale + self.action_mean


class Motion:
    """Between the robot's rows and what mini speaks of: of an arm not its six joints but how far its tool moves, and
    turns, from where it is. "To the block over there" is then the same wherever the arm hangs, and no network has to
    learn the arm's geometry."""

    ROUNDS = 8  # of inverse kinematics, at most: 0.3 rad a round is more than an arm does in a second

    def __init__(self, robot: Robot, kinematics: Kinematics) -> None:
        self.robot, self._kinematics = robot, kinematics
        self._arms = [group for group in robot.groups if group.kind == "arm"]
        if wrong := [arm.name for arm in self._arms if arm.columns.stop - arm.columns.start != 6]:
            raise ValueError(f"mini moves arms of six joints, and {wrong[0]} of {robot.name} has another number")

    def state(self, states: np.ndarray) -> np.ndarray:
        """[N, A] -> [N, S] what mini is told of the robot: its joints, and where its tools are and point.

        Not how fast the base is: told that, it learns to go on with it and never to stop.
        """
        poses = [self._kinematics.link_pose(states, arm.tool) for arm in self._arms]
        places = [pose[:, :3, 3] for pose in poses]
        axes = [pose[:, :3, :2].transpose(0, 2, 1).reshape(len(states), 6) for pose in poses]
        return np.concatenate((states[:, ~self.robot.is_base], *places, *axes), 1)

    def knots(self, rows: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Rows [N, K, A] -> [N, K, A] as mini speaks of them from states [N, A] on: of the lift how far it moves too."""
        robot, knots = self.robot, np.array(rows, float)
        other = ~(robot.is_base | robot.is_gripper)
        knots[..., other] -= states[:, None, other]
        for arm in self._arms:
            at = self._kinematics.link_pose(states, arm.tool)[:, None]
            knots[..., arm.columns] = apart(np.broadcast_to(at, (*rows.shape[:2], 4, 4)),
                                            self._kinematics.link_pose(rows, arm.tool))
        return knots

    def rows(self, knots: np.ndarray, states: np.ndarray) -> np.ndarray:
        """And back; where a tool is to go beyond its reach, as near as it gets."""
        robot, count = self.robot, knots.shape[1]
        origin = np.where(robot.is_base | robot.is_gripper, 0.0, states)
        rows = knots + origin[:, None]
        for arm in self._arms:
            rows[..., arm.columns] = states[:, None, arm.columns]
        flat = rows.reshape(-1, rows.shape[-1])
        for arm in self._arms:
            at = self._kinematics.link_pose(states, arm.tool)[:, None]
            poses = moved(np.broadcast_to(at, (len(states), count, 4, 4)), knots[..., arm.columns])
            flat = approach(robot, self._kinematics, arm, poses.reshape(-1, 4, 4), flat, rounds=self.ROUNDS)
        return flat.reshape(rows.shape)


def given_knots(rows: np.ndarray, every: int, knots: int) -> np.ndarray:
    """[k, A] the knots that committed rows [d, A] fix; the first one is row 0."""
    return rows[::every][:knots]


def to_rows(knots: np.ndarray, every: int, count: int) -> np.ndarray:
    """Knots [K, A] -> rows [count, A]: a smooth curve through all of them, `every` rows from one to the next."""
    slope = np.empty_like(knots)
    slope[1:-1] = (knots[2:] - knots[:-2]) / 2
    slope[0], slope[-1] = knots[1] - knots[0], knots[-1] - knots[-2]
    at = np.minimum(np.arange(count) / every, len(knots) - 1)
    k = np.minimum(at.astype(int), len(knots) - 2)
    u = (at - k)[:, None]
    h = u * u * (3 - 2 * u)
    return (knots[k] * (1 - h) + knots[k + 1] * h + slope[k] * (u * (1 - u) ** 2) - slope[k + 1] * (u * u * (1 - u)))


def splice(rows: np.ndarray, committed: np.ndarray, dt: float) -> np.ndarray:
    """Rows [H, A] behind committed rows [d, A]: those stay as they are, and what follows leaves them smoothly."""
    count = min(len(committed), len(rows))
    if count == 0:
        return rows
    apart = committed[count - 1] - rows[count - 1]
    drift = (committed[count - 1] - committed[count - 2]) - (rows[count - 1] - rows[count - 2]) if count > 1 else 0.0
    steps = np.arange(1, len(rows) - count + 1)[:, None]
    u = np.minimum(steps * dt / BLEND, 1.0)
    rows = rows.copy()
    # a cubic with the difference and its slope at the beginning, and neither at the end
    rows[count:] += apart * (1 - u) ** 2 * (1 + 2 * u) + drift * steps * (1 - u) ** 2
    rows[:count] = committed[:count]
    return rows
