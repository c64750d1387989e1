"""A vision-language-action policy in charge of a mobile manipulator, in ROS 2.

The parts, and which may import which, are drawn in docs/ and in the README; only `nodes` imports rclpy.
"""

__version__ = "0.1.0"
