"""The simulated robot in lockstep: no ROS, no clock but its own, as fast as this machine can.

The commands go through the same emulated controllers that the ROS node puts on its topics.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, NamedTuple, Sequence

import numpy as np

from pi_policy_node.robot import Robot
from pi_policy_node.sim.controllers import (GripperActionController, PositionController, TrajectoryController,
                                            TwistController)
from pi_policy_node.sim.model import TIMESTEP, build
from pi_policy_node.sim.physics import Physics, Thing
from pi_policy_node.sim.render import Renderer, Size, size_of
from pi_policy_node.sim.scene import Scene, sample

Controller = TrajectoryController | PositionController | GripperActionController | TwistController


class Observation(NamedTuple):
    time: float  # s
    state: np.ndarray  # [A]
    images: dict[str, np.ndarray]  # camera -> uint8 [h, w, 3]


class Simulator:
    """A robot in a world. Not thread-safe; rendering belongs to the thread that first asks for an image.

    scene: a Scene, or the name of a sampler. cameras: those that `observe` renders (all when None). size: (h, w) of
    their images, or that by camera; each camera's own where there is none.
    """

    def __init__(self, robot: Robot, scene: Scene | str = "", seed: int = 0, *, cameras: Sequence[str] | None = None,
                 size: Size = None, start: float = 1.0):
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
        self._rows = _Rows(robot)
        self._asked: np.ndarray | None = None  # [J] what `step` asked for last; None while the controllers know
        self._twist, self._twisted = np.zeros(3), 0.0  # and of the base, and when
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
        self._asked = None
        return drawn

    def step(self, row: np.ndarray, dt: float | None = None) -> None:
        """One row of actions [A], in the action's units: to be reached in `dt` (the robot's own when None).

        Joints with a trajectory controller follow a straight line from row to row, the others have the row at once.
        """
        dt = self.robot.dt if dt is None else dt
        steps, rows = round(dt / TIMESTEP), self._rows
        before = self._reference() if self._asked is None else self._asked
        target = rows.positions(row)
        change = np.where(rows.straight, target - before, 0.0)
        left = np.arange(steps - 1, -1, -1)[:, None] / steps
        self._asked = np.where(np.isfinite(target), target, before)
        self._twist, self._twisted = rows.twist(row), self.time
        self.physics.advance(target - left * change, change / dt, self._twist)
        self.steps += steps

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Whatever is done by `step` within is undone at its end."""
        asked, twist, twisted, steps = self._asked, self._twist, self._twisted, self.steps
        try:
            with self.physics.tried():
                yield
        finally:
            self._asked, self._twist, self._twisted, self.steps = asked, twist, twisted, steps

    def place_robot(self, row: np.ndarray) -> None:
        """Puts arms, grippers and lift exactly where a row [A] has them, without physics: for pictures."""
        self.physics.put_joints(self._rows.positions(row))

    def leap(self, by: float) -> None:
        """The clock leaps by so many seconds."""
        self.epoch += by
        for controller in self.controllers.values():
            controller.leap(by)

    def advance(self, steps: int) -> None:
        """Physics for that many time steps; commands given before are followed from here on."""
        if self._asked is not None:
            self._hand_over()
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

    def _reference(self) -> np.ndarray:
        """[J] what the controllers ask for."""
        asked = np.empty(len(self.model.joints))
        for name, controller in self.controllers.items():
            if not isinstance(controller, TwistController):
                asked[self._columns[name]] = controller.reference[0]
        return asked

    def _hand_over(self) -> None:
        """From `step` to the controllers, which go on from the last row."""
        for name, controller in self.controllers.items():
            if isinstance(controller, TwistController):
                controller.command(self._twist, stamp=self._twisted, now=self._twisted)
            else:
                controller.hold(self._asked[self._columns[name]])
        self._asked = None

    def state(self) -> np.ndarray:
        """[A] as the robot would report it."""
        base = self.physics.base()
        return self._rows.state(self.physics.joints()[0], (base.vx, base.vy, base.wz))

    def observe(self) -> Observation:
        """State and camera images now."""
        return Observation(self.time, self.state(), self.images())

    def images(self) -> dict[str, np.ndarray]:
        """uint8 [h, w, 3] of each camera of `cameras` now."""
        if not self.cameras:
            return {}
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
        sizes = [size_of(camera, self.size) for camera in self.robot.cameras if camera.name in self.cameras]
        return max(height for height, _ in sizes), max(width for _, width in sizes)

    def _renderer(self, pretty: bool, size: tuple[int, int]) -> Renderer:
        made, renderer = self._renderers.get(pretty, ((0, 0), None))
        if renderer is None or made[0] < size[0] or made[1] < size[1]:
            if renderer is not None:
                renderer.close()
            made = max(made[0], size[0]), max(made[1], size[1])
            renderer = Renderer(self.model, height=made[0], width=made[1], pretty=pretty)
            self._renderers[pretty] = made, renderer
        return renderer


class _Rows:
    """Rows of actions as positions of the driven joints, and back."""

    def __init__(self, robot: Robot):
        joints = [(column, group) for group in robot.groups if group.kind != "base"
                  for column in range(group.columns.start, group.columns.stop)]
        self._size, self._columns = len(robot.action_names), np.array([column for column, _ in joints], int)
        grippers = [group.gripper for _, group in joints]
        self._closed = np.array([g.closed if g else 0.0 for g in grippers])
        self._stroke = np.array([g.open - g.closed if g else 1.0 for g in grippers])
        self.straight = np.array([group.controller.kind == "joint_trajectory" for _, group in joints], bool)  # [J]
        self._base = next((group.columns for group in robot.groups if group.kind == "base"), None)

    def positions(self, row: np.ndarray) -> np.ndarray:
        """[A] -> [J]"""
        return self._closed + self._stroke * np.asarray(row, float)[self._columns]

    def twist(self, row: np.ndarray) -> np.ndarray:
        """[A] -> [3]"""
        return np.zeros(3) if self._base is None else np.array(row[self._base], float)

    def state(self, positions: np.ndarray, twist: Sequence[float]) -> np.ndarray:
        """[J], [3] -> [A]"""
        state = np.zeros(self._size)
        state[self._columns] = (positions - self._closed) / self._stroke
        if self._base is not None:
            state[self._base] = twist
        return state


def _controller(group, robot: Robot) -> Controller:
    name, zero = group.controller.name, np.zeros(len(group.joints))
    if group.controller.kind == "joint_trajectory":
        return TrajectoryController(name, group.joints, zero, period=TIMESTEP)
    if group.controller.kind == "position":
        return PositionController(name, group.joints, zero)
    if group.controller.kind == "gripper_action":
        return GripperActionController(name, group.joints, zero)
    return TwistController(name, robot.action_names[group.columns])
