"""Between the robot's rows and mini's knots: a knot every 0.1 s, relative to the state, in units of what is usual."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pi_policy_node.robot import Kinematics, Robot

AT_REST = 3  # rows at one place: neither speed nor acceleration
STIFF = 1e5  # what is shorter than its sixth root, 7 rows, is smoothed away


@dataclass(frozen=True)
class Scales:
    """What is usual, measured on the demonstrations. A = columns of the action, S = numbers of the state."""

    state_mean: np.ndarray  # [S]
    state_scale: np.ndarray  # [S]
    action_mean: np.ndarray  # [knots, A]
    action_scale: np.ndarray  # [knots, A]

    def state_in(self, state: np.ndarray) -> np.ndarray:
        return ((state - self.state_mean) / self.state_scale).astype(np.float32)

    def knots_in(self, knots: np.ndarray, origin: np.ndarray) -> np.ndarray:
        """[..., knots, A] absolute -> normalised; origin [..., A] as `origin` below gives it."""
        return ((knots - origin[..., None, :] - self.action_mean) / self.action_scale).astype(np.float32)

    def knots_out(self, knots: np.ndarray, origin: np.ndarray) -> np.ndarray:
        return knots * self.action_scale + self.action_mean + origin[..., None, :]


def origin(robot: Robot, state: np.ndarray) -> np.ndarray:
    """[..., A] what the knots are relative to: the state; nothing for grippers and the base."""
    return np.where(robot.is_base | robot.is_gripper, 0.0, state)


def perceived(robot: Robot, state: np.ndarray) -> np.ndarray:
    """[..., A] a state as the network is told it: without the base's speed. Told how fast it turns, and how fast it has
    just been sent, the network learns to go on like that, whatever it sees."""
    return np.where(robot.is_base, 0.0, state)


def hands(robot: Robot, kinematics: Kinematics, states: np.ndarray) -> tuple[Tensor, Tensor]:
    """Of states [B, A]: how each arm moves its tool [B, arms, joints, 3], and how its hand is turned [B, arms]:
    the way along which its fingers open, for a hand that points down has no other."""
    arms = [group for group in robot.groups if group.kind == "arm"]
    ways = kinematics.ways(states)
    yaws = np.stack([yaws_of(kinematics, states, arm.tool) for arm in arms], 1)
    return (torch.from_numpy(np.stack([ways[arm.name] for arm in arms], 1)).float(), torch.from_numpy(yaws).float())


def fingers_of(robot: Robot, arm: str) -> int:
    """The column of an arm's gripper."""
    return robot.group(arm.replace("_arm", "_gripper")).columns.start


def yaws_of(kinematics: Kinematics, states: np.ndarray, tool: str) -> np.ndarray:
    """[B] of the hand with that tool, for states [B, A]."""
    frames = kinematics.link_pose(states, tool)
    return np.arctan2(frames[..., 1, 1], frames[..., 0, 1])


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


def settle(robot: Robot, rows: np.ndarray, committed: np.ndarray | None, state: np.ndarray) -> np.ndarray:
    """Rows [H, A] behind committed rows [d, A], which stay as they are, or behind none from rest where the robot is.

    Arms and lift take the smoothest curve that is near to what is wanted. One that bends more sharply than the robot can
    leaves the robot behind, elsewhere than the next plan thinks it is; the two then chase each other, the wrist above
    all. Hands must not open before their time: they do as is wanted. So does the base, as soon as it can have that speed.
    """
    joints, base = ~(robot.is_base | robot.is_gripper), robot.is_base
    if committed is None:
        place = np.where(joints, state, np.where(base, 0.0, rows[0]))
        return settle(robot, np.concatenate([rows[:1]] * (AT_REST - 1) + [rows]), np.tile(place, (AT_REST, 1)),
                      state)[AT_REST - 1:]
    before, rows = committed[: len(rows)], rows.copy()
    count = len(before)
    rows[:count] = before
    wanted, past = _smoother(len(rows), count)
    rows[count:, joints] = wanted @ rows[count:, joints] + past @ before[:, joints]
    if count and base.any():
        change = robot.acceleration[base] * robot.dt * np.arange(1, len(rows) - count + 1)[:, None]
        rows[count:, base] = rows[count:, base].clip(before[-1, base] - change, before[-1, base] + change)
    return rows


@functools.lru_cache(maxsize=64)
def _smoother(count: int, fixed: int) -> tuple[np.ndarray, np.ndarray]:
    """[free, free] and [free, fixed]: what wanted and fixed rows have to say in the free ones, those with the least sum
    of squared distances and, STIFF times, of squared third differences."""
    bend = np.diff(np.eye(count), 3, axis=0)
    whole = np.eye(count) + STIFF * bend.T @ bend
    inverse = np.linalg.inv(whole[fixed:, fixed:])
    return inverse, -inverse @ whole[fixed:, :fixed]
