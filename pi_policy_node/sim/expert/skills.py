"""What the expert can do. A skill looks at the world at every row and says where hands and base should go now.

None of them plays a plan: a block that was nudged is followed, one that slipped is picked up again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pi_policy_node.sim.expert.arms import Arm
from pi_policy_node.sim.expert.spots import spot
from pi_policy_node.sim.tasks.goals import Inside, Subtask
from pi_policy_node.sim.tasks.view import HALF_WIDTH, STROKE, TOP, View, half_height, handle, turn, wrap
from pi_policy_node.sim.world import DRAWER_TRAVEL, KINDS, PLACES

HOVER = 0.10  # m above its goal at which a hand travels
FUNNEL = 3.0  # m higher per m beside the goal: how a hand comes down
# What a hand need not be nearer than to come down all the way and to close or open. A learner sees things to some 6 mm
# and 0.1 rad: finer than that, it would never know that it is there. Beyond it heights grow gradually, for of two
# ways that one look cannot tell apart a learner takes the middle: it stands.
WITHIN, TURNED = 0.008, 0.15  # m, rad
TURNS = 0.2  # m higher per rad that fingers are turned from where they close
LAYS = {Inside: 0.012}  # m beside its spot at which a thing may be let go; WITHIN elsewhere
RUNNING, DONE, FAILED = "running", "done", "failed"
OPEN, SHUT = 0.97, 0.03  # fingers; not their ends, where the bridge would round off the last bit
SETTLED = 60  # rows more to wait for what was put down to come to rest
CLOSED = 24  # rows after which fingers have closed
ROW = 0.042  # of a stroke that fingers move in a row
TWIST = math.pi / 2 + 0.5  # rad, of the hand: farther would be near the end of its last joint
AT = 0.014  # m: a hand so near to a thing is where it closes
NEAR = 0.025  # m: from there what is held may be let go, if it comes no nearer
LONG = 60  # rows after which a hand that cannot rise further has risen enough


@dataclass
class Wish:
    """Where things should go from here. Hands: arm -> (point [3] in the base's frame, yaw, opening, speed)."""

    hands: dict[str, tuple[np.ndarray, float, float, float]] = field(default_factory=dict)
    base: tuple[np.ndarray, float] | None = None  # x, y and yaw in the world's frame; None: stand
    status: str = RUNNING


class Pick:
    """Comes down over a thing wherever it is, closes, lifts."""

    SLIPS = 0.03  # m that it may slip from where it is held
    LIFTED = HOVER - SLIPS  # m that it is lifted at least, by a hand that rises by HOVER

    def __init__(self, thing: str, arm: Arm):
        self.thing, self.arm = thing, arm
        self._closing = 0  # rows since the fingers began to close
        self._yaw: float | None = None
        self._floor = TOP
        self._tries = 0

    def join(self, view: View, hand) -> None:
        """Goes on with a hand that has closed on it, or is closing."""
        thing, tool = view.things[self.thing], hand.tool.position
        off = tool - view.to_base(thing.position)
        if view.gripped(self.arm.name, self.thing):
            self._closing = CLOSED
        elif _near(off, AT) and closing(hand, HALF_WIDTH[thing.kind] / STROKE + 0.15):
            self._closing = shut_for(hand)
        self._yaw, self._floor = float(hand.yaw.position[0]), TOP + half_height(thing)
        self._grasp = tool - [0, 0, max(0.0, thing.position[2] - self._floor)]

    def act(self, view: View, hand) -> Wish:
        thing = view.things[self.thing]
        at = view.to_base(thing.position)
        tool = hand.tool.position
        beside = math.hypot(*(at - tool)[:2])
        if self._closing:
            return self._close_and_lift(view, hand, tool)
        opening = self._choose(view, at, hand)
        below = at[2] + HOVER
        if beside > 0.03 and tool[2] < self.arm.rise(tool, below) - 0.03:  # out first, then over
            way = np.r_[tool[:2], below + 0.01]
        else:
            way = np.r_[at[:2], at[2] + min(HOVER, FUNNEL * max(0.0, beside - WITHIN))]
        waits = view.openings[self.arm.name] < opening - 0.12  # fingers first
        if waits:
            way[2] = max(way[2], min(tool[2], at[2] + 0.06))
        turned = abs(float(hand.yaw.position[0]) - self._yaw)
        way[2] = max(way[2], at[2] + min(0.05, TURNS * max(0.0, turned - TURNED)))
        there = beside < WITHIN and turned < TURNED and tool[2] - at[2] < 0.005
        if there and not waits and np.linalg.norm(thing.velocity) < 0.05:
            self._closing, self._floor = 1, thing.position[2]
        speed = 0.12 if beside < 0.02 and tool[2] < at[2] + 0.05 else math.inf
        return Wish({self.arm.name: (way, self._yaw, opening, speed)})

    def _close_and_lift(self, view: View, hand, tool) -> Wish:
        self._closing += 1
        thing = view.things[self.thing]
        if self._closing == 2:
            self._grasp = tool.copy()
        up = self._grasp + [0, 0, HOVER]
        if self._closing < CLOSED:
            goal = self._grasp
        else:
            goal = up
            if not view.gripped(self.arm.name, self.thing) or tool[2] - view.to_base(thing.position)[2] > self.SLIPS:
                self._closing, self._tries, self._yaw = 0, self._tries + 1, None
                return Wish({self.arm.name: (tool, hand.yaw.position[0], OPEN, 0.1)},
                            status=FAILED if self._tries > 4 else RUNNING)
        highest = self.arm.rise(tool, up[2]) - self._grasp[2]
        lifted = thing.position[2] - self._floor > min(self.LIFTED, highest - 0.015)
        return Wish({self.arm.name: (goal, self._yaw, SHUT, math.inf)}, status=DONE if lifted else RUNNING)

    def _choose(self, view: View, at: np.ndarray, hand) -> float:
        """Sets the yaw of the grasp: the nearest with room for the fingers; returns how far they should open."""
        thing, base_yaw, now = view.things[self.thing], view.base[2], float(hand.yaw.position[0])
        natural = self.arm.natural_yaw(at)
        yaws = grip_yaws(thing)
        if is_round(thing):  # as the hand is turned, if that will do: what cannot be seen should not matter
            yaws = [yaw + base_yaw + (now if self._yaw is None else self._yaw) for yaw in yaws]
        rooms = fingers_room(view, self.thing, yaws)
        least, candidates = enough(rooms), []
        for yaw, room in zip(yaws, rooms):
            yaw = now + wrap(2 * (yaw - base_yaw - now)) / 2  # fingers are alike: the shorter way from here
            if abs(yaw - natural) > TWIST:
                yaw -= math.copysign(math.pi, yaw - natural)
            far = 0.0 if self._yaw is not None and abs(yaw - self._yaw) < 0.2 else abs(yaw - now)
            candidates.append((room < least, far, yaw, room))
        *_, self._yaw, room = min(candidates)
        return float(np.clip(OPEN + (room - 0.004) / STROKE, HALF_WIDTH[thing.kind] / STROKE + 0.2, OPEN))


class Place:
    """Carries what is held to a spot, lowers it, lets go, rises."""

    def __init__(self, subtask: Subtask, arm: Arm):
        self.thing, self.arm, self.goal = subtask.thing, arm, subtask.goal
        self._target: np.ndarray | None = None
        self._opened = 0
        self._release: np.ndarray | None = None
        self._lost = self._stuck = 0

    def join(self, view: View, hand) -> None:
        """Goes on with a hand that has let go of it already, or is just doing so where it belongs, or stands there."""
        thing, tool = view.things[self.thing], hand.tool.position
        x, y, _ = thing.position - spot(view, self.goal, self.arm, None)
        opens = hand.grip.velocity[0] > 0.3 and math.hypot(x, y) < 2 * AT
        if math.hypot(x, y) < AT and _stands(hand):
            self._stuck = LONG  # it will not come nearer
        if opens or not view.gripped(self.arm.name, self.thing):
            at = view.to_base(thing.position)
            self._opened, self._release = open_for(hand), np.r_[tool[:2], min(tool[2], at[2] + AT)]

    def act(self, view: View, hand) -> Wish:
        tool, name = hand.tool.position, self.arm.name
        if self._opened:
            self._opened += 1
            up = self._release + [0, 0, HOVER]
            if self._opened < 12:
                return Wish({name: (self._release, hand.yaw.position[0], OPEN, math.inf)})
            risen = tool[2] > up[2] - 0.02 or self._opened > LONG
            rests = self.goal.met(view) or self._opened > LONG + SETTLED  # a ball may roll for a while
            return Wish({name: (up, hand.yaw.position[0], OPEN, math.inf)}, status=DONE if risen and rests else RUNNING)
        if not view.gripped(name, self.thing):
            self._lost += 1
            if self._lost > 5:
                return Wish({name: (np.r_[tool[:2], max(tool[2], TOP + HOVER)], hand.yaw.position[0], OPEN, math.inf)},
                            status=FAILED)
        else:
            self._lost = 0
        thing = view.things[self.thing]
        self._target = spot(view, self.goal, self.arm, self._target)  # [3] what its underside should come to
        goal = view.to_base(self._target + [0, 0, half_height(thing)])
        offset = tool - view.to_base(thing.position)
        goal = goal + np.where(np.abs(offset) < 0.035, offset, 0.0)
        beside, near = math.hypot(*(goal - tool)[:2]), LAYS.get(type(self.goal), WITHIN)
        lane = max(goal[2], TOP + 0.105 + 0.02 + half_height(thing))  # above all that stands about
        if beside > 0.05 and tool[2] < self.arm.rise(tool, lane) - 0.025:
            way = np.r_[tool[:2], lane]
        else:
            way = np.r_[goal[:2], min(lane, goal[2] + FUNNEL * max(0.0, beside - near))]
        yaw = self.arm.natural_yaw(goal)
        speed = 0.10 if beside < 0.02 and tool[2] < goal[2] + 0.04 else math.inf
        self._stuck = self._stuck + 1 if beside < NEAR and _stands(hand) else 0
        there = beside < near and abs(tool[2] - goal[2]) < 0.006
        if there or self._stuck > LONG:
            self._opened, self._release = 1, tool.copy()
        return Wish({name: (way, yaw, SHUT, speed)})


class Drawer:
    """Grips the handle and moves it to where the drawer is as open as wanted."""

    SPEED = 0.11  # m/s

    def __init__(self, opening: float, arm: Arm):
        self.opening, self.arm = opening, arm
        self._closing = self._opened = 0
        self._out: np.ndarray | None = None

    def join(self, view: View, hand) -> None:
        """Goes on with a hand that has gripped the handle, is doing so or lets it go."""
        tool = hand.tool.position
        off = tool - view.to_base(handle(view))
        if not _near(off, 2 * AT):
            return
        if abs(self.opening - view.drawer) < 0.12 and not closing(hand, 0.4):
            self._opened, self._out = open_for(hand), tool.copy()
        elif closing(hand, 0.5):
            self._closing, self._grasp = (CLOSED if view.openings[self.arm.name] < 0.3 else shut_for(hand)), tool.copy()

    def act(self, view: View, hand) -> Wish:
        tool, name = hand.tool.position, self.arm.name
        at = view.to_base(handle(view))
        natural = self.arm.natural_yaw(at)
        yaw = natural + wrap(2 * (-view.base[2] - natural)) / 2  # across the bar
        if self._opened:
            self._opened += 1
            up = self._out + [0, 0, HOVER]
            goal = self._out if self._opened < 14 else up
            risen = tool[2] > up[2] - 0.02 or self._opened > LONG
            return Wish({name: (goal, yaw, 0.75, math.inf)}, status=DONE if risen else RUNNING)
        beside = math.hypot(*(at - tool)[:2])
        if self._closing:
            self._closing += 1
            if beside > 0.03:  # lost it
                self._closing = 0
                return Wish({name: (tool + [0, 0, 0.05], yaw, 0.75, math.inf)})
            if self._closing < CLOSED:
                return Wish({name: (self._grasp, yaw, SHUT, math.inf)})
            left = self.opening - view.drawer
            if abs(left) < 0.03:
                self._opened, self._out = 1, tool.copy()
            ahead = np.clip(-left * DRAWER_TRAVEL, -0.05, 0.05) - np.sign(left) * 0.006
            goal = np.array([at[0], at[1], self._grasp[2]]) + np.array(
                [math.cos(view.base[2]) * ahead, -math.sin(view.base[2]) * ahead, 0.0])
            return Wish({name: (goal, yaw, SHUT, self.SPEED)})
        if beside > 0.03 and tool[2] < self.arm.rise(tool, at[2] + HOVER) - 0.03:
            way = np.r_[tool[:2], at[2] + HOVER + 0.01]
        else:
            way = np.r_[at[:2], at[2] + min(HOVER, FUNNEL * max(0.0, beside - WITHIN))]
        turned, waits = abs(hand.yaw.position[0] - yaw), abs(view.openings[name] - 0.75) > 0.1
        way[2] = max(way[2], at[2] + (0.07 if waits else min(0.07, TURNS * max(0.0, turned - TURNED))))
        if not waits and turned < TURNED and beside < WITHIN and tool[2] - at[2] < 0.005:
            self._closing, self._grasp = 1, tool.copy()
        return Wish({name: (way, yaw, 0.75, 0.12 if beside < 0.02 else math.inf)})


class Drive:
    """Backs off from where it stands, comes to a point before the place facing it, and goes in."""

    BACK = 0.45  # m

    def __init__(self, place: str, view: View):
        self.place = place
        self._left = not any(self._docked(view, p) for p in PLACES if p != place and p != "dock")
        self._from = view.base
        self._in = False
        self._still = 0

    def act(self, view: View, hands) -> Wish:
        x, y, yaw = PLACES[self.place]
        ahead, across, turned = self._seen_from(view, PLACES[self.place])
        if not self._left:
            fx, fy, fyaw = self._from
            back = np.array([fx - self.BACK * math.cos(fyaw), fy - self.BACK * math.sin(fyaw)])
            self._left = math.hypot(view.base[0] - back[0], view.base[1] - back[1]) < 0.05
            return Wish(base=(back, fyaw))
        if not self._in:
            near = math.hypot(ahead, across) < 0.15 and abs(turned) < 0.3
            before = abs(across) < 0.04 and abs(turned) < 0.08 and -self.BACK - 0.1 < ahead < 0.1
            self._in = near or before
            if not self._in:
                return Wish(base=(np.array([x - self.BACK * math.cos(yaw), y - self.BACK * math.sin(yaw)]), yaw))
        self._still = self._still + 1 if view.at(self.place, (0.012, 0.015)) else 0
        return Wish(base=(np.array([x, y]), yaw), status=DONE if self._still > 10 else RUNNING)

    def _docked(self, view: View, place: str) -> bool:
        ahead, across, turned = self._seen_from(view, PLACES[place])
        return abs(across) < 0.6 and -self.BACK + 0.12 < ahead < 0.2 and abs(turned) < 0.35

    @staticmethod
    def _seen_from(view: View, pose) -> tuple[float, float, float]:
        dx, dy = view.base[0] - pose[0], view.base[1] - pose[1]
        c, s = math.cos(pose[2]), math.sin(pose[2])
        return c * dx + s * dy, c * dy - s * dx, wrap(view.base[2] - pose[2])


def closing(hand, below: float) -> bool:
    """Whether fingers close, or are told to be closer than that."""
    return float(hand.grip.velocity[0]) < -0.3 or float(hand.grip.position[0]) < below and (
        float(hand.grip.velocity[0]) < 0.3)


def _near(off: np.ndarray, far: float) -> bool:
    return math.hypot(off[0], off[1]) < far and abs(off[2]) < far


def _stands(hand) -> bool:
    return float(np.linalg.norm(hand.tool.velocity)) < 0.003


def shut_for(hand) -> int:
    """For how many rows fingers have been closing, about."""
    return int(np.clip(3 + (OPEN - hand.grip.position[0]) / ROW, 2, CLOSED - 1))


def open_for(hand) -> int:
    """For how many rows fingers have been opening, about."""
    return int(np.clip(1 + (hand.grip.position[0] - SHUT) / ROW, 1, CLOSED))


def fingers_room(view: View, name: str, yaws: Sequence[float]) -> list[float]:
    """m from open fingers on either side of a thing to whatever else stands there, for directions in the world."""
    thing, others = view.things[name], []  # (position, radius) of what they could touch; not of what it lies in
    for other, t in view.things.items():
        off, radius = t.position - thing.position, KINDS[t.kind].radius
        around = KINDS[t.kind].container and math.hypot(off[0], off[1]) < radius
        if other != name and abs(off[2]) < 0.06 and not around:
            others.append((off[:2], radius + 0.014))
    fingers = [0.05 * np.array([math.cos(yaw), math.sin(yaw)]) for yaw in yaws]
    return [min((float(np.linalg.norm(s * finger - off)) - radius for off, radius in others for s in (-1, 1)),
                default=1.0) for finger in fingers]


def enough(rooms: Sequence[float]) -> float:
    """m of room for the fingers with which a grasp is as good as any: all that there is, where there is little."""
    return min(max(rooms) - 0.003, 0.002)


def is_round(thing) -> bool:
    """Whether it looks the same from all around, as it lies."""
    return thing.kind == "ball" or thing.kind == "cylinder" and abs(turn(thing.quaternion)[2, 2]) > 0.7


def grip_yaws(thing) -> list[float]:
    """Directions in the world along which fingers can close on a thing as it lies."""
    rotation = turn(thing.quaternion)
    upright = abs(rotation[2, 2]) > 0.7
    if is_round(thing):
        return [k * math.pi / 8 for k in range(8)]
    if thing.kind in ("cylinder", "prism") and not upright:  # across the axis it lies along
        return [math.atan2(rotation[1, 2], rotation[0, 2]) + math.pi / 2]
    if thing.kind == "prism":
        first = math.atan2(rotation[1, 0], rotation[0, 0]) + math.pi / 6
        return [first + k * math.pi / 3 for k in range(3)]
    sides = [i for i in range(3) if not (thing.kind == "brick" and i == 1)]
    flat = [i for i in sides if abs(rotation[2, i]) < 0.7] or [min(sides, key=lambda i: abs(rotation[2, i]))]  # it leans
    return [math.atan2(rotation[1, i], rotation[0, i]) for i in flat]
