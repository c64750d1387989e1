"""From an observation to a chunk of actions. No ROS here; torch is imported only by the modules that need it."""

from pi_policy_node.policy.base import (
    Cancelled,
    CheckpointError,
    DeadlineExceeded,
    InputError,
    Observation,
    Policy,
    PolicyError,
    Prefix,
    Result,
)

__all__ = [
    "Cancelled",
    "CheckpointError",
    "DeadlineExceeded",
    "InputError",
    "Observation",
    "Policy",
    "PolicyError",
    "Prefix",
    "Result",
]
