"""Where the joints of an arm must be for its tool to be somewhere: damped least squares, for many rows at once."""

from __future__ import annotations

import math

import numpy as np

from pi_policy_node.robot.kinematics import Kinematics
from pi_policy_node.robot.model import Group, Robot

POSITION_TOLERANCE = 1e-4  # m
ANGLE_TOLERANCE = 1e-3  # rad
_DAMPING = 1e-3  # m², rad²: with less, an arm that is stretched throws its elbow about
_LONGEST = 0.3  # rad that a joint goes in one round: farther the slopes are others


class ReachError(ValueError):
    """The tool cannot get there; the message says how close it came."""


def reach(robot: Robot, kinematics: Kinematics, arm: Group, pose: np.ndarray, start: np.ndarray, *,
          rounds: int = 100) -> np.ndarray:
    """The row `start` [A] with this arm's joints changed so that its tool is at `pose` [4, 4] in the base frame."""
    rows = approach(robot, kinematics, arm, pose[None], start[None], rounds=rounds)
    error = apart(kinematics.link_pose(rows, arm.tool), pose[None])[0]
    if np.linalg.norm(error[:3]) < POSITION_TOLERANCE and np.linalg.norm(error[3:]) < ANGLE_TOLERANCE:
        return rows[0]
    raise ReachError(f"{arm.name} does not reach {np.round(pose[:3, 3], 3).tolist()}: off by "
                     f"{1000 * np.linalg.norm(error[:3]):.1f} mm and {np.linalg.norm(error[3:]):.3f} rad")


def approach(robot: Robot, kinematics: Kinematics, arm: Group, poses: np.ndarray, starts: np.ndarray, *,
             rounds: int) -> np.ndarray:
    """Rows [N, A] from `starts` on in which the arm's tool is at `poses` [N, 4, 4], or as near as these rounds, and the
    joints' limits, allow."""
    rows, columns = np.array(starts, float), arm.columns
    lower, upper = robot.lower[columns], robot.upper[columns]
    for _ in range(rounds):
        at, motion = kinematics.tool_motion(arm.name, rows)
        error, slopes = apart(at, poses), motion[:, :, columns]
        if (np.linalg.norm(error[:, :3], axis=1) < POSITION_TOLERANCE).all() and (
                np.linalg.norm(error[:, 3:], axis=1) < ANGLE_TOLERANCE).all():
            break
        across = slopes.transpose(0, 2, 1)
        step = (across @ np.linalg.solve(slopes @ across + _DAMPING * np.eye(6), error[..., None]))[..., 0]
        rows[:, columns] = np.clip(rows[:, columns] + np.clip(step, -_LONGEST, _LONGEST), lower, upper)
    return rows


def apart(at: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[..., 6] m, and a rotation vector (rad), from poses [..., 4, 4] to others, in the base frame."""
    turn = wanted[..., :3, :3] @ np.swapaxes(at[..., :3, :3], -1, -2)
    axis = 0.5 * np.stack((turn[..., 2, 1] - turn[..., 1, 2], turn[..., 0, 2] - turn[..., 2, 0],
                           turn[..., 1, 0] - turn[..., 0, 1]), -1)
    sine, cosine = np.linalg.norm(axis, axis=-1, keepdims=True), (np.trace(turn, axis1=-2, axis2=-1)[..., None] - 1) / 2
    half = (sine < 1e-9) & (cosine < 0)  # a turn by half: any axis across the tool's will do
    axis, sine = np.where(half, 1e-3 * at[..., :3, 0], axis), np.where(half, 1e-3, sine)
    angle = np.where(half, math.pi, np.arctan2(sine, cosine))
    scale = np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 1.0)
    return np.concatenate((wanted[..., :3, 3] - at[..., :3, 3], axis * scale), -1)


def moved(at: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Poses [..., 4, 4] moved and turned by [..., 6], as `apart` tells it."""
    angle = np.linalg.norm(by[..., 3:], axis=-1)[..., None, None]
    x, y, z = np.moveaxis(by[..., 3:], -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(*x.shape, 3, 3)
    # Rodrigues, by sinc so that no angle is divided by
    turn = np.eye(3) + np.sinc(angle / math.pi) * cross + np.sinc(angle / (2 * math.pi)) ** 2 / 2 * cross @ cross
    result = np.array(np.broadcast_to(at, (*by.shape[:-1], 4, 4)), float)
    result[..., :3, :3] = turn @ result[..., :3, :3]
    result[..., :3, 3] += by[..., :3]
    return result


def top_down(point, yaw: float) -> np.ndarray:
    """A tool pose [4, 4] that points straight down at `point` (m), its fingers opening along `yaw` (rad) about z."""
    pose = np.eye(4)
    down, across = np.array([0.0, 0.0, -1.0]), np.array([math.cos(yaw), math.sin(yaw), 0.0])
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = down, across, np.cross(down, across), point
    return pose
