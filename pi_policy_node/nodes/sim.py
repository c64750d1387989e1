"""The simulated robot: stands exactly where the hardware and its ros2_control would, and carries the clock."""

from __future__ import annotations

import random
import threading
import time
from typing import NoReturn

from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rosgraph_msgs.msg import Clock as ClockMessage

from geometry_msgs.msg import Point, Pose, Quaternion
from pi_msgs.srv import GetScene, ResetScene, SetFault
from pi_policy_node.nodes import common
from pi_policy_node.nodes.common import (ERROR, OK, WARN, Diagnostics, NodeError, from_seconds, parameter,
                                         robot_parameter)
from pi_policy_node.nodes.sim_streams import Cameras, JointStates, OdometryStream
from pi_policy_node.nodes.sim_topics import controller_topics
from pi_policy_node.sim import SceneError, Simulator
from pi_policy_node.sim.faults import FaultError, Switchboard
from pi_policy_node.sim.model import TIMESTEP
from pi_policy_node.sim.physics import PhysicsError

TICK = 2  # time steps between two looks at the commands: a controller manager at 250 Hz
START = 1.0  # s: where our clock starts; 0 means "no time yet" in ROS
RESYNC = 0.1  # s behind the pace beyond which the lost time is given up
DISCOVERY = 1.0  # s to hear of another clock before we publish ours


class Sim(Node):
    """Three threads: the executor takes commands and services, one paces the physics, one renders."""

    def __init__(self) -> None:
        super().__init__("sim")
        self.robot = robot_parameter(self)
        self.pace = parameter(self, "pace", 1.0, "simulated seconds per second; 0: as fast as it goes",
                              minimum=0.0, maximum=20.0)
        scene = parameter(self, "scene", "", "the scene to start with; empty: the default one")
        seed = parameter(self, "seed", 0, "its seed", minimum=0)
        joint_state_hz = parameter(self, "joint_state_hz", 62.5, "rate of joint_states", minimum=10.0, maximum=250.0)
        odom_hz = parameter(self, "odom_hz", 25.0, "rate of odom and tf", minimum=1.0, maximum=250.0)
        render = parameter(self, "render", True, "whether the cameras see anything")
        self._clock_hz = parameter(self, "clock_hz", 100.0, "rate of /clock", minimum=10.0, maximum=250.0)
        simulated_time = bool(self.get_parameter("use_sim_time").value)
        wants_clock = parameter(self, "publish_clock", simulated_time,
                                "whether /clock comes from here unless another has it; as use_sim_time when not given")
        if not wants_clock and not simulated_time and self.pace != 1.0:
            raise NodeError(f"parameter 'pace' is {self.pace:g}, but on the system's clock it can only be 1: "
                            "set use_sim_time to true")
        self.simulator = Simulator(self.robot, scene, seed, cameras=(), start=START)
        self.faults = Switchboard(camera.name for camera in self.robot.cameras)
        self.random = random.Random(seed)
        self.lock = threading.Lock()  # of the simulator
        self.drawing = threading.Lock()  # of the model's looks, between the renderer and a reset
        self.diagnostics = Diagnostics(self)
        self._topics = controller_topics(self)
        self._joint_states = JointStates(self, joint_state_hz)
        self._odometry = OdometryStream(self, odom_hz)
        self._our_clock = self._own_clock() if wants_clock else None
        if self._our_clock is None and self.pace != 1.0:
            self.get_logger().warning(f"pace {self.pace:g} cannot be had on another's clock: it is 1")
            self.pace = 1.0
        self._clock_due = 0.0
        self._factor = _Factor()
        self._stopping = threading.Event()
        self.create_service(ResetScene, "reset_scene", self._reset_scene)
        self.create_service(GetScene, "get_scene", self._get_scene)
        self.create_service(SetFault, "set_fault", self._set_fault)
        self.cameras = Cameras(self, self._stopping) if render else None
        self._thread = threading.Thread(target=self._guarded_run, name="physics", daemon=True)
        self._thread.start()
        self.get_logger().info(f"{self.robot.name} stands in scene '{self.simulator.scene.name}', seed {seed}; "
                               f"time comes from {'here' if self._our_clock else 'the clock of this node'}")

    def destroy_node(self) -> None:
        self._stopping.set()
        self._thread.join(2.0)
        if self.cameras is not None:
            self.cameras.join(2.0)
        super().destroy_node()

    # ----------------------------------------------------------------------------------------------- time

    def _own_clock(self):
        """A publisher on /clock; None where somebody else has one: two clocks would tear the graph's time apart.

        In a namespace the launch files remap it, and what counts is who publishes there.
        """
        end = time.monotonic() + DISCOVERY
        while time.monotonic() < end:
            if self.count_publishers(self.resolve_topic_name("/clock")):
                self.get_logger().warning("somebody else publishes /clock: this robot lives by that clock, "
                                          "and publishes none")
                return None
            time.sleep(0.02)
        return self.create_publisher(ClockMessage, "/clock", qos_profile_sensor_data)

    def _yield_clock(self) -> None:
        """Where two of us started at the same moment, the one with the lower id keeps the clock."""
        others = self.get_publishers_info_by_topic(self.resolve_topic_name("/clock"))
        if len(others) > 1 and self._our_clock is not None:
            mine = self.get_fully_qualified_name()
            names = sorted(f"{o.node_namespace.rstrip('/')}/{o.node_name}" for o in others)
            if names[0] != mine:
                self.get_logger().warning(f"{names[0]} publishes /clock as well: this robot lives by that clock")
                clock, self._our_clock = self._our_clock, None
                self.destroy_publisher(clock)

    def _publish_clock(self, now: float) -> None:
        fault = self.faults.get("clock", now=time.monotonic())
        if fault is not None and fault.kind == "jump":
            self.simulator.leap(fault.value)
            self._clock_due = 0.0
            self.faults.set("clock", "none", 0.0, now=0.0)
            return
        if self._our_clock is None:
            # Not our clock: follow it, gently where possible, so that our time never runs backwards.
            off = self.get_clock().now().nanoseconds * 1e-9 - now
            if abs(off) > RESYNC:
                self.simulator.leap(off)
            else:
                self.simulator.epoch += 0.02 * off
            return
        if now >= self._clock_due and fault is None:
            self._clock_due = now + 1.0 / self._clock_hz - 1e-6
            self._our_clock.publish(ClockMessage(clock=from_seconds(now)))

    # --------------------------------------------------------------------------------------------- physics

    def _guarded_run(self) -> None:
        try:
            self._run()
        except Exception as error:
            if not self._stopping.is_set():  # at the end, publishers go before the thread does
                self.get_logger().fatal(f"the physics thread died: {type(error).__name__}: {error}")
                self.diagnostics.set("physics", ERROR, f"died: {error}")
                raise

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            steady = time.monotonic()
            if self.faults.get("physics", now=steady) is not None:
                self._report(steady, stalled=True)
                time.sleep(0.005)
                due = time.monotonic()
                continue
            if self.pace and due > steady:
                time.sleep(due - steady)
            elif self.pace and steady - due > RESYNC:
                due = steady
            elif not self.pace and self.cameras is not None:
                self.cameras.keep_up()
            due += TICK * TIMESTEP / self.pace if self.pace else 0.0
            self._tick()
            self._report(time.monotonic(), stalled=False)

    def _tick(self) -> None:
        simulator = self.simulator
        try:
            with self.lock:
                simulator.advance(TICK)
        except PhysicsError as error:
            self.get_logger().error(f"{error}: the scene starts again")
            with self.drawing, self.lock:
                simulator.reset(simulator.scene.seed)
        with self.lock:
            now = simulator.time
            for topic in self._topics:
                topic.after_step(now)
            joints = self._joint_states.read(now)
            base = self._odometry.read(now)
        self._publish_clock(now)
        self._joint_states.publish(joints)
        self._odometry.publish(base)
        if self.cameras is not None:
            self.cameras.wake(now)

    def _report(self, steady: float, *, stalled: bool) -> None:
        factor = self._factor.update(steady, self.simulator.steps * TIMESTEP)
        if factor is None:
            return
        if self._our_clock is not None:
            self._yield_clock()
        slow = self.pace and factor < 0.97 * self.pace
        level, words = (WARN, "stalled, as asked") if stalled else (WARN, "slower than asked") if slow else (OK, "runs")
        self.diagnostics.set("physics", level, words, {
            "real_time_factor": f"{factor:.4f}", "real_time_factor_total": f"{self._factor.total:.4f}",
            # Totals, so that anybody can work out means over a time of their own:
            "seconds": f"{self.simulator.steps * TIMESTEP:.3f}", "images": self.cameras.images if self.cameras else 0,
            "cpu": f"{time.process_time():.3f}", "steady": f"{steady:.3f}",
            "pace": self.pace, "publishes_clock": self._our_clock is not None, "scene": self.simulator.scene.name,
            "seed": self.simulator.scene.seed,
            **{f"{c.name}.{key}": count for c in self.simulator.controllers.values()
               for key, count in c.counters.items()},
            **{f"fault.{target}": fault.kind for target, fault in self.faults.active().items()}})

    # --------------------------------------------------------------------------------------------- services

    def _reset_scene(self, request, response):
        try:
            with self.drawing, self.lock:
                scene = self.simulator.reset(request.seed, request.scene)
            response.success = True
            response.message = f"scene '{scene.name}', seed {scene.seed}: {', '.join(scene.names()) or 'nothing in it'}"
        except (SceneError, PhysicsError) as error:
            response.success, response.message = False, str(error)
        return response

    def _get_scene(self, request, response):
        with self.lock:
            scene, things = self.simulator.scene, self.simulator.objects()
            response.drawer = self.simulator.physics.drawer()
        response.scene, response.seed = scene.name, scene.seed
        response.names = list(things)
        response.descriptions = [f"{thing.colour} {thing.kind}" for thing in things.values()]
        for thing in things.values():
            x, y, z = map(float, thing.position)
            qw, qx, qy, qz = map(float, thing.quaternion)
            response.poses.append(Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw)))
        return response

    def _set_fault(self, request, response):
        try:
            response.message = self.faults.set(request.target, request.kind, request.value, now=time.monotonic())
            response.success = True
        except FaultError as error:
            response.success, response.message = False, str(error)
        return response


class _Factor:
    """Simulated time per real time: over the last second, and since the start."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None
        self._last = (0.0, 0.0)
        self.total = 0.0

    def update(self, steady: float, simulated: float) -> float | None:
        """The factor of the last second, once a second; None in between."""
        if self._first is None:
            self._first = self._last = (steady, simulated)
        wall = steady - self._last[0]
        if wall < 1.0:
            return None
        factor = (simulated - self._last[1]) / wall
        self.total = (simulated - self._first[1]) / (steady - self._first[0])
        self._last = (steady, simulated)
        return factor


def main() -> NoReturn:
    """Entry point."""
    common.main(Sim)


if __name__ == "__main__":
    main()
