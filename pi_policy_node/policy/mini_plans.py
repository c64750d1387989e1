"""What eyes know better than the network of where hands and base go. All of these take its plans, and correct them.

Hands come down to what they are for, and are turned so that they can grip it; drawers are moved to their stop; bases
arrive where one stands at a place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pi_policy_node.policy.mini_rows import fingers_of, yaws_of
from pi_policy_node.robot import Kinematics, Robot

DRAWN = 0.7  # part of the way that plans are drawn to the place they are for
TO_CLOSE, TO_OPEN = 0.04, 0.08  # m from it, from where: another thing may stand beside one; nothing is put there
CLOSES_FROM, OPENS_FROM = 0.03, 0.05  # m beside a place, from which hands close there, or let go
LIFTED = 0.04  # m above where a thing lay: what a hand has gripped is in it, not there
LOWERS, ABOVE, LEVEL = 0.012, 0.002, 0.006  # m that they are lowered per knot; m above it that is aimed at, and will do
FACED_FROM, OFF, TURNS = 0.10, 0.2, 0.25  # m from where hands are turned; rad that they may be off, and per knot
LOW = 0.02  # m above a thing: a hand so low would turn against what stands beside it
OUTMOST, DEAR = 1.75, 10.0  # rad from its middle that a wrist is sent to, and how much dearer is what is beyond
OPEN, SHUT = 0.7, 0.3  # of an opening: the hand holds nothing; it holds a handle. As far from open as from shut
HELD, GRIPS = (0.35, 0.65), 0.03  # of an opening: the hand is closed around something; and is told to be
FINGERS = 0.2  # of an opening that they move per knot
SQUEEZES = 0.1  # of an opening that a hand stays behind what it is told, around something
MOVES, FURTHER = 0.01, 0.02  # m that a handle is moved; m that it goes on
ARRIVES, FACES, HOMES = 0.2, 0.35, 1.0  # m and rad from where a base is about to arrive; 1/s: how fast it then does


def drawn(robot: Robot, kinematics: Kinematics, knots: np.ndarray, place: np.ndarray, closes: bool) -> np.ndarray:
    """Knots [K, A] of which those that bring a tool near a place bring it nearer, seen from above: a network that sees
    where a thing is to some 7 mm comes there to some 15."""
    tools, ways, knots = kinematics.tools(knots), kinematics.ways(knots), knots.copy()
    start = TO_CLOSE if closes else TO_OPEN
    for arm, at in tools.items():
        off = place[:2] - at[:, :2]
        share = DRAWN * ((start - np.hypot(*off.T)) / (0.5 * start)).clip(0.0, 1.0)
        knots[:, robot.group(arm).columns] += np.einsum("kji,ki->kj", ways[arm][..., :2], share[:, None] * off)
    return knots


def lowered(robot: Robot, kinematics: Kinematics, knots: np.ndarray, state: np.ndarray, place: np.ndarray, closes: bool,
            knows: bool, keeps: bool) -> np.ndarray:
    """Knots [K, A] in which a hand comes down to a place before its fingers close on what is there, or let go of what
    is to lie there, and stays until they have. A network taught by hands that turn back at their lowest turns back, and
    moves its fingers, above that: a centimetre above the middle of a thing, so that balls creep out, and four above
    where a thing is to lie, so that it falls and rolls. What it holds it does not let go farther than OPENS_FROM from
    there, seen from above, nor anywhere while nobody `knows` where that is; nor, as long as it `keeps`, what it has
    gripped and lifted from there."""
    tools, ways, knots = kinematics.tools(knots), kinematics.ways(knots), knots.copy()
    k, near = np.arange(len(knots)), (CLOSES_FROM if closes else OPENS_FROM) if knows else 0.0
    for arm, at in tools.items():
        fingers, columns = fingers_of(robot, arm), robot.group(arm).columns
        done, now = (1 - knots[:, fingers], 1 - state[fingers]) if closes else (knots[:, fingers], state[fingers])
        if not closes and state[fingers] >= OPEN:
            knots[:, fingers] = np.maximum.accumulate(knots[:, fingers])  # an empty hand has nothing to put down
            continue
        if closes and done[0] >= OPEN and HELD[0] < state[fingers] < HELD[1] and done[0] - now > SQUEEZES:
            if keeps and at[0, 2] > place[2] + LIFTED:  # else it may try again
                knots[:, fingers] = np.minimum.accumulate(knots[:, fingers])  # what it has gripped it does not drop
            continue
        rests = closes and abs(done[0] - now) < 0.5 * SQUEEZES  # half open, beside another thing
        done, begins = _begins(done, now, max(SHUT, now + SQUEEZES) if rests else SHUT)
        if begins < 0:
            continue
        if math.dist(at[begins, :2], place[:2]) > near:
            if not closes:
                knots[1:, fingers] = GRIPS  # what is held is not dropped elsewhere
            continue
        last = max(begins - 1, 0)  # the knot before
        high = max(0.0, at[[last, begins], 2].max() - place[2] - ABOVE)
        lowers = math.ceil(high / LOWERS) if high > LEVEL else 0
        ends = np.flatnonzero(done[begins:] >= OPEN)
        waits = lowers + (int(ends[0]) if len(ends) else len(knots))
        pose, move = (np.where(k < begins, k, np.maximum(last, k - late)) for late in (waits, lowers))
        down = high * ((k - last) / max(lowers, 1)).clip(0.0, 1.0)
        knots[:, columns] = knots[pose][:, columns] - down[:, None] * ways[arm][pose][..., 2]
        knots[:, fingers] = 1 - done[move] if closes else done[move]
    return knots


def _begins(done: np.ndarray, now: float, least: float) -> tuple[np.ndarray, int]:
    """How far a hand is told to have opened, or closed, [K]; now: how far it has. The same, without turning back
    midway; and the first with which it does so, by more than `least`, -1: with none."""
    told = np.flatnonzero(done > least)
    if now >= OPEN or done[0] >= OPEN or not len(told) or SHUT < done[0] < now and done[1] < done[0]:
        return done, -1
    if not told[0]:  # what has begun comes to its end: a network that then wants it otherwise would wait for ever
        ends = np.minimum(done[0] + FINGERS * np.arange(len(done)), 1 - GRIPS)
        done = np.maximum.accumulate(np.maximum(done, ends))
    return done, int(told[0])


def faced(robot: Robot, kinematics: Kinematics, knots: np.ndarray, state: np.ndarray, place: np.ndarray,
          ways: Sequence[float]) -> np.ndarray:
    """Knots [K, A] in which open hands near a thing are turned so that fingers can close on it, until they close. ways:
    the directions in which they can, rad. A network that has turned past one goes on to the same one half a turn later,
    to the wrist's stop; of all there are this takes the one that is nearest, hardly farther than OUTMOST."""
    knots = knots.copy()
    for arm, at in kinematics.tools(knots).items():
        near = ((FACED_FROM - np.hypot(*(place[:2] - at[:, :2]).T)) / (0.5 * FACED_FROM)).clip(0.0, 1.0)
        near = near * ((at[:, 2] - place[2] - LOW) / LOW).clip(0.0, 1.0)
        fingers = fingers_of(robot, arm)
        if state[fingers] < OPEN or not near.any() or not len(ways):
            continue
        wrist, tool, nearest = robot.group(arm).columns.stop - 1, robot.group(arm).tool, int(near.argmax())
        yaws, more = np.unwrap(yaws_of(kinematics, knots, tool)), knots.copy()
        more[:, wrist] += 0.1
        sign = np.sign(np.sin(yaws_of(kinematics, more, tool)[nearest] - yaws[nearest]))
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
        fingers = fingers_of(robot, arm)
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
