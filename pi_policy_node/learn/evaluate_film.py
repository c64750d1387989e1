"""Films of episodes that failed: the world from outside, what the policy saw, its words, and why it failed."""

from __future__ import annotations

from pathlib import Path

from pi_policy_node.learn.evaluate import Trial
from pi_policy_node.learn.evaluate_play import WATCHED, Finished
from pi_policy_node.robot import Robot
from pi_policy_node.sim.film import Film, Moment


def film(robot: Robot, finished: Finished, trial: Trial, folder: Path) -> Path:
    """An episode that has just ended, as <family>_<split>_<seed>_<mode>_<delay>.mp4."""
    condition, outcome = trial.condition, finished.outcome
    name = f"{condition.family}_{condition.split}_{trial.seed}_{condition.mode}_{1000 * condition.delay:.0f}ms"
    folder.mkdir(parents=True, exist_ok=True)
    why = f"failed: {outcome.cause} ({outcome.ended}: {outcome.reason})"
    moments = [Moment(k * WATCHED * robot.dt, {}, (0.0, 0.0, 0.0), frame.images,
                      (*frame.words[:2], f"{frame.words[2]}  {why}"), qpos=frame.qpos)
               for k, frame in enumerate(finished.frames)]
    reel = Film(robot, simulator=finished.sim)
    try:
        reel.write(moments, folder / f"{name}.mp4", fps=1 / (WATCHED * robot.dt))
    finally:
        reel.close()
    return folder / f"{name}.mp4"
