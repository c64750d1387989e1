"""What a robot is: its joints, cameras, controllers, limits and action layout, read from config/robots/*.yaml.

>>> robot = load_robot("pi_mobile")
>>> robot.action_names[:2]
('left_joint1', 'left_joint2')
"""

from pi_policy_node.robot.error import RobotError
from pi_policy_node.robot.kinematics import Kinematics
from pi_policy_node.robot.load import load_robot
from pi_policy_node.robot.model import Camera, Controller, Gripper, Group, Robot

__all__ = ["Camera", "Controller", "Gripper", "Group", "Kinematics", "Robot", "RobotError", "load_robot"]
