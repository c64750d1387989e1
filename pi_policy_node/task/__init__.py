"""Commands, and what becomes of them: words, the task in hand, the lease. No ROS."""

from pi_policy_node.task.brain import Brain, Bridge, Lease, Outcome, Report, State
from pi_policy_node.task.words import MAX_LENGTH, Refused, check, is_cancel, is_stop, next_step

__all__ = ["MAX_LENGTH", "Brain", "Bridge", "Lease", "Outcome", "Refused", "Report", "State", "check", "is_cancel",
           "is_stop", "next_step"]
