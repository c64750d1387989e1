"""Between the robot's rows and mini's knots: a knot every 0.1 s, relative to the state, in units of what is usual."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pi_policy_node.robot import Kinematics, Robot

DRAWN, DRAWN_FROM = 0.7, 0.04  # part of the way, and m from where, that plans are drawn to the place they are for
FACED_FROM, OFF, TURNS = 0.10, 0.2, 0.25  # m from where hands are turned; rad that they may be off, and per knot
LOW = 0.02  # m above a thing: a hand so low would turn against what stands beside it
OUTMOST, DEAR = 1.75, 10.0  # rad from its middle that a wrist is sent to, and how much dearer is what is beyond
OPEN = 0.7  # of an opening: the hand holds nothing
SHUT, MOVES, FURTHER = 0.3, 0.01, 0.02  # of an opening: it holds a handle; m that it is moved; m that it goes on
ARRIVES, FACES, HOMES = 0.2, 0.35, 1.0  # m and rad from where a base is about to arrive; 1/s: how fast it then does
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
    yaws = np.stack([_yaws(kinematics, states, arm.tool) for arm in arms], 1)
    return (torch.from_numpy(np.stack([ways[arm.name] for arm in arms], 1)).float(), torch.from_numpy(yaws).float())


def _fingers(robot: Robot, arm: str) -> int:
    """The column of an arm's gripper."""
    return robot.group(arm.replace("_arm", "_gripper")).columns.start


def _yaws(kinematics: Kinematics, states: np.ndarray, tool: str) -> np.ndarray:
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


def drawn(robot: Robot, kinematics: Kinematics, knots: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Knots [K, A] of which those that bring a tool near a place bring it nearer, seen from above: a network that sees
    where a thing is to some 7 mm comes there to some 15."""
    tools, ways, knots = kinematics.tools(knots), kinematics.ways(knots), knots.copy()
    for arm, at in tools.items():
        off = place[:2] - at[:, :2]
        share = DRAWN * ((DRAWN_FROM - np.hypot(*off.T)) / (0.5 * DRAWN_FROM)).clip(0.0, 1.0)
        knots[:, robot.group(arm).columns] += np.einsum("kji,ki->kj", ways[arm][..., :2], share[:, None] * off)
    return knots


def faced(robot: Robot, kinematics: Kinematics, knots: np.ndarray, state: np.ndarray, place: np.ndarray,
          ways: Sequence[float]) -> np.ndarray:
    """Knots [K, A] in which open hands near a thing are turned so that fingers can close on it, until they close. ways:
    the directions in which they can, rad. A network that has turned past one goes on to the same one half a turn later,
    to the wrist's stop; of all there are this takes the one that is nearest, hardly farther than OUTMOST."""
    knots = knots.copy()
    for arm, at in kinematics.tools(knots).items():
        near = ((FACED_FROM - np.hypot(*(place[:2] - at[:, :2]).T)) / (0.5 * FACED_FROM)).clip(0.0, 1.0)
        near = near * ((at[:, 2] - place[2] - LOW) / LOW).clip(0.0, 1.0)
        fingers = _fingers(robot, arm)
        if state[fingers] < OPEN or not near.any() or not len(ways):
            continue
        wrist, tool, nearest = robot.group(arm).columns.stop - 1, robot.group(arm).tool, int(near.argmax())
        yaws, more = np.unwrap(_yaws(kinematics, knots, tool)), knots.copy()
        more[:, wrist] += 0.1
        sign = np.sign(np.sin(_yaws(kinematics, more, tool)[nearest] - yaws[nearest]))
        by = np.add.outer(np.asarray(ways) - yaws[nearest], math.pi * np.arange(-4, 5)).ravel()  # rad of the hand
        ends = knots[nearest, wrist] + sign * by
        best = by[(np.abs(ends - state[wrist]) + DEAR * (np.abs(ends) - OUTMOST).clip(0.0)).argmin()]
        off = sign * (yaws[nearest] + best - yaws)
        wanted = near * ((np.abs(off) - OFF) / OFF).clip(0.0, 1.0) * off
        turned = 0.0
        for k in range(1, len(knots)):
            if knots[k, fingers] >= OPEN:
                turned += float(np.clip(wanted[k] - turned, -TURNS, TURNS))
            knots[k, wrist] += turned
    return knots


def pulled(robot: Robot, kinematics: Kinematics, knots: np.ndarray, state: np.ndarray) -> np.ndarray:
    """Knots [K, A] that move a closed hand, moved a little further on its way: a drawer has a stop, and fingers that open
    as they come to it leave it a little before."""
    tools, ways, knots = kinematics.tools(knots), kinematics.ways(knots), knots.copy()
    for arm, at in tools.items():
        fingers = _fingers(robot, arm)
        way = at[1:] - at[:1]
        far = np.linalg.norm(way[:, :2], axis=1)
        if state[fingers] < SHUT and far.max() > MOVES:
            on = (far / far.max())[:, None] * FURTHER * way[far.argmax()] / far.max() * [1.0, 1.0, 0.0]
            knots[1:, robot.group(arm).columns] += np.einsum("kji,ki->kj", ways[arm][1:], on)
    return knots


def docked(robot: Robot, knots: np.ndarray, every: float, stand: np.ndarray) -> np.ndarray:
    """Knots [K, A] of a base that is about to arrive, with the speeds that bring it there. stand [4]: the place from
    here, x and y [m], cosine and sine of the angle at which one stands there; every: s between knots."""
    x, y, turn = stand[0], stand[1], float(np.arctan2(stand[3], stand[2]))
    if abs(turn) > FACES:
        return knots
    share = np.clip((ARRIVES - np.hypot(x, y)) / (0.5 * ARRIVES), 0.0, 1.0)
    fades = np.exp(-HOMES * every * np.arange(len(knots)))[:, None]
    knots = knots.copy()
    base = np.flatnonzero(robot.is_base)
    knots[:, base] += share * (HOMES * fades * [x, y, turn] - knots[:, base])
    return knots
