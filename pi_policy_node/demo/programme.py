"""What the demo's robot is told to do, and by which policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SCENE = "clear"  # the family of tasks whose scenes the programme is for


@dataclass(frozen=True)
class Step:
    """Words, and by how much the groups must have moved when the robot says that it is done."""

    words: str
    moves: Mapping[str, float] = field(default_factory=dict)  # group -> at least so much (rad, m, strokes)


@dataclass(frozen=True)
class Programme:
    """The steps, and what the stop at the end interrupts."""

    policy: str
    steps: Sequence[Step]
    stopped: str  # words of the motion that is stopped
    why: str = ""  # this policy and not the better one


MOTIONS = (
    Step("wave", {"left_arm": 0.2, "right_arm": 0.2, "left_gripper": 0.3, "right_gripper": 0.3, "lift": 0.03,
                  "base": 0.05}),
    Step("reach left", {"left_arm": 0.15}),
    Step("drive back", {"base": 0.2}),
    Step("raise the lift", {"lift": 0.05}),
)


def choose(seed: int, policy: str | None = None) -> Programme:
    """The tasks of mini or the motions of scripted; without a `policy`, mini where its weights are. `seed`: of the
    scene."""
    from pi_policy_node.policy.mini_weights import SHIPPED

    why = ""
    if policy is None and not SHIPPED.is_file():
        why = f"mini has no weights here ({SHIPPED}; ./pi train mini makes them): the scripted policy shows the rest"
    if policy == "scripted" or why:
        return Programme("scripted", MOTIONS, "wave", why)
    from pi_policy_node.sim.tasks import draw
    from pi_policy_node.sim.tasks.goals import IN, name_words

    goals = draw(SCENE, seed).goals
    singles = goals[: 1 if len(goals) < 4 else 2]  # something is left to be cleared away
    words = [f"put the {name_words(goal.thing)} {IN[goal.container.split('_')[1]]} the {name_words(goal.container)}"
             for goal in singles]
    return Programme("mini", (*map(Step, words), Step("clear the table")), "drive to the counter")
