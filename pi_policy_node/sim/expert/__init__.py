"""The scripted expert of the simulated pi_mobile: closed loop, both arms, base, from the world's true state."""

from pi_policy_node.sim.expert.expert import Act, Expert

__all__ = ["Act", "Expert"]
