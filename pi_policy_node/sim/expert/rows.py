"""How near rows of actions come to the robot's limits, as the bridge counts them."""

from __future__ import annotations

import numpy as np

from pi_policy_node.robot import Kinematics, Robot


def usage(robot: Robot, kinematics: Kinematics, rows: np.ndarray) -> dict[str, float]:
    """The largest part of each limit that consecutive rows [N, A] use; more than 1 is beyond it.

    position: how far outside of the range, in ranges (0: inside). workspace: in m (0: inside).
    """
    base = robot.is_base
    speed = np.where(base, np.inf, robot.velocity)
    rates = (speed, robot.acceleration, robot.jerk)
    used = {"position": float(np.maximum(robot.lower - rows, rows - robot.upper).clip(0).max())}
    for k, (name, limit) in enumerate(zip(("velocity", "acceleration", "jerk"), rates), start=1):
        part = np.abs(np.diff(rows, n=k, axis=0)) / robot.dt**k / limit
        used[name] = float(part[:, ~base].max(initial=0.0))
        if k < 3:  # a base's columns are velocities: their first difference is an acceleration
            part = np.abs(np.diff(rows, n=k, axis=0)[:, base]) / robot.dt**k / rates[k][base]
            used[f"base {('acceleration', 'jerk')[k - 1]}"] = float(part.max(initial=0.0))
    plane = rows[:, np.flatnonzero(base)[:2]]
    used["base speed"] = float(np.linalg.norm(plane, axis=1).max(initial=0.0)) / robot.base_speed
    tools = np.stack(list(kinematics.tools(rows).values()))  # [tools, N, 3]
    speeds = np.linalg.norm(np.diff(tools, axis=1), axis=2) / robot.dt
    used["tool speed"] = float(speeds.max(initial=0.0)) / robot.tool_speed
    low, high = robot.workspace
    used["workspace"] = float(np.maximum(low - tools, tools - high).clip(0).max())
    return used
