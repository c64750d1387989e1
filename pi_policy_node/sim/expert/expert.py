"""The scripted expert: looks at the world at every row, says what it is doing, and gives the next row of actions."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from pi_policy_node.robot import Kinematics, Robot
from pi_policy_node.sim.expert import follow
from pi_policy_node.sim.expert.arms import Arm, ReachError
from pi_policy_node.sim.expert.follow import Follower
from pi_policy_node.sim.expert.skills import DONE, OPEN, RUNNING, SHUT, Drawer, Drive, Pick, Place, Wish
from pi_policy_node.sim.expert.spots import spot
from pi_policy_node.sim.expert.under_way import gripping, under_way
from pi_policy_node.sim.tasks.goals import Subtask
from pi_policy_node.sim.tasks.registry import Task
from pi_policy_node.sim.tasks.view import TOP, View, half_height

CARRY = 0.90  # m, height of the hand that carries something while the base drives
APART = 0.19  # m between the hands, seen from above
ASIDE = np.array([0.36, 0.42])  # where a hand goes that is in the other's way: x, and y to its own side
SETTLE = 0.3  # s of smoothing from a pose that does not point down, at least


class Act(NamedTuple):
    row: np.ndarray  # [A]
    subtask: Subtask
    finished: bool  # the subtask, with this row


class Hand:
    """One arm's tool point, yaw and fingers as commanded."""

    def __init__(self, arm: Arm, row: np.ndarray, point: np.ndarray, dt: float):
        self.arm = arm
        lift = row[arm.lift]
        _, yaw = arm.forward(row)
        point = arm.nearest(point, lift)
        while not arm.reaches(point, lift):  # seldom: folded, where it cannot point down
            point = point + 0.1 * (arm.home - point)
        self.tool = Follower(point, follow.TOOL, dt)
        self.yaw = Follower(yaw, follow.YAW, dt)
        self.grip = Follower(row[arm.hand], follow.HAND, dt)
        self._residual = row[arm.columns] - arm.joints(point, yaw, lift)
        self._left = self._settle = max(SETTLE, 1.5 * float(np.abs(self._residual).max()))
        self._dt = dt

    def moves(self, before: np.ndarray, way: np.ndarray) -> None:
        """It comes from that row [A], and its tool went that way [3]."""
        _, yaw = self.arm.forward(before)
        self.tool.move(way / self._dt)
        self.yaw.move((self.yaw.position - yaw) / self._dt)
        self.grip.move((self.grip.position - before[self.arm.hand]) / self._dt)

    def row(self, lift: float) -> np.ndarray:
        """[6] joints."""
        joints = self.arm.joints(self.tool.position, float(self.yaw.position[0]), lift)
        self._left = max(0.0, self._left - self._dt)
        u = self._left / self._settle
        return joints + self._residual * u**3 * (10 - 15 * u + 6 * u * u)


class Expert:
    """Acts for one episode after another: `reset` with the row that is commanded now, then `act` at every row."""

    def __init__(self, robot: Robot, kinematics: Kinematics | None = None):
        self.robot = robot
        self.kinematics = kinematics or Kinematics(robot)
        self.arms = {g.name: Arm(robot, self.kinematics, g.name) for g in robot.groups if g.kind == "arm"}
        self._lift = robot.group("lift").columns.start
        self._base = robot.group("base").columns
        self.reset(robot.home)

    def reset(self, row: np.ndarray, before: np.ndarray | None = None) -> None:
        """Starts anew from this command [A], with nothing in mind. before: the command a row ago; None: at rest."""
        dt = self.robot.dt
        points = self.kinematics.tools(row)
        self._row = np.array(row, float)
        self._hands = {name: Hand(arm, self._row, points[name], dt) for name, arm in self.arms.items()}
        self._height = Follower(row[self._lift], follow.LIFT, dt)
        self._ground, self._spin = Follower(np.zeros(2), follow.GROUND, dt), Follower(0.0, follow.SPIN, dt)
        self._skill, self._subtask, self._arm = None, None, ""
        if before is not None:
            were = self.kinematics.tools(before)
            for name, hand in self._hands.items():
                hand.moves(before, points[name] - were[name])
            self._height.move((row[self._lift] - before[self._lift]) / dt)

    def join(self, view: View, task: Task, row: np.ndarray, before: np.ndarray, last: Subtask | None) -> Subtask:
        """Goes on in the middle of what somebody else is doing, and says what that is. row, before: as in `reset`;
        last: what this said a moment ago."""
        self.reset(row, before)
        vx, vy, spin = row[self._base]
        c, s = math.cos(view.base[2]), math.sin(view.base[2])
        self._ground.move([c * vx - s * vy, s * vx + c * vy])
        self._spin.move([spin])
        self._subtask = under_way(view, task, last)
        self._skill = self._begin(view, task, self._subtask)
        if self._arm:
            self._skill.join(view, self._hands[self._arm])
        return self._subtask

    @property
    def active(self) -> str:
        """The arm at work; empty between subtasks and while driving."""
        return self._arm

    @property
    def number(self) -> int:
        """Of the arm at work, in the robot's order; -1: none is."""
        return list(self.arms).index(self._arm) if self._arm else -1

    @property
    def between(self) -> bool:
        """Whether the next row begins a subtask."""
        return self._skill is None

    def act(self, view: View, task: Task, *, push: np.ndarray | None = None) -> Act:
        """The next row. push: a velocity [3] (m/s) that pushes the hand at work aside."""
        if self._skill is None:
            self._subtask = task.next(view)
            self._skill = self._begin(view, task, self._subtask)
        elif self._subtask.kind == "pick" and not self._reaches(view, self._arm, self._subtask.thing):
            if self._choose(view, task, self._subtask.thing) != self._arm:  # it was pushed over to the other side
                self._skill = self._begin(view, task, self._subtask)
        wish = self._wish(view)
        subtask, finished = self._subtask, wish.status == DONE
        if wish.status != RUNNING:
            self._skill = None
        self._move(view, wish, push)
        return Act(self._row.copy(), subtask, finished)

    # ------------------------------------------------------------------------------------------ what to do

    def _begin(self, view: View, task: Task, subtask: Subtask):
        self._arm = ""
        if subtask.kind == "drive":
            return Drive(subtask.place, view)
        if subtask.kind == "done":
            return "done"
        if subtask.kind == "pick":
            self._arm = gripping(view, subtask.thing) or self._choose(view, task, subtask.thing)
            return Pick(subtask.thing, self.arms[self._arm])
        if subtask.kind == "place":
            at = view.things[subtask.thing].position
            self._arm = gripping(view, subtask.thing) or min(
                self.arms, key=lambda arm: float(np.linalg.norm(view.tools[arm] - at)))  # which has just let go
            return Place(subtask, self.arms[self._arm])
        handle_side = max(self.arms, key=lambda arm: self.arms[arm].home[1])  # the drawer stands on the left
        self._arm = handle_side
        return Drawer(subtask.opening, self.arms[handle_side])

    def _choose(self, view: View, task: Task, thing: str) -> str:
        """Of the arms that reach both the thing and the spot where it has to go from here, the one whose hand is
        nearest: who is at it goes on."""
        def cost(name: str) -> float:
            arm, lift = self.arms[name], float(self._height.position[0])
            at = view.to_base(view.things[thing].position)
            points = [at, at + [0, 0, 0.1]]
            goal = next((g for g in task.goals if getattr(g, "thing", "") == thing), None)
            if goal is not None and view.at(goal.station(view)):
                to = view.to_base(spot(view, goal, arm, None)) + [0, 0, half_height(view.things[thing])]
                points += [to, to + [0, 0, 0.1]]
            missing = sum(not arm.reaches(point, lift) for point in points)
            return missing + math.hypot(*(at - view.to_base(view.tools[name]))[:2])

        return min(self.arms, key=cost)

    def _reaches(self, view: View, arm: str, thing: str) -> bool:
        return self.arms[arm].reaches(view.to_base(view.things[thing].position), float(self._height.position[0]))

    def _wish(self, view: View) -> Wish:
        if self._skill == "done":
            home = all(np.linalg.norm(h.tool.position - h.arm.home) < 0.01 for h in self._hands.values())
            return Wish(status=DONE if home and not view.held() else RUNNING)
        return self._skill.act(view, self._hands.get(self._arm))

    # ------------------------------------------------------------------------------------------ how to move

    def _move(self, view: View, wish: Wish, push: np.ndarray | None) -> None:
        lift = float(self._height.step(self.robot.home[self._lift])[0])
        row = self._row
        row[self._lift] = lift
        for name, hand in self._hands.items():
            if name in wish.hands:
                point, yaw, opening, speed = wish.hands[name]
                if self._blocked(view, hand, point):
                    point = np.r_[hand.tool.position[:2], max(hand.tool.position[2], TOP + 0.12)]
            else:
                point, yaw, opening, speed = self._rest(view, hand, wish)
            self._drive_hand(row, hand, point, yaw, opening, speed, lift, push if name == self._arm else None)
        x, y, heading = view.base
        to, turn = wish.base or ((x, y), heading)
        self._ground.position[:], self._spin.position[:] = (x, y), heading
        self._ground.step(to)
        self._spin.step(heading + (turn - heading + math.pi) % (2 * math.pi) - math.pi)
        c, s = math.cos(heading), math.sin(heading)
        vx, vy = self._ground.velocity
        row[self._base] = c * vx + s * vy, c * vy - s * vx, self._spin.velocity[0]

    def _drive_hand(self, row, hand: Hand, point, yaw, opening, speed, lift, push) -> None:
        before = hand.tool.position.copy()
        hand.tool.step(hand.arm.nearest(point, lift), speed=speed, push=push)
        hand.yaw.step(yaw)
        hand.grip.step(opening)
        try:
            row[hand.arm.columns] = hand.row(lift)
        except ReachError:  # not that way: stand, the goal may come nearer
            hand.tool.position = before
            hand.tool.velocity *= 0.0
            hand.tool.acceleration *= 0.0
            row[hand.arm.columns] = hand.row(lift)
        row[hand.arm.hand] = float(np.clip(hand.grip.position[0], 0.0, 1.0))

    def _rest(self, view: View, hand: Hand, wish: Wish) -> tuple[np.ndarray, float, float, float]:
        """Where a hand is that has nothing to do: at home, out of the other's way, or carrying."""
        arm, tool = hand.arm, hand.tool.position
        held = arm.name in view.held()
        home = arm.home.copy()
        if held:
            home[0], home[2] = 0.38, CARRY
        else:
            for point, *_ in wish.hands.values():
                if math.hypot(*(point - arm.home)[:2]) < APART + 0.02:
                    home = np.array([ASIDE[0], math.copysign(ASIDE[1], arm.home[1]), arm.home[2] + 0.05])
        beside = math.hypot(*(home - tool)[:2])
        if beside > 0.05 and tool[2] < arm.rise(tool, home[2]) - 0.03:
            home[:2] = tool[:2]  # up first
        elif beside > 0.02 and not held:
            home[2] += min(0.05, beside)
        return home, arm.natural_yaw(home), SHUT if held else OPEN, math.inf

    def _blocked(self, view: View, hand: Hand, point) -> bool:
        """Whether the other hand is where this one wants to go."""
        others = [h.tool.position for h in self._hands.values() if h is not hand]
        return any(math.hypot(*(point - o)[:2]) < APART - 0.02
                   and math.hypot(*(hand.tool.position - o)[:2]) > math.hypot(*(point - o)[:2]) for o in others)
