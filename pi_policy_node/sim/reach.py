"""Where the joints of an arm must be for its tool to be somewhere: damped least squares on the robot's kinematics."""

from __future__ import annotations

import math

import numpy as np

from pi_policy_node.robot import Group, Kinematics, Robot

POSITION_TOLERANCE = 1e-4  # m
ANGLE_TOLERANCE = 1e-3  # rad
_STEP = 1e-6  # rad, for the numerical Jacobian
_DAMPING = 1e-3


class ReachError(ValueError):
    """The tool cannot get there; the message says how close it came."""


def top_down(point, yaw: float) -> np.ndarray:
    """A tool pose [4, 4] that points straight down at `point` (m), its fingers opening along `yaw` (rad) about z."""
    pose = np.eye(4)
    down, across = np.array([0.0, 0.0, -1.0]), np.array([math.cos(yaw), math.sin(yaw), 0.0])
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = down, across, np.cross(down, across), point
    return pose


def reach(robot: Robot, kinematics: Kinematics, arm: Group, pose: np.ndarray, start: np.ndarray, *,
          iterations: int = 100) -> np.ndarray:
    """The row `start` [A] with this arm's joints changed so that its tool is at `pose` [4, 4] in the base frame."""
    row = np.array(start, float)
    columns = np.arange(arm.columns.start, arm.columns.stop)
    for _ in range(iterations):
        error = _error(kinematics.link_pose(row, arm.tool), pose)
        if np.linalg.norm(error[:3]) < POSITION_TOLERANCE and np.linalg.norm(error[3:]) < ANGLE_TOLERANCE:
            return row
        moved = np.tile(row, (len(columns), 1))
        moved[np.arange(len(columns)), columns] += _STEP
        tools = kinematics.link_pose(moved, arm.tool)
        jacobian = np.stack([(error - _error(tool, pose)) / _STEP for tool in tools], axis=1)
        step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPING * np.eye(6), error)
        row[columns] += np.clip(step, -0.3, 0.3)
        row[columns] = np.clip(row[columns], robot.lower[columns], robot.upper[columns])
    raise ReachError(f"{arm.name} does not reach {np.round(pose[:3, 3], 3).tolist()}: off by "
                     f"{1000 * np.linalg.norm(error[:3]):.1f} mm and {np.linalg.norm(error[3:]):.3f} rad")


def _error(at: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Position (m) and rotation vector (rad) [6] from one pose to another, in the base frame."""
    turn = wanted[:3, :3] @ at[:3, :3].T
    axis = 0.5 * np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    sine, cosine = np.linalg.norm(axis), (np.trace(turn) - 1) / 2
    angle = math.atan2(sine, cosine)
    if sine < 1e-9 and cosine < 0:  # half a turn: any axis across the tool's will do
        axis, sine = at[:3, 0] * 1e-3, 1e-3
    return np.r_[wanted[:3, 3] - at[:3, 3], axis * (angle / sine if sine > 1e-12 else 1.0)]
