"""Grippers behind an action: whichever of the two actions the server has. Where control_msgs is installed."""

from __future__ import annotations

import time

import numpy as np
import pytest

actions = pytest.importorskip("control_msgs.action", reason="control_msgs comes with a ROS install, not with the wheels")


@pytest.mark.parametrize("kind", ["GripperCommand", "ParallelGripperCommand"])
def test_goals_reach_either_kind_of_server(domain, kind, action_gripper):
    import rclpy
    from rclpy.action import ActionServer
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node

    from pi_policy_node.control import Output
    from pi_policy_node.nodes._bridge_senders import GripperSender
    from pi_policy_node.robot import load_robot

    # Two contexts: in one process, but two participants of the graph.
    contexts = [rclpy.Context(), rclpy.Context()]
    for context in contexts:
        context.init(args=[], domain_id=domain)
    controller, bridge = (Node(n, namespace="robot", context=c) for n, c in zip(("controller", "bridge"), contexts))
    executors = [SingleThreadedExecutor(context=context) for context in contexts]
    for executor, node in zip(executors, (controller, bridge)):
        executor.add_node(node)
    robot = load_robot(action_gripper)
    group = robot.group("gripper")
    failures, goals = [], []

    def until(condition):
        limit = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < limit
            for executor in executors:
                executor.spin_once(timeout_sec=0.01)

    def execute(handle):
        position = handle.request.command.position
        goals.append(position if kind == "GripperCommand" else position[0])
        result = getattr(actions, kind).Result(stalled=len(goals) == 2, reached_goal=False)
        handle.abort()  # the second one stalls on a block, the others give up
        return result

    sender = GripperSender(bridge, group, failures.append)
    try:
        assert not sender.heard()
        action = np.zeros(7)
        sender.send(Output(None, action, False), now=0, steady=0.0)  # nobody is there: nothing happens
        server = ActionServer(controller, getattr(actions, kind), group.controller.topic, execute)
        until(sender.heard)
        for step, (opening, gave_up) in enumerate([(1.0, 1), (0.25, 1), (0.5, 2)], start=1):
            action[6] = opening
            sender.send(Output(None, action.copy(), False), now=0, steady=float(step))
            until(lambda: len(goals) == step and len(failures) == gave_up)
        assert goals == pytest.approx([0.04, 0.01, 0.02])
        assert failures == ["gripper_controller gave up a goal"] * 2
        server.destroy()
    finally:
        sender.close()
        for node, context in zip((controller, bridge), contexts):
            node.destroy_node()
            context.shutdown()
