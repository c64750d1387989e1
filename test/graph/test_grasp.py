"""A grasp outlives what ends motion: whatever the arm is made to do, the hand goes on squeezing what it holds."""

from collections.abc import Callable

import numpy as np
import pytest
from harness import RobotUnderTest
from player import Player
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from pi_msgs.msg import BridgeStatus
from pi_msgs.srv import GetScene, ResetScene
from pi_policy_node.nodes.common import RELIABLE10, SENSOR, to_seconds
from pi_policy_node.robot import Kinematics
from pi_policy_node.sim.reach import reach, top_down

THING = "red_block"
CLOSED = 0.0  # the command that squeezes; the block stops the fingers far before
BLOCKED = 0.3  # of the stroke: fingers that are further apart than this hold something; on the block it is about a half
LOOSER = 0.02  # of the stroke: how far the command may be from closed
NEAR = 0.03  # m between tool and block
SLIP = 0.005  # m that the block may move in the hand while it is carried about
REACHED = 0.01  # rad, or of the stroke
PATIENCE = 2.0  # s of the robot's time for which a hand that waits must go on squeezing
FRESH = 60  # joint_states meanwhile: one second of them at half the rate


class Hand:
    """The right arm and its gripper on the way through a few rows; what its controllers say, and what it holds."""

    def __init__(self, robot: RobotUnderTest, player: Player) -> None:
        self.rut, self.player, self.kinematics = robot, player, Kinematics(robot.robot)
        self.arm, self.gripper = robot.robot.group("right_arm"), robot.robot.group("right_gripper")
        self.finger = self.gripper.columns.start
        self.told = np.full(len(self.arm.joints), np.nan)  # the arm's reference
        self.grips: list[float] = []  # the gripper's, since it closed; strokes
        self.time, self.measurements = 0.0, 0  # s, of the newest reference; joint_states so far
        arm, gripper = f"{self.arm.controller.name}/reference", f"{self.gripper.controller.name}/reference"
        self._subscriptions = [
            robot.node.create_subscription(JointState, arm, self._on_arm, RELIABLE10),
            robot.node.create_subscription(JointState, gripper, self._on_gripper, RELIABLE10),
            robot.node.create_subscription(JointState, "joint_states", self._on_joints, SENSOR)]

    def close(self) -> None:
        for subscription in self._subscriptions:
            self.rut.node.destroy_subscription(subscription)

    def _on_arm(self, message: JointState) -> None:
        self.told = np.array(message.position)

    def _on_gripper(self, message: JointState) -> None:
        self.time = to_seconds(message.header.stamp)
        self.grips.append(self.gripper.gripper.action(message.position[0]))

    def _on_joints(self, message: JointState) -> None:
        self.measurements += 1

    def thing(self) -> np.ndarray:
        """Where the block is [3]. The robot stands at the origin, so that base and world are one."""
        scene = self.rut.call(GetScene, "get_scene")
        at = scene.poses[scene.names.index(THING)].position
        return np.array([at.x, at.y, at.z])

    def tool(self) -> np.ndarray:
        return self.kinematics.tools(self.rut.state())[self.arm.name]

    def over(self, point, start: np.ndarray) -> np.ndarray:
        """The row `start` with the tool pointing down at a point."""
        return reach(self.rut.robot, self.kinematics, self.arm, top_down(point, np.pi / 2), start)

    # ------------------------------------------------------------------------------------------------------- moving

    def leg(self, target: np.ndarray, seconds: float) -> Callable[[np.ndarray], np.ndarray]:
        """Rows that go smoothly to a row, from where the robot is and with the grip that it has been told."""
        start, begin = self.player.place(), self.rut.now()
        start[self.finger] = self.grips[-1]

        def rows(times: np.ndarray) -> np.ndarray:
            u = np.clip((times - begin) / seconds, 0.0, 1.0)[:, None]
            return start + (target - start) * u * u * (3.0 - 2.0 * u)
        return rows

    def go(self, target: np.ndarray, seconds: float) -> None:
        """Within the task in hand, until it is there."""
        self.player.rows = self.leg(target, seconds)
        self.player.chunking = True
        self.arrive(target, seconds)

    def arrive(self, target: np.ndarray, seconds: float) -> None:
        arm, grip = target[self.arm.columns], target[self.finger]

        def there() -> bool:
            apart = [*(self.told - arm), *(self.rut.state()[self.arm.columns] - arm), self.grips[-1] - grip]
            return bool((np.abs(apart) < REACHED).all())
        self.wait_moving(there, 2 * seconds + 5, f"the hand at {np.round(arm, 2)}")

    def wait_moving(self, condition: Callable[[], object], limit: float, what: str) -> None:
        """Until the condition holds; fails at once where a latched fault ends the motion."""
        self.rut.wait(lambda: condition() or self.rut.bridge.latched, limit, what)
        assert not self.rut.bridge.latched, f"{what}: {self.rut.tell()}"

    def set_off(self, target: np.ndarray, seconds: float) -> None:
        """Until it is well on its way, and no further."""
        start = self.told.copy()
        self.player.rows = self.leg(target, seconds)
        way = np.abs(target[self.arm.columns] - start).max()
        assert way > 10 * REACHED
        self.wait_moving(lambda: np.abs(self.told - start).max() > 0.1 * way, 2 * seconds, "the hand on its way")

    # ------------------------------------------------------------------------------------------------------ holding

    def grasp(self) -> None:
        """From home: above it, down, and closed around it."""
        at, home = self.thing(), self.rut.robot.home
        self.low, above = at, self.over(at + [0.0, 0.0, 0.12], home)
        self.go(above, 3.0)
        down = self.over(at, above)
        self.go(down, 2.5)
        down[self.finger] = CLOSED
        self.go(down, 0.6)
        self.grips = self.grips[-1:]
        self.row = down
        self.wait_squeezing(0.3, 1)

    def lifted(self, up: float, aside: float = 0.0) -> np.ndarray:
        """The row with the block so much higher than the table, and so far aside [m]; closed."""
        return self.over(self.low + [0.0, aside, up], self.row)

    def wait_squeezing(self, seconds: float = PATIENCE, fresh: int = FRESH) -> None:
        """For some of the robot's time and some new measurements, in which the command to squeeze must stay."""
        until, enough = self.time + seconds, self.measurements + fresh
        passed = "the robot's time to pass"
        self.rut.wait(lambda: self.time > until and self.measurements >= enough, 2 * seconds + 5, passed)
        loosest = max(self.grips)
        assert loosest < CLOSED + LOOSER, f"the gripper was told to open to {loosest:.3f}; {self.rut.tell()}"
        measured = self.rut.state()[self.finger]
        assert measured > BLOCKED, f"the fingers closed to {measured:.2f}: there is nothing between them"

    def carried(self) -> np.ndarray:
        """From tool to block [3], which is in the hand, off the table, and squeezed."""
        self.wait_squeezing()
        thing, tool = self.thing(), self.tool()
        assert np.linalg.norm(thing - tool) < NEAR, f"the block is at {thing}, the tool at {tool}; {self.rut.tell()}"
        assert thing[2] > self.low[2] + 0.08, f"the block is only {thing[2] - self.low[2]:.3f} m up; {self.rut.tell()}"
        return thing - tool


@pytest.fixture
def hand(robot, player):
    one = Hand(robot, player)
    yield one
    player.end()
    one.close()


def begin_afresh(robot, player, hand):
    """At home with an open hand, the block on the table: whatever an attempt before has left."""
    player.end()
    robot.recover()
    robot.wait(lambda: hand.grips and np.isfinite(hand.told).all(), 5, "what the controllers say")
    home = robot.robot.home
    player.begin(hand.leg(home, 3.0))
    hand.arrive(home, 3.0)
    response = robot.call(ResetScene, "reset_scene", ResetScene.Request(scene="block"))
    assert response.success, response.message
    robot.bridges.clear()


def test_a_grasp_is_held_through_a_hold_and_through_a_stop_that_is_resumed(robot, player, hand):
    begin_afresh(robot, player, hand)
    hand.grasp()
    low, high = hand.lifted(0.10), hand.lifted(0.16, aside=-0.08)
    hand.go(low, 2.0)
    offset = hand.carried()

    def still_held() -> None:
        slipped = np.linalg.norm(hand.carried() - offset)
        assert slipped < SLIP, f"the block slipped by {1000 * slipped:.1f} mm in the hand"

    hand.set_off(high, 4.0)
    player.chunking = False  # in mid-air
    status = robot.wait_cause({BridgeStatus.NO_CHUNK, BridgeStatus.TOO_BLIND}, 3)
    assert status.mode == BridgeStatus.HOLD and not status.latched
    robot.wait(lambda: robot.bridge.at_rest, 3, "rest")
    still_held()
    hand.go(high, 3.0)
    still_held()

    hand.set_off(low, 4.0)
    robot.stop()
    robot.wait(lambda: robot.bridge.latched and robot.bridge.at_rest, 3, "a latched stop, at rest")
    player.end()
    still_held()
    assert robot.call(Trigger, "resume").success
    robot.wait(lambda: robot.bridge.code == BridgeStatus.AWAITING_RESUMED_TASK, 2, "the bridge to wait for a task")
    still_held()
    player.begin(hand.leg(low, 3.0))
    robot.wait(lambda: robot.bridge.mode == BridgeStatus.RUNNING, 5, "the new task")
    hand.arrive(low, 3.0)
    still_held()
