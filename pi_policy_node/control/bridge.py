"""The hardware bridge without ROS: chunks, instructions and measurements in, windows for the controllers out.

Times come in from outside, always as a pair: `now`, the node's clock in ns, by which data is stamped, and `steady`,
seconds of a clock that never stops, by which every timeout runs. `tick` is called at the command rate, and at once
after a chunk came; everything else only takes note. Safety is in `tick`: read it, then what it calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from pi_policy_node.control.clock import MotionClock
from pi_policy_node.control.gate import Gate, NotFinite
from pi_policy_node.control.modes import Cause, Code, Mode
from pi_policy_node.control.report import Output, Status
from pi_policy_node.control.senses import Grip, Senses
from pi_policy_node.control.shaper import Shaper
from pi_policy_node.control.supervisor import Supervisor
from pi_policy_node.control.timeline import Chunk, Refused, Timeline
from pi_policy_node.control.window import Window
from pi_policy_node.robot import Kinematics, Robot

STANDING = 0.05  # s for which a clock may stand between two of its messages


class Bridge:
    """One robot. Not thread-safe. dry_run: nothing is really sent, so the robot is not expected to follow."""

    def __init__(self, robot: Robot, *, kinematics: Kinematics | None = None, dry_run: bool = False) -> None:
        self.robot = robot
        self.dry_run = dry_run
        self.counters: Counter[str] = Counter()
        self.timeline = Timeline(robot)
        self.shaper = Shaper(robot, kinematics=kinematics, counters=self.counters)
        self.clock = MotionClock()
        self.supervisor = Supervisor(robot.heartbeat_timeout)
        self._gate = Gate(robot)
        self._grip = Grip(robot)
        self.restart()

    def restart(self) -> None:
        """As if new, at rest where the robot is found; but what was latched, ended, counted or gripped stays so."""
        if self.shaper.window is not None and self.senses.state is not None:
            self._grip.remember(self._command(), self.senses.state)
        self.shaper.clear()
        self.timeline.clear()
        self.senses = Senses(self.robot)
        self._person = False  # a person has the robot
        self._playing: Chunk | None = None  # the chunk in force
        self._waiting: Chunk | None = None  # valid, but the robot is not at rest yet
        self._held = Cause(Code.NO_CHUNK, "waiting for the first chunk")  # why nothing is playing
        self._served = False  # the instruction in force has moved the robot
        self._braked = True  # the brake has been put on since the plan ended
        self._let_go = False  # after a resume: the reference goes to the robot, not the robot to the reference

    # ------------------------------------------------------------------------------------------------------- what comes in

    def on_instruction(self, instruction_id: str, *, issued: int, stamp: int, expiry: float, now: int, steady: float) -> None:
        """A renewal of the lease; an empty id withdraws it. Stamps in ns, expiry in s."""
        try:
            another = self.supervisor.instruct(
                instruction_id, issued=issued, stamp=stamp, expiry=expiry, now=now, steady=steady)
        except Refused as refusal:
            self.refuse(refusal)
            return
        if another:
            self._served = False
            if not self._person:
                self._halt(Code.NO_CHUNK, f"waiting for the first chunk of '{instruction_id}'")

    def on_chunk(self, chunk: Chunk, *, person: bool = False, now: int, steady: float) -> str:
        """A chunk of the policy, or of a person who takes over. Returns why it was refused, or nothing."""
        self._advance(now, steady)
        try:
            self._take(chunk, person, steady)
        except Refused as refusal:
            self.refuse(refusal)
            return str(refusal)
        return ""

    def refuse(self, refusal: Refused) -> None:
        """Counts what was refused, here or because it could not even be read."""
        self.counters[f"refused_{refusal.reason}"] += 1
        if isinstance(refusal, NotFinite):
            self.fault(Code.CHUNK_NOT_FINITE, str(refusal))

    def on_joints(self, names: Sequence[str], positions: Sequence[float], *, stamp: int, now: int, steady: float) -> None:
        """joint_states, by name, in any order."""
        self._advance(now, steady)
        self.senses.joints(names, positions, time=self.clock.at(stamp), age=(now - stamp) * 1e-9, steady=steady)

    def on_odom(self, twist: Sequence[float], *, steady: float) -> None:
        """The base's measured velocity (vx, vy, wz)."""
        self.senses.odom(twist, steady=steady)

    def on_camera(self, name: str, problem: str) -> None:
        """What camera_ingest reports of a camera; an empty problem is none."""
        self.senses.camera(name, problem)

    def on_heartbeat(self, alive: bool, *, steady: float) -> None:
        """The stop button. False stops, whether or not the robot requires one."""
        self.supervisor.heartbeat(alive, steady)
        if not alive:
            self.fault(Code.HEARTBEAT_FALSE, "the stop button says stop")

    def on_listeners(self, missing: Collection[str]) -> None:
        """The command topics on which nobody listens."""
        self.supervisor.listeners(missing)

    def fault(self, code: Code, words: str) -> None:
        """Stops, latched, for one of the codes that latch."""
        if self.supervisor.latch.set(Cause(code, words)):
            self.counters[f"latched_{code.name.lower()}"] += 1
            self._person = False
            self._halt(code, words)

    def stop(self, words: str = "somebody called `stop`") -> None:
        """Ends the task, and all motion until `resume`."""
        self.supervisor.end_task()
        self.fault(Code.STOP_SERVICE, words)

    def rest(self, words: str) -> None:
        """Ends the plan, and a takeover, without latching."""
        self._person = False
        self._halt(Code.NO_CHUNK, words)

    def resume(self, *, now: int, steady: float) -> tuple[bool, str]:
        """Ends a fault or a stop, if its reason is gone. Moves nothing: only a task given from now on will."""
        self._advance(now, steady)
        if self.supervisor.latch.cause is None:
            return True, "nothing was latched"
        reason = self._still_wrong(steady)
        if reason is not None:
            return False, f"cannot resume: {reason.words}"
        self.supervisor.resume(now)
        self._served, self._let_go = False, True
        self._held = Cause(Code.NO_CHUNK, "waiting for the first chunk")
        return True, "resumed: waiting for a new task"

    # ---------------------------------------------------------------------------------------------------------------- tick

    def tick(self, *, now: int, steady: float) -> Output:
        """Watches, decides, moves."""
        self._advance(now, steady)
        self.senses.tick(steady)
        time = self.clock.time
        if self.shaper.window is None and self.senses.state is not None and self.clock.started:
            self.shaper.start(time, self._grip.place(self.senses.state))
        self._watch(steady)
        if self.shaper.window is None:
            return Output(None, None, True)
        obstacle = self._obstacle(steady)
        if self._playing is not None:
            self.timeline.played(time, limited=self.shaper.limited)
            if obstacle is not None:
                self._halt(obstacle.code, obstacle.words)
            elif time > self.timeline.until:
                self._run_out()
        elif self._waiting is not None and obstacle is None and self.shaper.at_rest(time) and not self._pulled().any():
            self._begin()
        return Output(self._move(time), self.shaper.command(time), self.shaper.at_rest(time))

    def _advance(self, now: int, steady: float) -> None:
        problem = self.clock.advance(now, steady)
        if problem:
            self.supervisor.clock_jumped(now)
            self.senses.clock.clear()
            if self._engaged(steady):
                self.fault(Code.CLOCK, problem)

    def _watch(self, steady: float) -> None:
        """What ends motion and latches, whatever the plan says."""
        tracking = None
        if self.shaper.window is not None and not self._let_go and not self.dry_run:
            tracking = self.senses.tracking_fault(self.shaper)
        blind = self.senses.blind(lasting=True)
        camera = Cause(Code.CAMERA, blind) if blind and self._serving(steady) else None
        sensed = self.senses.problem() if self._engaged(steady) else None
        for cause in (self.supervisor.heart(steady), sensed, tracking, camera):
            if cause is not None and cause.code.latches:
                self.fault(cause.code, cause.words)

    def _serving(self, steady: float) -> bool:
        """Whether the instruction in force has moved the robot, and may go on to."""
        return self._served and not self._person and self.supervisor.in_force(steady) is not None

    def _engaged(self, steady: float) -> bool:
        """Whether there is motion to end. Otherwise what is wrong with the senses holds only as long as it lasts."""
        moving = self.shaper.window is not None and not self.shaper.at_rest(self.clock.time)
        return moving or self._playing is not None or self._person or self._serving(steady)

    def _obstacle(self, steady: float) -> Cause | None:
        """Why nothing may move now, apart from the plan itself."""
        return (
            self.supervisor.latch.cause
            or (Cause(Code.CLOCK, "the clock stands still") if self.clock.stopped else None)
            or self.senses.problem()
            or self.supervisor.heart(steady)
            or self.supervisor.nobody_listens()
            or (None if self._person else self.supervisor.no_task(steady))
        )

    def _still_wrong(self, steady: float) -> Cause | None:
        """What would latch again at once."""
        if self.clock.stopped:
            return Cause(Code.CLOCK, "the clock still stands")
        blind = self.senses.blind()
        return self.supervisor.heart(steady) or self.senses.problem() or (Cause(Code.CAMERA, blind) if blind else None)

    def _move(self, time: float) -> Window | None:
        if self._playing is not None:
            if self.clock.standing > STANDING:
                return None  # the one before goes on; sent again, it would begin where the controllers are no more
            return self.shaper.follow(time, self.timeline.aim(time + self.shaper.blend), self.timeline.aim(time))
        latched = self.supervisor.latch.cause
        if latched is not None and latched.code == Code.CLOCK:
            return None  # a message could mean another time to the controller; the tail that it has needs none
        if not self._braked:
            self._braked = True
            return self.shaper.brake(time)
        if self._let_go and latched is None and self.senses.settled and self.shaper.at_rest(time):
            return self._follow_robot(time)
        return None

    def _pulled(self) -> np.ndarray:
        """[A] after a resume: columns in which the reference has yet to go to where the robot is."""
        return (self.senses.apart(self.shaper) > self.robot.tracking_tolerance) & self._let_go & (not self.dry_run)

    def _follow_robot(self, time: float) -> Window | None:
        """Takes the reference to where the robot is, if that is elsewhere, so that nothing pulls on it any more."""
        far = self._pulled()
        if not far.any():
            return None
        self.counters["let_go"] += 1
        return self.shaper.ease(time, np.where(far, self.senses.state, self.shaper.command(time)))

    # ------------------------------------------------------------------------------------------------------------ the plan

    def _take(self, chunk: Chunk, person: bool, steady: float) -> None:
        latched = self.supervisor.latch.cause
        if latched is not None:
            raise Refused("latched", f"the robot is held: {latched.words}")
        if person:
            self.supervisor.check_person(chunk)
        elif self._person:
            raise Refused("takeover", "a person has the robot")
        else:
            self.supervisor.check(chunk, steady)
        self._gate.check(chunk, person=person, stamp=self.clock.at(chunk.stamp), now=self.clock.time,
                         observed=self.clock.at(chunk.observation_stamp), steady=steady)
        if self.shaper.window is None:
            raise Refused("starting", "the robot's place is not known yet")
        if not len(chunk.rows):
            self._empty(chunk, person)
        elif person and not self._person:
            self._take_over(chunk)
        elif self._playing is None:
            self._wait(chunk)
        else:
            self._splice(chunk, near=None)
        self._gate.passed(chunk, person=person, steady=steady)

    def _empty(self, chunk: Chunk, person: bool) -> None:
        if not person:
            self._halt(Code.EMPTY_CHUNK, f"'{chunk.source}' has nothing to do")
        elif self._person:
            self._person = False
            self.counters["handed_back"] += 1
            self._halt(Code.NO_CHUNK, "the robot was handed back: waiting for the policy")

    def _take_over(self, chunk: Chunk) -> None:
        """A person's first chunk begins where the robot is, or else that person does not have it."""
        near = self.senses.expected(self._command())
        times, rows = self._rows(chunk)
        self._match(chunk, times, rows, near)
        self._person = True
        self._let_go = False
        self.counters["takeovers"] += 1
        self._waiting = None  # the policy's, which a person must not be made to play
        if self._playing is None:
            self._wait(chunk)
        else:
            self._splice(chunk, near=near)

    def _wait(self, chunk: Chunk) -> None:
        """Until the robot is at rest; the newest one is kept."""
        if self._waiting is None or chunk.observation_stamp >= self._waiting.observation_stamp:
            self._waiting = chunk

    def _begin(self) -> None:
        """From rest, where the robot is."""
        chunk, self._waiting = self._waiting, None
        blind = self.senses.blind()
        try:
            if blind and not self._person:
                raise Refused("camera", blind)
            self.timeline.clear()
            if self.dry_run:
                self.shaper.start(self.clock.time, self.senses.state)
            self._splice(chunk, near=self.senses.expected(self._command()))
        except Refused as refusal:
            self.refuse(refusal)
            self._held = Cause(Code.NO_CHUNK, f"the last chunk was refused: {refusal}")
        else:
            self._let_go = False
            self._served = self._served or not self._person

    def _splice(self, chunk: Chunk, *, near: np.ndarray | None) -> None:
        """Puts a chunk in force. Its first due row must be near a place [A], or else near the command by then."""
        times, rows = self._rows(chunk)
        self._match(chunk, times, rows, near)
        self.timeline.splice(times, rows, dt=chunk.dt, now=self.clock.time, blind_after=self._blind_after(chunk))
        self._playing = chunk

    def _match(self, chunk: Chunk, times: np.ndarray, rows: np.ndarray, near: np.ndarray | None) -> None:
        due = np.flatnonzero(times >= self.clock.time)
        if not len(due) or times[due[0]] > self._blind_after(chunk):
            raise Refused("late", "none of its rows is due any more")
        if near is None:
            near = self.shaper.command(min(times[due[0]], self.clock.time + self.shaper.blend))
        apart = np.abs(rows[due[0]] - near)
        far = apart > self.robot.splice_tolerance
        if far.any():
            worst = int(np.argmax(np.where(far, apart / self.robot.splice_tolerance, 0.0)))
            raise Refused("far_first_row", f"{self.robot.action_names[worst]} would start {apart[worst]:.3f} away; "
                                           f"the tolerance is {self.robot.splice_tolerance[worst]:g}")

    def _rows(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """Due times [H] and rows [H, A], within the robot's range; where it is outside of that, no further out."""
        command = self._command()
        rows = np.clip(chunk.rows, np.minimum(self.robot.lower, command), np.maximum(self.robot.upper, command))
        return self.clock.at(chunk.stamp) + chunk.dt * np.arange(len(rows)), rows

    def _blind_after(self, chunk: Chunk) -> float:
        return self.clock.at(chunk.observation_stamp) + self.robot.max_blind

    def _command(self) -> np.ndarray:
        return self.shaper.command(self.clock.time)

    def _run_out(self) -> None:
        if self._person:
            self._halt(Code.AWAITING_TAKEOVER, "a person has the robot and is silent")
        elif self.timeline.blind:
            self._halt(Code.TOO_BLIND, f"no newer plan within {self.robot.max_blind:g} s of its observation")
        else:
            self._halt(Code.NO_CHUNK, "the plan ran out")

    def _halt(self, code: Code, words: str) -> None:
        """The plan ends: come to rest."""
        self._held = Cause(code, words)
        self._waiting = None
        if self._playing is not None:
            self.counters[f"held_{code.name.lower()}"] += 1
            self._playing = None
            self._braked = False
            self.timeline.stop()

    # -------------------------------------------------------------------------------------------------------------- status

    def status(self, *, steady: float) -> Status:
        """Where everything stands, as of the last tick."""
        time, chunk, started = self.clock.time, self._playing, self.shaper.window is not None
        lease = self.supervisor.in_force(steady)
        cause = self._cause(steady)
        tracked = np.isfinite(self.robot.tracking_tolerance)
        idle = Mode.TAKEOVER if self._person else Mode.HOLD if chunk is None else Mode.RUNNING
        return Status(
            mode=self.supervisor.latch.mode or idle,
            code=cause.code,
            cause=cause.words,
            latched=self.supervisor.latch.cause is not None,
            at_rest=not started or self.shaper.at_rest(time),
            instruction_id=lease.id if lease is not None else "",
            source=chunk.source if chunk is not None else "",
            sequence=chunk.sequence if chunk is not None else 0,
            plan_left=max(0.0, self.timeline.until - time) if chunk is not None else 0.0,
            tracking_error=float(self.senses.apart(self.shaper)[tracked].max(initial=0.0)) if started else 0.0,
            counters={name: count for name, count in sorted(self.counters.items()) if count},
        )

    def _cause(self, steady: float) -> Cause:
        if self._playing is not None:
            return Cause(Code.OK, "following a person" if self._person else "following the policy")
        silent = Cause(Code.AWAITING_TAKEOVER, "a person has the robot and is silent")
        return self._obstacle(steady) or (silent if self._person else self._held)
