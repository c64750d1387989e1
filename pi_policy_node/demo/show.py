"""Says the programme's words to the robot, shows what becomes of them, and lets the simulator judge."""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
from dataclasses import dataclass, field

from pi_msgs.msg import BridgeStatus, TaskStatus
from pi_policy_node.cli.say import STATES, Live
from pi_policy_node.demo.judge import goals_of, view
from pi_policy_node.demo.launch import Launch
from pi_policy_node.demo.programme import Programme, Step
from pi_policy_node.nodes.client import NoRobot
from pi_policy_node.nodes.witness import Witness
from pi_policy_node.robot import Kinematics, Robot
from pi_policy_node.sim.tasks.goals import name_words

MOVED = 0.03  # rad, m or strokes, of any group: what counts as having moved at all
LONGEST = 240.0  # s, of one task
HINT = 'type what the robot is to do; "next: ..." says its next step, "stop" stops it, "resume" ends that; "quit"'


@dataclass
class Show:
    """One performance, and what is remembered of it."""

    witness: Witness
    launch: Launch
    robot: Robot
    key_moments: list[int] = field(default_factory=list)  # for the picture
    results: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._kinematics = Kinematics(self.robot)

    def programme(self, programme: Programme) -> None:
        """Every step, and a stop in motion at the end."""
        for step in programme.steps:
            self.attempt(step)
        self.results.append(self._guarded(lambda: self.stop_and_resume(programme.stopped)))

    def attempt(self, step: Step) -> None:
        """One step; once more where the machine was too slow for the robot."""
        done = self._guarded(lambda: self.carry_out(step))
        if not done and self.witness.bridge is not None and self.witness.bridge.latched:
            print(f"  resumed after: {self.witness.bridge.cause}; once more", flush=True)
            done = self._guarded(lambda: self.resume() or self.carry_out(step))
        self.results.append(done)

    def interactive(self) -> None:
        """What is typed is said at once, until "quit"; what comes through a pipe, one after another."""
        things, *_ = self.witness.world()
        print(f"in front of the robot: {', '.join(map(name_words, things))}", flush=True)
        if not sys.stdin.isatty():
            for line in map(str.strip, sys.stdin):
                if line == "resume":
                    self._guarded(self.resume)
                elif line:
                    self._guarded(lambda line=line: self.carry_out(Step(line)))
            return
        print(HINT, flush=True)
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
        shown: tuple = ()
        while True:
            self.witness.spin(0.1)
            self.launch.check()
            task = self.witness.task
            running = task is None or task.state == TaskStatus.RUNNING
            now = () if task is None else (task.id, task.state, task.subtask, "" if running else task.reason)
            if now != shown:
                shown = now
                words = (task.subtask or task.text) if running else task.reason
                print(f"  {STATES[task.state]}: {words}", flush=True)
                if task.state == TaskStatus.SUCCEEDED:
                    self._judge(task.text)
            try:
                line = lines.get_nowait()
            except queue.Empty:
                continue
            if line in (None, "quit", "exit"):
                return
            if line == "resume":
                self._guarded(self.resume)
            elif line:
                self.witness.say(line)

    # ------------------------------------------------------------------------------------------------------ one step

    def carry_out(self, step: Step) -> bool:
        """From the words to a verdict: the simulator's where it knows what they want, else by the measured motion."""
        print(f'\n"{step.words}"', flush=True)
        witness = self.witness
        since = len(witness.moments)
        witness.caption = ""
        witness.say(step.words)
        live = Live(sys.stdout)
        try:
            end = witness.wait(limit=LONGEST, feedback=live.show)
        finally:
            live.end()
        witness.wait_until(lambda: witness.bridge.at_rest, 3.0)
        policy = witness.policy
        print(f"  {STATES[end.state]} after {end.elapsed:.1f} s; a thought takes {1e3 * policy.inference_p50:.0f} ms "
              f"(p99 {1e3 * policy.inference_p99:.0f}); real-time factor {self.real_time():.2f}", flush=True)
        if end.state != TaskStatus.SUCCEEDED:
            print(f"  {end.reason}", flush=True)
        good = end.state == TaskStatus.SUCCEEDED
        judged = self._judge(step.words)
        good = good and (self._moved(step, since) if judged is None else judged)
        self.key_moments += [(since + len(witness.moments)) // 2, len(witness.moments) - 1]
        return good

    def _judge(self, words: str) -> bool | None:
        """What the simulator says of its world; None where it does not know what the words want."""
        things, drawer, joints, base = self.witness.world()
        goals = goals_of(words, tuple(things))
        if not goals:
            return None
        world = view(self.robot, self._kinematics, things, drawer, joints, base)
        met = [goal.met(world) for goal in goals]
        self.witness.caption = f"the simulator says: {'done' if all(met) else 'NOT done'} ({sum(met)} of {len(met)})"
        print(f"  {self.witness.caption}", flush=True)
        self.witness.wait_until(lambda: False, 0.5)  # a few frames of the film with the verdict
        return all(met)

    def _moved(self, step: Step, since: int) -> bool:
        travel = self.witness.travel(since)
        moved = ", ".join(f"{name.replace('_', ' ')} {way:.2f} {self._unit(name)}"
                          for name, way in travel.items() if way >= MOVED)
        short = [f"{name} went {travel[name]:.2f}, not {way:g}"
                 for name, way in step.moves.items() if travel[name] < way]
        print(f"  moved: {moved or 'nothing'}" + (f"; but {'; '.join(short)}" if short else ""), flush=True)
        return bool(moved) and not short

    def _mode(self) -> int:
        return self.witness.bridge.mode

    def _unit(self, group: str) -> str:
        return {"arm": "rad", "gripper": "strokes", "lift": "m", "base": "m or rad"}[self.robot.group(group).kind]

    # -------------------------------------------------------------------------------------------------- stop, resume

    def resume(self) -> None:
        """Ends a latched hold, as soon as its cause is gone; NoRobot where it stays for 5 s."""
        witness = self.witness
        for trial in range(10):
            try:
                witness.resume()
                break
            except NoRobot:
                if trial == 9:
                    raise
                witness.wait_until(lambda: False, 0.5)
        witness.wait_until(lambda: not witness.bridge.latched, 2.0)

    def stop_and_resume(self, words: str) -> bool:
        """Says stop in full motion, measures the way to rest, and resumes: nothing may move by itself."""
        witness = self.witness
        print(f'\n"{words}", then "stop"', flush=True)
        witness.close_look = True
        begin = len(witness.moments)
        try:
            witness.say(words)
            if not witness.wait_until(lambda: self._mode() == BridgeStatus.RUNNING and not witness.bridge.at_rest, 10):
                print("  it did not begin", flush=True)
                return False
            witness.wait_until(lambda: max(witness.travel(begin).values()) > MOVED, 10)
            said = time.monotonic()
            witness.say("stop")
            stopped = witness.wait_until(lambda: self._mode() == BridgeStatus.STOPPED and witness.bridge.at_rest, 3)
            took = time.monotonic() - said
        finally:
            witness.close_look = False
        print(f"  at rest {1e3 * took:.0f} ms after the word" if stopped else "  it did not stop", flush=True)
        self.key_moments.append(len(witness.moments) - 1)
        witness.wait_until(lambda: False, 0.5)
        self.resume()
        since = len(witness.moments)
        witness.wait_until(lambda: False, 1.0)
        still = max(witness.travel(since).values()) < MOVED
        print("  resumed: nothing moved by itself" if still else "  resumed: it MOVED by itself", flush=True)
        return stopped and still

    # ------------------------------------------------------------------------------------------------------- figures

    def real_time(self) -> float:
        """Simulated seconds per second, since the start."""
        return self.witness.value("sim: physics", "real_time_factor_total")

    def facts(self) -> str:
        """A line of figures."""
        policy = self.witness.policy
        if policy is None or math.isnan(policy.inference_p50):
            return "the policy has not answered"
        return (f"{policy.chunks} chunks by '{policy.backend}', a thought takes {1e3 * policy.inference_p50:.0f} ms "
                f"(p99 {1e3 * policy.inference_p99:.0f}); real-time factor {self.real_time():.2f}")

    def _guarded(self, action) -> bool:
        try:
            return bool(action())
        except NoRobot as error:
            self.launch.check()
            print(f"  {error}", file=sys.stderr, flush=True)
            return False


def _read_lines(lines: queue.Queue[str | None]) -> None:
    for line in sys.stdin:
        lines.put(line.strip())
    lines.put(None)
