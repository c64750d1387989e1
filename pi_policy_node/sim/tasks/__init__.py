"""What the simulated robot is asked to do: families of tasks, their words, and when they are done."""

from pi_policy_node.sim.tasks import families, long  # noqa: F401  (they register themselves)
from pi_policy_node.sim.tasks.goals import DONE, Goal, Subtask
from pi_policy_node.sim.tasks.language import vocabulary
from pi_policy_node.sim.tasks.registry import FAMILIES, KEPT_SEEDS, SPLITS, Family, Task, TaskError, draw
from pi_policy_node.sim.tasks.view import View, look

__all__ = ["DONE", "FAMILIES", "KEPT_SEEDS", "SPLITS", "Family", "Goal", "Subtask", "Task", "TaskError", "View", "draw",
           "look", "vocabulary"]
