"""The arms of pi_mobile with the hand pointing straight down: inverse kinematics in closed form."""

from __future__ import annotations

import math

import numpy as np

from pi_policy_node.robot import Kinematics, Robot, RobotError

FOLDED, STRETCHED = 0.30, 0.97  # of the length of upper arm and forearm: nearer or farther is out of reach
GOAL = 0.96  # the same, of where hands are sent


class ReachError(ValueError):
    """The hand cannot get there; the message says how far away it is."""


class Arm:
    """One arm: where its joints must be for its tool to be somewhere, pointing down. Lengths are read from the URDF.

    With r, h = the wrist as seen from joint2: r = upper sin q2 + fore cos(q2 + q3), h = upper cos q2 - fore sin(q2 +
    q3), q4 = 0, q5 = pi/2 - q2 - q3 (the header of urdf/arm.xacro).
    """

    def __init__(self, robot: Robot, kinematics: Kinematics, name: str):
        group = robot.group(name)
        self.name, self.columns = name, group.columns
        self.hand = robot.group(name.replace("_arm", "_gripper")).columns.start
        self.lift = robot.group("lift").columns.start
        prefix = name.replace("arm", "")
        zero = np.zeros(len(robot.action_names))
        at = {k: kinematics.link_pose(zero, f"{prefix}{k}")[:3, 3] for k in ("link2", "link3", "link5", "tool")}
        self.shoulder = at["link2"]  # [3] with the lift at 0
        self.upper = float(np.linalg.norm(at["link3"] - at["link2"]))
        self.fore = float(np.linalg.norm(at["link5"] - at["link3"]))
        self.tip = float(np.linalg.norm(at["tool"] - at["link5"]))
        self.home_lift = float(robot.home[self.lift])
        self.home, self.home_yaw = self.forward(robot.home)
        error = float(np.linalg.norm(kinematics.tools(robot.home)[name] - self.home))
        joints = self.joints(self.home, self.home_yaw, self.home_lift)
        if error > 1e-3 or not np.allclose(joints, robot.home[self.columns], atol=5e-3):
            raise RobotError(robot.urdf_file, name, "is no arm that the expert knows: at home its hand must point down")

    def joints(self, point, yaw: float, lift: float) -> np.ndarray:
        """[6] for the tool at `point` in the base's frame, its fingers opening along `yaw`, by joint6 alone."""
        dx, dy, _ = point - self.shoulder
        r, h = math.hypot(dx, dy), point[2] + self.tip - self.shoulder[2] - lift
        far = math.hypot(r, h)
        if not self._within(far):
            raise ReachError(f"{self.name}: the wrist would be {far:.3f} m from the shoulder, not "
                             f"{FOLDED * (self.upper + self.fore):.3f} to {STRETCHED * (self.upper + self.fore):.3f}")
        q1 = math.atan2(dy, dx)
        raised = math.atan2(h, r) + math.acos((self.upper**2 + far**2 - self.fore**2) / (2 * self.upper * far))
        q2 = math.pi / 2 - raised
        bent = -math.atan2(h - self.upper * math.sin(raised), r - self.upper * math.cos(raised))  # q2 + q3
        return np.array([q1, q2, bent - q2, 0.0, math.pi / 2 - bent, q1 + math.pi / 2 - yaw])

    def forward(self, row: np.ndarray) -> tuple[np.ndarray, float]:
        """Tool point [3] and yaw of a row [A], as far as it points down."""
        q1, q2, q3, _, _, q6 = row[self.columns]
        r = self.upper * math.sin(q2) + self.fore * math.cos(q2 + q3)
        h = self.upper * math.cos(q2) - self.fore * math.sin(q2 + q3)
        x, y, z = self.shoulder
        return np.array([x + r * math.cos(q1), y + r * math.sin(q1), z + row[self.lift] + h - self.tip]), (
            q1 + math.pi / 2 - q6)

    def reaches(self, point, lift: float) -> bool:
        dx, dy, _ = point - self.shoulder
        return self._within(math.hypot(dx, dy, point[2] + self.tip - self.shoulder[2] - lift)) and (
            abs(math.atan2(dy, dx)) < 1.9)

    def nearest(self, point, lift: float) -> np.ndarray:
        """The point itself, or one in reach: lower where that helps, nearer where it does not."""
        point, longest = np.array(point, float), GOAL * (self.upper + self.fore)
        off = point - self.shoulder
        off[2] += self.tip - lift
        r = math.hypot(off[0], off[1])
        if math.hypot(r, off[2]) > longest:
            if r > longest - 0.01:
                point[:2] -= off[:2] * (1 - (longest - 0.01) / r)
                r = longest - 0.01
            highest = math.sqrt(longest**2 - r**2)
            point[2] += np.clip(off[2], -highest, highest) - off[2]
        return point

    def rise(self, point, height: float) -> float:
        """`height`, or as high as the hand gets over that point: how far it has to go up before it goes sideways."""
        return float(self.nearest([point[0], point[1], height], self.home_lift)[2])

    def natural_yaw(self, point) -> float:
        """The yaw at which joint6 is at 0."""
        return math.atan2(point[1] - self.shoulder[1], point[0] - self.shoulder[0]) + math.pi / 2

    def _within(self, far: float) -> bool:
        length = self.upper + self.fore
        return FOLDED * length < far < STRETCHED * length
