"""Hostile streams for the bridge, and an independent account of what controllers make of its windows.

A case is a list of plain events made from a seed. `play` gives them to a Bridge and keeps what it sent; `shrink` drops
the events that a failure does not need.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pi_policy_node.control import Bridge, Chunk, Mode, Refused
from pi_policy_node.robot import Kinematics, Robot

ZERO = 1_000_000_000_000  # ns: when a case begins
TASK = "task"


# ---------------------------------------------------------------------------------------------------- a controller's view

def quintic(start: np.ndarray, end: np.ndarray, t: float) -> np.ndarray:
    """[6, A]: the curve from one state [3, A] to another in t s, as joint_trajectory_controller defines it."""
    p0, v0, a0 = start
    p1, v1, a1 = end
    return np.stack([
        p0, v0, a0 / 2,
        (20 * (p1 - p0) - (3 * a0 - a1) * t**2 - (12 * v0 + 8 * v1) * t) / (2 * t**3),
        (-30 * (p1 - p0) + (3 * a0 - 2 * a1) * t**2 + (16 * v0 + 14 * v1) * t) / (2 * t**4),
        (12 * (p1 - p0) - (a0 - a1) * t**2 - 6 * (v0 + v1) * t) / (2 * t**5),
    ])  # fmt: skip


def along(curve: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[N] -> [N, 4, A]: position, velocity, acceleration and jerk."""
    x, one, none = times, np.ones(len(times)), np.zeros(len(times))
    powers = np.array([
        [one, x, x**2, x**3, x**4, x**5],
        [none, one, 2 * x, 3 * x**2, 4 * x**3, 5 * x**4],
        [none, none, 2 * one, 6 * x, 12 * x**2, 20 * x**3],
        [none, none, none, 6 * one, 24 * x, 60 * x**2],
    ])  # fmt: skip
    return powers.transpose(2, 0, 1) @ curve


class Controller:
    """All columns as one joint_trajectory_controller with stamp 0: starts from its own reference when a message comes."""

    def __init__(self, place: np.ndarray) -> None:
        self.begin, self.knots, self.curves = 0.0, [0.0], []
        self.end = np.stack([place, 0 * place, 0 * place])

    def state(self, time: float) -> np.ndarray:
        """[3, A]"""
        since = time - self.begin
        if since >= self.knots[-1]:
            return self.end
        i = int(np.searchsorted(self.knots, since, side="right")) - 1
        return along(self.curves[i], np.array([since - self.knots[i]]))[0, :3]

    def receive(self, time: float, times: np.ndarray, states: np.ndarray) -> None:
        start = self.state(time)
        self.begin, self.knots, self.end = time, [0.0, *times], states[-1]
        pairs = zip([start, *states], states, np.diff(self.knots))
        self.curves = [quintic(before, after, duration) for before, after, duration in pairs]

    def whole(self, step: float = 0.004) -> tuple[np.ndarray, np.ndarray]:
        """Times from the message's arrival [N], and p, v, a, jerk [N, 4, A]: what happens if no other one ever comes."""
        times, states = [], []
        for t0, t1, curve in zip(self.knots, self.knots[1:], self.curves):
            x = np.linspace(0.0, t1 - t0, max(3, int((t1 - t0) / step) + 2))
            times.append(t0 + x)
            states.append(along(curve, x))
        return np.concatenate(times), np.concatenate(states)


# ---------------------------------------------------------------------------------------------------------------- cases

@dataclass(frozen=True)
class Event:
    kind: str
    after: float = 0.0  # s since the event before
    numbers: dict = field(default_factory=dict)


@dataclass
class Record:
    """What came of a case."""

    curves: list[np.ndarray] = field(default_factory=list)  # [N, 4, A] one per message, to its very end
    times: list[np.ndarray] = field(default_factory=list)  # [N]
    received: list[float] = field(default_factory=list)
    actions: list[tuple[float, np.ndarray]] = field(default_factory=list)  # what streams were given
    reference: list[tuple[float, np.ndarray]] = field(default_factory=list)  # just before and after each message
    start: np.ndarray | None = None
    bridge: Bridge | None = None
    ran: bool = False


def make_case(robot: Robot, seed: int, length: int = 14) -> tuple[np.ndarray, list[Event]]:
    """A place to start from and what happens there."""
    rng = np.random.default_rng(seed)
    place = robot.home.copy()
    span = np.where(robot.is_base, 0.0, np.minimum(robot.upper - robot.lower, 6.0))
    where = rng.random()
    if where < 0.3:
        place += rng.normal(0, 0.1, len(place)) * ~robot.is_base
        place = np.clip(place, robot.lower, robot.upper)
    elif where < 0.5:  # anywhere, so perhaps outside of the workspace, or at a limit
        place = np.where(robot.is_base, 0.0, rng.uniform(robot.lower, robot.upper))
    elif where < 0.6:  # found outside of the joints' range
        place += span * rng.choice([-0.02, 0.02]) * (rng.random(len(place)) < 0.3)
        one = rng.integers(len(place))
        if not robot.is_base[one]:
            place[one] = (robot.upper + 0.03 * span)[one] if rng.random() < 0.5 else (robot.lower - 0.03 * span)[one]
    events = [Event("task")]
    wild = rng.random()
    for _ in range(length):
        after = float(rng.choice([0.02, 0.02, 0.005, 0.04, 0.09, 0.2], p=[0.5, 0.2, 0.1, 0.1, 0.07, 0.03]))
        kind = str(rng.choice(["chunk", "tick", "person", "empty", "stop", "task", "silence", "fault", "withdraw"],
                              p=[0.5, 0.37, 0.04, 0.02, 0.01, 0.02, 0.01, 0.01, 0.02]))
        events.append(Event(kind, after, {"seed": int(rng.integers(2**31)), "wild": wild}))
    return place, events


def make_rows(robot: Robot, place: np.ndarray, numbers: dict) -> tuple[np.ndarray, float, float, float]:
    """Rows that begin near a place [A], their dt, how late the first one is, and how old their observation."""
    rng = np.random.default_rng(numbers["seed"])
    horizon = int(rng.choice([50, 50, 20, 5, 1]))
    dt = float(rng.choice([robot.dt, robot.dt, 0.005, 0.05, 0.1]))
    late = float(rng.choice([0.0, 0.03, 0.1, 0.3, -0.08, -1.0, 3.0], p=[0.4, 0.3, 0.1, 0.1, 0.06, 0.02, 0.02]))
    old = float(rng.choice([0.0, late, 0.5, 0.75, 2.0], p=[0.3, 0.5, 0.1, 0.05, 0.05]))
    t = dt * np.arange(horizon)[:, None]
    columns = len(place)
    some = rng.random(columns) < rng.choice([0.1, 0.5, 1.0])
    speed = np.where(robot.is_base, robot.upper, robot.velocity) * 10 ** rng.uniform(-1, 1.5 * numbers["wild"]) * some
    shape = rng.integers(6)
    sign = rng.choice([-1.0, 1.0], columns)
    if shape == 0:
        rows = place + sign * speed * t  # straight on, past every limit
    elif shape == 1:
        f = 10 ** rng.uniform(-0.5, 1.2)
        rows = place + sign * speed / (2 * np.pi * f) * np.sin(2 * np.pi * f * t)
    elif shape == 2:
        rows = place + 0.02 * speed * rng.normal(size=(horizon, columns))
    elif shape == 3:  # the first row is near, the others are anywhere
        rows = rng.uniform(robot.lower, robot.upper, (horizon, columns)) * np.where(some, 1.0, 0.0) + place * ~some
        rows[: 1 + int(max(late, 0.0) / dt)] = place
    elif shape == 4:
        rows = np.tile(place + 0.05 * speed * sign, (horizon, 1))  # a step
    else:
        rows = place + 10 ** rng.uniform(0, 8) * sign * np.minimum(t, 1.0)
    if robot.is_base.any():
        rows[:, robot.is_base] = rng.normal(0, 0.4, 3) * (1 if rng.random() < 0.7 else 100)
    if rng.random() < 0.02:
        rows[rng.integers(horizon), rng.integers(columns)] = rng.choice([np.nan, np.inf, -np.inf, 1e300])
    return rows, dt, late, old


def play(robot: Robot, kinematics: Kinematics, place: np.ndarray, events: list[Event], *, delay: float = 0.0) -> Record:
    """Gives the events to a bridge. Messages arrive up to `delay` s late, each by another time."""
    bridge = Bridge(robot, kinematics=kinematics)
    controller = Controller(place)
    record = Record(start=place, bridge=bridge)
    rng = np.random.default_rng(len(events))
    clock, issued, tasks, sequence = 0.0, 0, 1, 0
    pending: list[tuple[float, np.ndarray, np.ndarray]] = []
    silent = False
    twist = np.zeros(3)

    def deliver(until: float) -> None:
        while pending and pending[0][0] <= until:
            at, times, states = pending.pop(0)
            before = controller.state(at)
            controller.receive(at, times, states)
            record.reference.append((at, np.stack([before, controller.state(at)])))
            t, curve = controller.whole()
            record.received.append(at)
            record.times.append(t)
            record.curves.append(curve)

    def moment() -> dict:
        return {"now": ZERO + round(clock * 1e9), "steady": clock}

    def measure() -> None:
        deliver(clock)
        bridge.clock.advance(**moment())
        state = controller.state(clock)
        joints = {}
        for group in robot.groups:
            values = state[0, group.columns]
            joints |= {j: group.gripper.position(v) if group.gripper else v for j, v in zip(group.joints, values)}
        bridge.on_joints(list(joints), list(joints.values()), stamp=ZERO + round(clock * 1e9), **moment())
        bridge.on_odom(twist, steady=clock)

    def tick() -> None:
        nonlocal twist
        if not silent:
            measure()
        output = bridge.tick(**moment())
        if output.window is not None:
            at = clock + delay * rng.random()
            pending.append((max(at, pending[-1][0] if pending else at), *output.window.points))
        deliver(clock)
        if output.action is not None:
            record.actions.append((clock, output.action))
            twist = output.action[robot.is_base]
        record.ran = record.ran or bridge.status(steady=clock).mode in (Mode.RUNNING, Mode.TAKEOVER)

    def renew() -> None:
        bridge.on_instruction(f"{TASK}{tasks}", issued=issued, stamp=moment()["now"], expiry=1.0, **moment())

    tick()
    for event in events:
        clock += event.after
        if event.kind == "task":
            tasks, issued = tasks + 1, moment()["now"]
            renew()
        elif event.kind in ("chunk", "person", "empty"):
            if not silent:
                measure()
            renew()
            command = bridge.shaper.command(bridge.clock.time) if bridge.shaper.window is not None else place
            rows, dt, late, old = make_rows(robot, command, event.numbers)
            sequence += 1
            stamp = moment()["now"] - round(late * 1e9)
            try:
                bridge.on_chunk(Chunk.read(
                    robot, source="hostile", sequence=sequence, instruction_id=f"{TASK}{tasks}", stamp=stamp,
                    observation_stamp=moment()["now"] - round(old * 1e9), dt=dt, names=list(robot.action_names),
                    horizon=0 if event.kind == "empty" else len(rows), data=rows.ravel(),
                ), person=event.kind == "person", **moment())
            except Refused as refusal:
                bridge.refuse(refusal)
        elif event.kind == "stop":
            bridge.stop()
        elif event.kind == "withdraw":
            bridge.on_instruction("", issued=0, stamp=0, expiry=0.0, **moment())
        elif event.kind == "silence":
            silent = not silent
        elif event.kind == "fault":
            bridge.resume(**moment())
        tick()
    deliver(np.inf)
    return record


def shrink(events: list[Event], fails: Callable[[list[Event]], bool]) -> list[Event]:
    """Fewer events that still fail."""
    i = 0
    while i < len(events):
        fewer = events[:i] + events[i + 1:]
        if fails(fewer):
            events = fewer
        else:
            i += 1
    return events
