"""The command topics of the simulated controllers, and what the controllers say of themselves."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory

from pi_policy_node.nodes.common import RELIABLE10, from_seconds, to_seconds
from pi_policy_node.robot import Group
from pi_policy_node.sim.controllers import Point, Refused

if TYPE_CHECKING:
    from pi_policy_node.nodes.sim import Sim


def controller_topics(node: Sim) -> list[ControllerTopic]:
    """One for each controller of the robot file."""
    kinds = {"joint_trajectory": TrajectoryTopic, "position": PositionTopic, "twist": TwistTopic,
             "gripper_action": GripperAction}
    return [kinds[group.controller.kind](node, group) for group in node.robot.groups]


class ControllerTopic:
    """Takes commands from ROS to one emulated controller; publishes its reference to whoever looks.

    `<controller>/reference` (JointState): position, velocity and, in `effort`, acceleration that the controller asks
    of its joints now; for a base, the velocities of vx, vy, wz. Sent at every tick while somebody listens.
    """

    def __init__(self, node: Sim, group: Group):
        self.node = node
        self.group = group
        self.controller = node.simulator.controllers[group.controller.name]
        self._reference = node.create_publisher(JointState, f"{group.controller.name}/reference", RELIABLE10)
        self._names = list(self.controller.joints)

    def now(self) -> float:
        return self.node.simulator.time

    def take(self, command, *args, **options) -> None:
        """Gives a command to the controller, and says why where it is refused."""
        with self.node.lock:
            try:
                command(*args, **options)
                return
            except Refused as error:
                reason = str(error)
        self.node.get_logger().error(reason, throttle_duration_sec=1.0)

    def after_step(self, now: float) -> None:
        """Called at every tick, with the simulator's lock held."""
        if self._reference.get_subscription_count():
            position, velocity, acceleration = self.controller.reference
            self._reference.publish(JointState(
                header=_header(now), name=self._names, position=doubles(position), velocity=doubles(velocity),
                effort=doubles(acceleration)))


class TrajectoryTopic(ControllerTopic):
    def __init__(self, node: Sim, group: Group):
        super().__init__(node, group)
        node.create_subscription(JointTrajectory, group.controller.topic, self._receive, RELIABLE10)

    def _receive(self, message: JointTrajectory) -> None:
        points = [Point(to_seconds(p.time_from_start), p.positions, p.velocities, p.accelerations, p.effort)
                  for p in message.points]
        self.take(self.controller.command, message.joint_names, points, stamp=to_seconds(message.header.stamp),
                  now=self.now())


class PositionTopic(ControllerTopic):
    def __init__(self, node: Sim, group: Group):
        super().__init__(node, group)
        node.create_subscription(Float64MultiArray, group.controller.topic,
                                 lambda message: self.take(self.controller.command, message.data), RELIABLE10)


class TwistTopic(ControllerTopic):
    def __init__(self, node: Sim, group: Group):
        super().__init__(node, group)
        node.create_subscription(TwistStamped, group.controller.topic, self._receive, RELIABLE10)

    def _receive(self, message: TwistStamped) -> None:
        twist = message.twist.linear.x, message.twist.linear.y, message.twist.angular.z
        self.take(self.controller.command, twist, stamp=to_seconds(message.header.stamp), now=self.now())


class GripperAction(ControllerTopic):
    """A control_msgs/action/GripperCommand server, where control_msgs is installed."""

    def __init__(self, node: Sim, group: Group):
        super().__init__(node, group)
        self._ended: Future | None = None  # of the goal in hand
        try:
            from control_msgs.action import GripperCommand
        except ImportError:
            node.get_logger().warning(f"no control_msgs: nobody can command {group.controller.name}; "
                                      "apt install ros-$ROS_DISTRO-control-msgs")
            return
        from rclpy.action import ActionServer

        self._type = GripperCommand
        self._server = ActionServer(node, GripperCommand, group.controller.topic, self._execute,
                                    cancel_callback=self._cancel)

    async def _execute(self, handle):
        with self.node.lock:
            preempted, self._ended = self._ended, Future(executor=self.node.executor)
            self.controller.goal(handle.request.command.position, now=self.now())
        if preempted is not None and not preempted.done():
            preempted.set_result(None)
        outcome = await self._ended
        if outcome is None:
            handle.canceled() if handle.is_cancel_requested else handle.abort()
            return self._type.Result()
        handle.succeed() if outcome.reached_goal else handle.abort()
        return self._type.Result(position=outcome.position, stalled=outcome.stalled, reached_goal=outcome.reached_goal)

    def _cancel(self, handle):
        from rclpy.action import CancelResponse

        with self.node.lock:
            self.controller.goal(self._measured()[0], now=self.now())
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        return CancelResponse.ACCEPT

    def _measured(self) -> tuple[float, float]:
        joint = self.node.simulator.model.joints.index(self.group.joints[0])
        position, velocity = self.node.simulator.physics.joints()
        return float(position[joint]), float(velocity[joint])

    def after_step(self, now: float) -> None:
        super().after_step(now)
        outcome = self.controller.check(*self._measured(), now=now)
        if outcome is not None and self._ended is not None and not self._ended.done():
            self._ended.set_result(outcome)


def doubles(values: np.ndarray) -> array:
    """A float64 sequence for a message field, copied at once instead of number by number."""
    return array("d", np.ascontiguousarray(values, float).tobytes())


def _header(now: float) -> Header:
    return Header(stamp=from_seconds(now))
