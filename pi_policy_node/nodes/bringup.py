"""bringup: configures and activates the robot's lifecycle nodes in order, and says when the robot is ready, or why not.

Ready means that a command given now is obeyed: every node is active, the clock runs, the hardware bridge has heard the
robot and is heard by its controllers, and observations flow. Afterwards it stays: a node that died and was started again is brought up once more (what it may then do is decided
elsewhere: the hardware bridge plays nothing that was asked for before).
"""

from __future__ import annotations

import threading
import time
from typing import NoReturn

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future

from pi_msgs.msg import BridgeStatus
from pi_policy_node.nodes import common
from pi_policy_node.nodes.common import ERROR, LATCHED, RELIABLE10, NodeError, describe, parameter, robot_parameter

NODES = ["camera_ingest", "hardware_bridge", "policy", "commander"]
ASK_AGAIN = 0.5  # s; between looks at a node's state: an answer can get lost while discovery is under way
REASON_LIMIT = 1.0  # s; for the diagnostics that explain a refusal to arrive

# What a robot that comes up may lack for a moment. A stop button that was not heard yet is waited for by a person.
NOT_YET = (BridgeStatus.STARTING, BridgeStatus.NO_SUBSCRIBER)

CONFIGURE = (Transition.TRANSITION_CONFIGURE, "configure", State.PRIMARY_STATE_INACTIVE)
ACTIVATE = (Transition.TRANSITION_ACTIVATE, "activate", State.PRIMARY_STATE_ACTIVE)


class Bringup(Node):
    """Works in a thread of its own, so that the executor is free to receive the answers."""

    def __init__(self) -> None:
        super().__init__("bringup")
        self.robot = robot_parameter(self)
        self.names = parameter(self, "nodes", NODES, "lifecycle nodes, in the order in which they come up")
        self.limit = parameter(self, "timeout_s", 60.0, "limit for a node to appear, and for each of its transitions "
                               "[s]; a large policy takes long to load", minimum=0.1, maximum=3600.0)
        self.stay = parameter(self, "keep_up", True, "bring a node up again that died and was started again")
        if not self.names or not all(self.names):
            raise NodeError("parameter 'nodes' is empty: it must name the lifecycle nodes to bring up")
        self._reasons: dict[str, str] = {}  # node -> why it refused its latest transition
        self._eyes = "camera_ingest says nothing"  # why observations don't flow, or nothing
        self._bridge: BridgeStatus | None = None
        self._done = threading.Event()
        self._change = {name: self.create_client(ChangeState, f"{name}/change_state") for name in self.names}
        self._state = {name: self.create_client(GetState, f"{name}/get_state") for name in self.names}
        self.create_subscription(DiagnosticArray, "diagnostics", self._on_diagnostics, RELIABLE10)
        self.create_subscription(BridgeStatus, "bridge/status", self._on_bridge, LATCHED)
        self._thread = threading.Thread(target=self._run, name="bringup", daemon=True)
        self._thread.start()

    def destroy_node(self) -> None:
        """Ends the thread first: it uses the clients."""
        self._done.set()
        self._thread.join(timeout=2.0)
        super().destroy_node()

    # ------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        begin = time.monotonic()
        try:
            for step in (CONFIGURE, ACTIVATE):  # nothing may move before everything is configured
                for name in self.names:
                    self._bring(name, step)
            self._wait_life()
            self.get_logger().info(f"robot ready: {self.robot.name} ({time.monotonic() - begin:.1f} s)")
            # Nothing here needs the time any more, and reading /clock alone would take a tenth of a core.
            self.set_parameters([Parameter("use_sim_time", value=False)])
            while self.stay and not self._done.wait(ASK_AGAIN):
                self._keep_up()
        except Exception as error:
            if not self._done.is_set():
                self.get_logger().fatal(f"robot not ready: {describe(error)}")
                common.finish(self, 1)

    def _bring(self, name: str, step: tuple[int, str, int]) -> None:
        transition, verb, goal = step
        end = time.monotonic() + self.limit
        state = self._wait_state(name, end)
        if state >= goal:  # inactive < active; somebody else did it
            return
        self._reasons.pop(name, None)
        request = ChangeState.Request(transition=Transition(id=transition))
        answer = self._change[name].call_async(request)
        end = time.monotonic() + self.limit
        while not self._wait(answer, ASK_AGAIN):
            if self._ask_state(name, ASK_AGAIN) == goal:
                return  # it is done, and its answer was lost
            if time.monotonic() > end:
                raise NodeError(f"node '{name}' did not {verb} within {self.limit:g} s")
        if not answer.result().success:
            common.wait_for(lambda: name in self._reasons or self._done.is_set(), REASON_LIMIT)
            reason = self._reasons.get(name, "it did not say why; see its own log")
            raise NodeError(f"node '{name}' did not {verb}: {reason.removeprefix(f'cannot {verb}: ')}")

    def _wait_life(self) -> None:
        """Until nothing is missing that a command needs."""
        end = time.monotonic() + self.limit
        while not self._done.wait(0.02):
            missing = self._missing()
            if not missing:
                return
            if time.monotonic() > end:
                raise NodeError(f"every node is active, but after {self.limit:g} s {missing}")
        raise NodeError("stopped while coming up")

    def _missing(self) -> str:
        if self.get_clock().now().nanoseconds == 0:
            return "there is no /clock: with use_sim_time, somebody must publish it"
        if "hardware_bridge" in self.names:
            if self._bridge is None:
                return "hardware_bridge says nothing"
            if not self._bridge.latched and self._bridge.code in NOT_YET:
                return f"hardware_bridge says: {self._bridge.cause}"
        return self._eyes if "camera_ingest" in self.names else ""

    def _wait_state(self, name: str, end: float) -> int:
        """The primary state of a node that may still be starting."""
        while not self._done.is_set():
            state = self._ask_state(name, ASK_AGAIN) if self._state[name].service_is_ready() else None
            if state == State.PRIMARY_STATE_FINALIZED:
                raise NodeError(f"node '{name}' has shut down; start it again")
            if state is not None:
                return state
            if time.monotonic() > end:
                raise NodeError(f"node '{name}' did not answer within {self.limit:g} s: is it started, in the "
                                f"namespace '{self.get_namespace()}' and on this ROS_DOMAIN_ID?")
            self._done.wait(0.02)
        raise NodeError("stopped while coming up")

    def _ask_state(self, name: str, limit: float) -> int | None:
        answer = self._state[name].call_async(GetState.Request())
        if not self._wait(answer, limit):
            self._state[name].remove_pending_request(answer)
            return None
        state = answer.result().current_state.id
        return state if state in (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE,
                                  State.PRIMARY_STATE_ACTIVE, State.PRIMARY_STATE_FINALIZED) else None

    def _wait(self, answer: Future, limit: float) -> bool:
        arrived = threading.Event()
        answer.add_done_callback(lambda _: arrived.set())
        end = time.monotonic() + limit
        while not arrived.wait(0.1):
            if self._done.is_set():
                raise NodeError("stopped while coming up")
            if time.monotonic() > end:
                return False
        return True

    def _keep_up(self) -> None:
        for name in self.names:
            # Unconfigured means a new process: who was brought up before and is worked on by a person is inactive.
            if self._ask_state(name, ASK_AGAIN) != State.PRIMARY_STATE_UNCONFIGURED:
                continue
            try:
                for step in (CONFIGURE, ACTIVATE):
                    self._bring(name, step)
                self.get_logger().warning(f"node '{name}' was started again and is active")
            except NodeError as error:
                self.get_logger().error(f"robot degraded: {error}")

    # ----------------------------------------------------------------------------------------------- in the executor

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name, _, subsystem = status.name.partition(": ")
            if subsystem == "lifecycle" and name in self.names and status.level == ERROR:
                self._reasons[name] = status.message
            elif (name, subsystem) == ("camera_ingest", "observation"):
                self._eyes = f"camera_ingest says: {status.message}" if status.level == ERROR else ""

    def _on_bridge(self, message: BridgeStatus) -> None:
        self._bridge = message


def main() -> NoReturn:
    """Entry point."""
    common.main(Bringup)


if __name__ == "__main__":
    main()
