"""Episodes of an evaluation through the launched ROS graph, for `./pi eval --ros`: the scenes and words of lockstep.

The graph is launched once; `reset_scene` puts each scene there, a command says the words, the simulator tells how its
world is, and the same judge decides.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from pi_msgs.msg import TaskStatus
from pi_msgs.srv import ResetScene
from pi_policy_node.cli import CommandError
from pi_policy_node.demo.judge import view
from pi_policy_node.demo.launch import Launch
from pi_policy_node.environment import share
from pi_policy_node.learn.evaluate import Played, Setting, Trial, trial_task
from pi_policy_node.learn.evaluate_play import Outcome
from pi_policy_node.learn.evaluate_watch import NOTHING, Watch
from pi_policy_node.nodes.client import NoRobot
from pi_policy_node.nodes.witness import Witness
from pi_policy_node.robot import Kinematics, load_robot
from pi_policy_node.sim.tasks import DONE, Task, View

READY_LIMIT = 120.0  # s
PATIENCE = 5.0  # times an episode's own limit, on a machine that is slower than real time
STATES = {getattr(TaskStatus, name.upper()): name for name in (
    "succeeded", "failed", "timed_out", "cancelled", "refused", "stopped")}


@contextmanager
def launched(setting: Setting, out: Path) -> Iterator[Graph]:
    """The graph with this policy, its log in a folder."""
    out.mkdir(parents=True, exist_ok=True)
    parameters = yaml.safe_load(share("config", "params.yaml").read_text(encoding="utf-8"))
    policy = parameters["/**/policy"]["ros__parameters"]
    policy |= {f"{setting.policy}.{name}": value for name, value in setting.options.items()}
    # Tasks have time limits of their own here, of simulated time.
    parameters["/**/commander"]["ros__parameters"]["time_limit_s"] = 3600.0
    file = out / "params.yaml"
    part = out / ".params.yaml"
    part.write_text(yaml.safe_dump(parameters), encoding="utf-8")
    os.replace(part, file)
    launch = Launch(out / "launch.log", ["hardware:=sim", f"policy:={setting.policy}",
                                         f"params_file:={file.resolve()}"])
    try:
        launch.wait_ready(READY_LIMIT)
        with Graph(setting.robot, launch) as graph:
            yield graph
    finally:
        launch.end()


class Graph(Witness):
    """A robot in the graph that plays episodes."""

    def __init__(self, robot: str, launch: Launch) -> None:
        super().__init__(load_robot(robot))
        self._launch, self._kinematics = launch, Kinematics(self.robot)
        self._reset_scene = self.node.create_client(ResetScene, "reset_scene")

    def play(self, trials: Sequence[Trial]) -> Iterator[Played]:
        """One after another; CommandError where the graph dies."""
        for trial in trials:
            condition = trial.condition
            task = trial_task(condition.family, trial.seed, condition.split)
            try:
                outcome = self._play(task, f"{condition.family}/{condition.split}")
            except NoRobot as error:
                self._launch.check()
                raise CommandError(f"the robot does not answer: {error}") from None
            del self.moments[:-1]  # nobody makes a film of them
            yield Played(Trial(replace(condition, mode="graph"), trial.seed), outcome)

    def _play(self, task: Task, scene: str) -> Outcome:
        begun = time.monotonic()
        self._set_scene(scene, task.seed)
        watch, start = Watch(task), self._now()
        chunks, refused = self.policy.chunks, self._refused()
        self.say(task.instruction)
        end, steps = None, []
        while end is None and self._now() - start < task.seconds:
            if time.monotonic() - begun > PATIENCE * task.seconds + 60:
                raise NoRobot(f"simulated time goes on too slowly: {self._now() - start:.1f} s in so long")
            watch.see(self._view())
            end = self._ended()
            if self.task.subtask and self.task.subtask not in (DONE, *steps[-1:]):
                steps.append(self.task.subtask)
        seconds = self._now() - start
        if end is None:
            self.say("cancel")
            self.wait_until(lambda: self.task.state != TaskStatus.RUNNING, 3.0)
        self.wait_until(lambda: self.bridge.at_rest, 3.0)
        world = self._view()
        watch.see(world)
        chunks = self.policy.chunks - chunks
        met = task.met(world)
        ended = STATES.get(end.state, "failed") if end is not None else "timed_out"
        cause = ""
        if not all(met):
            cause = watch.cause(world) if chunks else "no answer"
            if ended == "refused":
                cause = "refused"
            elif ended == "stopped" or self.bridge.latched:
                cause = "fault"
            elif ended == "succeeded" and cause in NOTHING:
                cause = "said done"
        return Outcome(
            seed=task.seed, instruction=task.instruction, success=all(met), met=sum(met) / len(met), ended=ended,
            reason=end.reason if end is not None else f"not done within {task.seconds:g} s", cause=cause,
            right_first=watch.right_first, lifted=tuple(watch.lifted), subtasks=tuple(steps), events=(),
            seconds=seconds, rows=round(seconds / self.robot.dt), limited=0, held=0,
            refused=self._refused() - refused, asked=chunks,
            thinking=self.policy.inference_p50 if chunks else math.nan, wall=time.monotonic() - begun)

    def _set_scene(self, scene: str, seed: int) -> None:
        """The scene stands, the robot is at home, and nothing holds it."""
        self._connect(self._reset_scene.service_is_ready, "reset_scene", 10.0)
        answer = self._reset_scene.call_async(ResetScene.Request(scene=scene, seed=seed))
        if not self.wait_until(answer.done, 10.0) or not answer.result().success:
            raise NoRobot(answer.result().message if answer.done() else "the simulator does not reset its scene")
        self.status()
        # The bridge finds the robot elsewhere than it left it, and latches: a fault everywhere but here.
        for _ in range(10):
            self.wait_until(lambda: self.bridge.latched, 0.5)
            if not self.bridge.latched:
                return
            try:
                self.resume()
            except NoRobot:  # what was wrong still is
                continue
        raise NoRobot(f"the bridge stays latched: {self.bridge.cause}")

    def _refused(self) -> int:
        """Chunks that the bridge would not have, so far."""
        return sum(count for name, count in zip(self.bridge.counters, self.bridge.counts) if name.startswith("refused"))

    def _ended(self) -> TaskStatus | None:
        try:
            return self.wait(limit=0.2)
        except NoRobot:
            return None

    def _view(self) -> View:
        return view(self.robot, self._kinematics, *self.world())

    def _now(self) -> float:
        """Simulated time, s: of the joint states last seen."""
        self.wait_until(lambda: bool(self.moments), 10.0)
        if not self.moments:
            raise NoRobot("no joint states")
        return self.moments[-1].time
