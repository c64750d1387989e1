"""The simulated robot in lockstep: no ROS, no clock but its own, as fast as this machine can.

The commands go through the same emulated controllers that the ROS node puts on its topics.
"""

from __future__ import annotations

from typing import NamedTuple, Sequence

import numpy as np

from pi_policy_node.robot import Robot
from pi_policy_node.sim.controllers import (GripperActionController, Point, PositionController, TrajectoryController,
                                            TwistController)
from pi_policy_node.sim.model import TIMESTEP, build
from pi_policy_node.sim.physics import Physics, Thing
from pi_policy_node.sim.render import Renderer
from pi_policy_node.sim.scene import Scene, sample

Controller = TrajectoryController | PositionController | GripperActionController | TwistController


class Observation(NamedTuple):
    time: float  # s
    state: np.ndarray  # [A]
    images: dict[str, np.ndarray]  # camera -> uint8 [h, w, 3]


class Simulator:
    """A robot in a world. Not thread-safe; rendering belongs to the thread that first asks for an image.

    scene: a Scene, or the name of a sampler. cameras: those that `observe` renders (all when None). size: (h, w) of
    their images, each camera's own when None.
    """

    def __init__(self, robot: Robot, scene: Scene | str = "", seed: int = 0, *, cameras: Sequence[str] | None = None,
                 size: tuple[int, int] | None = None, start: float = 1.0):
        self.robot = robot
        self.model = build(robot)
        self.physics = Physics(self.model)
        self.cameras = tuple(camera.name for camera in robot.cameras) if cameras is None else tuple(cameras)
        self.size = size
        self.epoch = start  # s: the time on the controllers' clock when the first step was made
        self.steps = 0  # of TIMESTEP, made so far
        self.controllers: dict[str, Controller] = {}
        self._columns: dict[str, np.ndarray] = {}
        for group in robot.groups:
            self.controllers[group.controller.name] = _controller(group, robot)
            self._columns[group.controller.name] = np.array([self.model.joints.index(j) for j in group.joints], int)
        self._renderers: dict[bool, tuple[tuple[int, int], Renderer]] = {}
        self._scene: Scene | str = scene
        self.reset(seed)

    @property
    def time(self) -> float:
        """Now, in seconds on the controllers' clock."""
        return self.epoch + self.steps * TIMESTEP

    @property
    def scene(self) -> Scene:
        """What was set up at the last reset."""
        return self.physics.scene

    def reset(self, seed: int = 0, scene: Scene | str | None = None) -> Scene:
        """A fresh scene for this seed, the robot at its home pose, every controller at rest. Time goes on."""
        scene = self._scene if scene is None else scene
        drawn = scene if isinstance(scene, Scene) else sample(scene, seed)
        self.physics.reset(drawn)
        self._scene = scene
        position, _ = self.physics.joints()
        for name, controller in self.controllers.items():
            controller.hold(position[self._columns[name]])
        return drawn

    def step(self, row: np.ndarray, dt: float | None = None) -> None:
        """One row of actions [A], in the action's units: to be reached in `dt` (the robot's own when None)."""
        dt = self.robot.dt if dt is None else dt
        now = self.time
        for group in self.robot.groups:
            controller, values = self.controllers[group.controller.name], np.asarray(row, float)[group.columns]
            if group.gripper:
                values = np.array([group.gripper.position(v) for v in values])
            if isinstance(controller, TwistController):
                controller.command(values, now=now)
            elif isinstance(controller, TrajectoryController):
                controller.command(group.joints, [Point(dt, values)], now=now)
            elif isinstance(controller, PositionController):
                controller.command(values)
            else:
                controller.goal(float(values[0]), now=now)
        self.advance(round(dt / TIMESTEP))

    def advance(self, steps: int) -> None:
        """Physics for that many time steps; commands given before are followed from here on."""
        times = self.epoch + (self.steps + 1 + np.arange(steps)) * TIMESTEP
        position = np.empty((steps, len(self.model.joints)))
        velocity = np.zeros_like(position)
        twist = np.zeros((steps, 3))
        for name, controller in self.controllers.items():
            reference = controller.advance(times)
            if isinstance(controller, TwistController):
                twist = reference.velocity
            else:
                position[:, self._columns[name]] = reference.position
                velocity[:, self._columns[name]] = reference.velocity
        self.physics.advance(position, velocity, twist)
        self.steps += steps

    def state(self) -> np.ndarray:
        """[A] as the robot would report it."""
        names, position, _, _ = self.physics.joint_state()
        base = self.physics.base()
        return self.robot.state(names, position, (base.vx, base.vy, base.wz))

    def observe(self) -> Observation:
        """State and camera images now."""
        return Observation(self.time, self.state(), self.images() if self.cameras else {})

    def images(self) -> dict[str, np.ndarray]:
        return self._renderer(False, self._largest()).cameras(self.physics.data, self.cameras, self.size)

    def objects(self) -> dict[str, Thing]:
        """Everything of the scene by name, as it is now."""
        return self.physics.things()

    def render_free(self, width: int = 1280, height: int = 720, *, pretty: bool = True, **view) -> np.ndarray:
        """A picture [height, width, 3] from a free camera (see Renderer.free), for people."""
        return self._renderer(pretty, (height, width)).free(self.physics.data, (height, width), **view)

    def close(self) -> None:
        for _, renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _largest(self) -> tuple[int, int]:
        used = [c for c in self.robot.cameras if c.name in self.cameras]
        return self.size or (max(c.height for c in used), max(c.width for c in used))

    def _renderer(self, pretty: bool, size: tuple[int, int]) -> Renderer:
        made, renderer = self._renderers.get(pretty, ((0, 0), None))
        if renderer is None or made[0] < size[0] or made[1] < size[1]:
            if renderer is not None:
                renderer.close()
            made = max(made[0], size[0]), max(made[1], size[1])
            renderer = Renderer(self.model, height=made[0], width=made[1], pretty=pretty)
            self._renderers[pretty] = made, renderer
        return renderer


def _controller(group, robot: Robot) -> Controller:
    name, zero = group.controller.name, np.zeros(len(group.joints))
    if group.controller.kind == "joint_trajectory":
        return TrajectoryController(name, group.joints, zero, period=TIMESTEP)
    if group.controller.kind == "position":
        return PositionController(name, group.joints, zero)
    if group.controller.kind == "gripper_action":
        return GripperActionController(name, group.joints, zero)
    return TwistController(name, robot.action_names[group.columns])
