"""What the tasks and the expert go by: the whole truth about the simulated world at one moment."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pi_policy_node.robot import Robot
from pi_policy_node.sim.physics import Thing
from pi_policy_node.sim.simulator import Simulator
from pi_policy_node.sim.world import DRAWER, DRAWER_TRAVEL, HANDLE, KINDS, PLACES, TABLE

TOP = float(TABLE[1, 2])  # of table and counter, m
STROKE = 0.04  # m of each finger between closed and open
HALF_WIDTH = {"block": 0.021, "cylinder": 0.020, "ball": 0.023, "prism": 0.0215, "brick": 0.018}  # m, as it is gripped
AT_PLACE = 0.05, 0.08  # m, rad: the base is at a place
STILL = 0.03  # m/s


@dataclass(frozen=True)
class View:
    """The world now. Positions in the world's frame unless it says otherwise."""

    things: dict[str, Thing]
    drawer: float  # 0 closed .. 1 open
    base: tuple[float, float, float]  # x, y, yaw
    state: np.ndarray  # [A] as the robot reports it
    tools: dict[str, np.ndarray]  # arm -> [3]
    openings: dict[str, float]  # arm -> 0 closed .. 1 open, measured

    def held(self) -> dict[str, str]:
        """arm -> what it has lifted."""
        result = {}
        for arm, tool in self.tools.items():
            for name, thing in self.things.items():
                if thing.kind in HALF_WIDTH and self.gripped(arm, name) and bottom(thing) > TOP + 0.03:
                    result[arm] = name
        return result

    def gripped(self, arm: str, name: str) -> bool:
        """Whether this thing is between the fingers of this arm, and they are closed as far as it lets them."""
        thing = self.things[name]
        off = thing.position - self.tools[arm]
        close = math.hypot(off[0], off[1]) < 0.028 and abs(off[2]) < 0.032
        return close and self.openings[arm] < HALF_WIDTH[thing.kind] / STROKE + 0.13

    def free(self, name: str) -> bool:
        """Nobody's hand is at it, and it rests."""
        thing = self.things[name]
        away = all(np.linalg.norm(thing.position - tool) > 0.05 for tool in self.tools.values())
        return away and float(np.linalg.norm(thing.velocity)) < STILL

    def at(self, place: str, within: tuple[float, float] = AT_PLACE) -> bool:
        """Whether the base is at a place, to within so much [m, rad]."""
        x, y, yaw = PLACES[place]
        far = math.hypot(self.base[0] - x, self.base[1] - y)
        return far < within[0] and abs(wrap(self.base[2] - yaw)) < within[1]

    def to_base(self, point) -> np.ndarray:
        """A point [3] of the world in the base's frame."""
        c, s = math.cos(self.base[2]), math.sin(self.base[2])
        x, y = point[0] - self.base[0], point[1] - self.base[1]
        return np.array([c * x + s * y, c * y - s * x, point[2]])

    def to_world(self, point) -> np.ndarray:
        """A point [3] of the base's frame in the world's."""
        return from_base(self.base, point)


def look(sim: Simulator) -> View:
    """The world of a simulator as it is now."""
    base = sim.physics.base()
    pose = base.x, base.y, base.yaw
    state = sim.state()
    tools = sim.physics.tools()
    openings = {arm: float(state[hand_column(sim.robot, arm)]) for arm in tools}
    return View(sim.objects(), sim.physics.drawer(), pose, state, tools, openings)


def handle(view: View) -> np.ndarray:
    """[3] where the drawer's handle is, in the world's frame."""
    return np.array([DRAWER[0] + HANDLE[0] - view.drawer * DRAWER_TRAVEL, DRAWER[1] + HANDLE[1], TOP + HANDLE[2]])


def hand_column(robot: Robot, arm: str) -> int:
    """The column of an arm's gripper: arm and gripper share their first name."""
    return robot.group(arm.replace("_arm", "_gripper")).columns.start


def from_base(base: tuple[float, float, float], point) -> np.ndarray:
    c, s = math.cos(base[2]), math.sin(base[2])
    return np.array([base[0] + c * point[0] - s * point[1], base[1] + s * point[0] + c * point[1], point[2]])


def axis(thing: Thing) -> np.ndarray:
    """The direction [3] of a thing's own z axis: up when it stands."""
    return turn(thing.quaternion)[:, 2]


def turn(quaternion) -> np.ndarray:
    """[3, 3] of a quaternion w x y z."""
    w, x, y, z = quaternion
    return np.array([[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                     [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                     [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]])


def half_height(thing: Thing) -> float:
    """m from the middle of a thing down to what it stands or lies on."""
    if thing.kind in ("block", "ball") or KINDS[thing.kind].container:
        return KINDS[thing.kind].height
    rotation = np.abs(turn(thing.quaternion)[2])
    if thing.kind == "brick":
        return float(rotation @ [0.018, 0.040, 0.018])
    radius, half = HALF_WIDTH[thing.kind], KINDS[thing.kind].height
    return float(half * rotation[2] + radius * math.sqrt(max(0.0, 1 - rotation[2] ** 2)))


def bottom(thing: Thing) -> float:
    return float(thing.position[2]) - half_height(thing)


def wrap(angle: float) -> float:
    """Into -pi .. pi."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
