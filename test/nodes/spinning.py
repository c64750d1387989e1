"""Nodes spun in a thread, and conditions waited for: what the tests of the nodes share."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable

from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from pi_policy_node.nodes.executor import LeanExecutor


class Spinning:
    """Spins nodes in the background; `probe` is a plain node to listen and talk with."""

    def __init__(self) -> None:
        self._executor = LeanExecutor()
        self.probe = Node("probe")
        self.heard = defaultdict(list)
        self._nodes = [self.probe]
        self._executor.add_node(self.probe)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def add(self, node: Node) -> Node:
        """Spins one more node."""
        self._nodes.append(node)
        self._executor.add_node(node)
        return node

    def up(self, node) -> None:
        """Configures and activates a lifecycle node of this process."""
        assert node.trigger_configure().name == "SUCCESS"
        assert node.trigger_activate().name == "SUCCESS"

    def listen(self, kind, topic: str, qos) -> list:
        """Everything heard on a topic from now on."""
        heard = self.heard[topic]
        self.probe.create_subscription(kind, topic, heard.append, qos)
        return heard

    def talk(self, kind, topic: str, qos):
        """A publisher that has somebody to talk to."""
        publisher = self.probe.create_publisher(kind, topic, qos)
        self.wait(lambda: publisher.get_subscription_count() > 0, what=f"a listener on {topic}")
        return publisher

    @staticmethod
    def wait(condition: Callable[[], object], limit: float = 10.0, what: str = "the condition") -> None:
        """Until the condition holds; fails the test after `limit` s."""
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, f"{what}: not within {limit} s"
            time.sleep(0.005)

    def close(self) -> None:
        """Ends the thread and the nodes."""
        self._executor.shutdown()
        self._thread.join(timeout=5)
        for node in self._nodes:
            node.destroy_node()
