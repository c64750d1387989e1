"""Films of episodes that failed: the world from outside, what the policy saw, its words, and why it failed."""

from __future__ import annotations

from pathlib import Path

from pi_policy_node.learn.evaluate import Trial
from pi_policy_node.learn.evaluate_play import WATCHED, Outcome, Player
from pi_policy_node.sim.film import Film, Moment


def film(player: Player, trial: Trial, outcome: Outcome, folder: Path) -> Path:
    """The last episode of a player, as <family>_<split>_<seed>_<mode>_<delay>.mp4."""
    condition = trial.condition
    name = f"{condition.family}_{condition.split}_{trial.seed}_{condition.mode}_{1000 * condition.delay:.0f}ms"
    folder.mkdir(parents=True, exist_ok=True)
    why = f"failed: {outcome.cause} ({outcome.ended}: {outcome.reason})"
    moments = [Moment(k * WATCHED * player.robot.dt, {}, (0.0, 0.0, 0.0), frame.images,
                      (*frame.words[:2], f"{frame.words[2]}  {why}"), qpos=frame.qpos)
               for k, frame in enumerate(player.frames)]
    reel = Film(player.robot, simulator=player.sim)
    try:
        reel.write(moments, folder / f"{name}.mp4", fps=1 / (WATCHED * player.robot.dt))
    finally:
        reel.close()
    return folder / f"{name}.mp4"
