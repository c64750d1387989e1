"""From action chunks to what controllers may be given: numpy, no ROS, explicit times."""

from pi_policy_node.control.bridge import Bridge
from pi_policy_node.control.modes import Cause, Code, Mode
from pi_policy_node.control.report import Output, Status
from pi_policy_node.control.shaper import Shaper
from pi_policy_node.control.timeline import Chunk, Refused, Row, Rows, Timeline
from pi_policy_node.control.window import Window

__all__ = [
    "Bridge", "Cause", "Chunk", "Code", "Mode", "Output", "Refused", "Row", "Rows", "Shaper", "Status", "Timeline", "Window",
]
