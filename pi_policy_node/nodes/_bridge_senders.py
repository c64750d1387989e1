"""From windows and actions to the messages of each kind of controller. What is sent has been checked in control/."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from pi_policy_node.control import Output
from pi_policy_node.nodes.common import RELIABLE1, NodeError, to_duration, to_stamp
from pi_policy_node.robot import Group, Robot

LINGER = 0.5  # s for which streams go on after coming to rest
GOAL_PERIOD = 0.1  # s between goals to a gripper's action
GOAL_STEP = 0.02  # of the stroke


def make_senders(node: Node, robot: Robot, failed: Callable[[str], None]) -> list[Sender]:
    """One per group. `failed` is called with a sentence when a controller says that it cannot do what it was told."""
    kinds = {"joint_trajectory": TrajectorySender, "position": PositionSender, "twist": TwistSender}
    senders = [
        GripperSender(node, group, failed) if group.controller.kind == "gripper_action"
        else kinds[group.controller.kind](node, robot, group)
        for group in robot.groups
    ]
    return senders


class Sender:
    """Sends one group's part of an output."""

    topic: str

    def send(self, output: Output, *, now: int, steady: float) -> None:
        """`now` in ns: the time at which the output is due."""
        raise NotImplementedError

    def heard(self) -> bool:
        """Whether somebody listens."""
        raise NotImplementedError

    def close(self) -> None:
        """Gives back what the middleware lent."""
        raise NotImplementedError


class _TopicSender(Sender):
    def __init__(self, node: Node, kind: type, robot: Robot, group: Group) -> None:
        self.group = group
        self.topic = group.controller.topic
        self.frame = robot.base_frame
        self.publisher = node.create_publisher(kind, self.topic, RELIABLE1)

    def heard(self) -> bool:
        return self.publisher.get_subscription_count() > 0

    def close(self) -> None:
        self.publisher.destroy()

    def _joint_units(self, states: np.ndarray) -> np.ndarray:
        """[..., 3, joints] of positions, velocities, accelerations in action units -> in the joints' units."""
        gripper = self.group.gripper
        if gripper is None:
            return states
        return states * (gripper.open - gripper.closed) + np.array([[gripper.closed], [0.0], [0.0]])


class TrajectorySender(_TopicSender):
    """A window for a joint_trajectory_controller: once for each new one."""

    def __init__(self, node: Node, robot: Robot, group: Group) -> None:
        super().__init__(node, JointTrajectory, robot, group)
        self._message = JointTrajectory(joint_names=list(group.joints))
        self._points: list[JointTrajectoryPoint] = []  # used again: to make some takes longer than to fill and send them
        self._absolute = group.controller.stamp == "absolute"

    def send(self, output: Output, *, now: int, steady: float) -> None:
        if output.window is None:
            return
        times, states = output.window.points
        states = self._joint_units(states[:, :, self.group.columns])
        while len(self._points) < len(times):
            self._points.append(JointTrajectoryPoint())
        for point, time, (p, v, a) in zip(self._points, times, states):
            point.positions, point.velocities, point.accelerations = _doubles(p), _doubles(v), _doubles(a)
            point.time_from_start = to_duration(round(time * 1e9))
        self._message.points = self._points[: len(times)]
        if self._absolute:
            self._message.header.stamp = to_stamp(now)
        self.publisher.publish(self._message)


class _Stream(_TopicSender):
    """Sends at every tick while anything moves, and a little longer."""

    _until = -np.inf

    def _due(self, output: Output, steady: float) -> bool:
        if not output.at_rest:
            self._until = steady + LINGER
        return output.action is not None and steady <= self._until


class PositionSender(_Stream):
    """A forward_command_controller: it does what it is told for ever, so the window is played to it to its end."""

    def __init__(self, node: Node, robot: Robot, group: Group) -> None:
        super().__init__(node, Float64MultiArray, robot, group)

    def send(self, output: Output, *, now: int, steady: float) -> None:
        if self._due(output, steady):
            values = self._joint_units(np.stack([output.action[self.group.columns]] * 3))[0]
            self.publisher.publish(Float64MultiArray(data=_doubles(values)))


class TwistSender(_Stream):
    """A mobile base, which stops by itself when its twists end."""

    def __init__(self, node: Node, robot: Robot, group: Group) -> None:
        super().__init__(node, TwistStamped, robot, group)

    def send(self, output: Output, *, now: int, steady: float) -> None:
        if self._due(output, steady):
            vx, vy, wz = output.action[self.group.columns].tolist()
            message = TwistStamped()
            message.header.stamp = to_stamp(now)
            message.header.frame_id = self.frame
            message.twist.linear.x, message.twist.linear.y, message.twist.angular.z = vx, vy, wz
            self.publisher.publish(message)


class GripperSender(Sender):
    """A gripper's action: a goal whenever the command has moved on. A stalled goal is a grasp, not a failure.

    Controllers and drivers offer one of two actions, GripperCommand or ParallelGripperCommand (those of ros2_control,
    since Kilted, the latter alone): the client is made for the one that the server turns out to have.
    """

    def __init__(self, node: Node, group: Group, failed: Callable[[str], None]) -> None:
        try:
            from control_msgs.action import GripperCommand, ParallelGripperCommand
        except ImportError:
            raise NodeError(f"{group.controller.name} is commanded by an action of control_msgs, which is not "
                            "installed: apt install ros-$ROS_DISTRO-control-msgs") from None
        self.topic = group.controller.topic
        kinds = (GripperCommand, ParallelGripperCommand)
        self._types = {f"control_msgs/action/{kind.__name__}": kind for kind in kinds}
        self._node, self._group, self._failed = node, group, failed
        self._client = None
        self._sent: float | None = None  # action of the last goal
        self._sent_at = -np.inf  # s, steady
        self._number = 0

    def heard(self) -> bool:
        if self._client is None:
            self._find_server()
        return self._client is not None and self._client.server_is_ready()

    def close(self) -> None:
        if self._client is not None:
            self._client.destroy()

    def _find_server(self) -> None:
        from rclpy.action import ActionClient, get_action_names_and_types

        here = self._node.resolve_topic_name(self.topic)
        for name, kinds in get_action_names_and_types(self._node):
            known = [self._types[kind] for kind in kinds if kind in self._types]
            if name == here and known:
                self._client = ActionClient(self._node, known[0], self.topic)
                self._goal_type = known[0].Goal

    def _goal(self, position: float):
        goal = self._goal_type()
        if hasattr(goal.command, "name"):  # ParallelGripperCommand's command is a JointState
            goal.command.name, goal.command.position = [self._group.joints[0]], [position]
        else:
            goal.command.position = position
        return goal

    def send(self, output: Output, *, now: int, steady: float) -> None:
        if self._client is None or output.action is None or (self._sent is None and output.at_rest):
            return
        action = float(output.action[self._group.columns.start])
        step = abs(action - self._sent) if self._sent is not None else np.inf
        if step < (1e-3 if output.at_rest else GOAL_STEP) or steady - self._sent_at < GOAL_PERIOD:
            return
        self._sent, self._sent_at = action, steady
        self._number += 1
        answer = self._client.send_goal_async(self._goal(self._group.gripper.position(action)))
        answer.add_done_callback(lambda future, number=self._number: self._answered(future, number))

    def _answered(self, future, number: int) -> None:
        handle = future.result()
        if handle is None or not handle.accepted:
            self._fail(number, "refused a goal")
            return
        handle.get_result_async().add_done_callback(lambda done: self._ended(done, number))

    def _ended(self, future, number: int) -> None:
        from action_msgs.msg import GoalStatus

        outcome = future.result()
        if outcome is not None and outcome.status == GoalStatus.STATUS_ABORTED:
            if not (outcome.result.stalled or outcome.result.reached_goal):
                self._fail(number, "gave up a goal")

    def _fail(self, number: int, words: str) -> None:
        if number == self._number:  # an older goal was replaced by us
            self._failed(f"{self._group.controller.name} {words}")


def _doubles(values: np.ndarray) -> array:
    """A float64 sequence for a message: rclpy copies this at once, and checks other types number by number."""
    return array("d", np.ascontiguousarray(values, dtype=float).tobytes())
