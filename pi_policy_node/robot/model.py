"""The data of a robot. Made and checked by load_robot; trusted everywhere else. Units: m, rad, s."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_policy_node.robot.error import RobotError
from pi_policy_node.robot.urdf import expand


@dataclass(frozen=True)
class Controller:
    """Whom a group's commands are sent to."""

    name: str
    kind: str  # "joint_trajectory", "position", "gripper_action" or "twist"
    topic: str  # relative; of a gripper_action, the action's name
    stamp: str  # "zero" = start on arrival; "absolute" = start at the stamp, where clocks are shared


@dataclass(frozen=True)
class Gripper:
    """The linear map from the action (0 = closed, 1 = open) to the fingers' joints."""

    closed: float  # position of the driving joint at 0, rad or m
    open: float  # and at 1
    mimic: tuple[tuple[str, float, float], ...]  # (joint, its position at 0, at 1)

    def position(self, action: float) -> float:
        """The driving joint's position at an action."""
        return self.closed + action * (self.open - self.closed)

    def action(self, position: float) -> float:
        """The action that stands for a position of the driving joint; not clipped to 0..1."""
        return (position - self.closed) / (self.open - self.closed)


@dataclass(frozen=True)
class Group:
    """Columns of the action that are commanded together."""

    name: str
    kind: str  # "arm", "gripper", "lift" or "base"
    columns: slice
    joints: tuple[str, ...]  # URDF joints in the columns' order; a gripper's driving joint; none for a base
    controller: Controller
    gripper: Gripper | None
    tool: str | None  # the URDF link at an arm's tool point


@dataclass(frozen=True)
class Camera:
    name: str
    topic: str  # relative
    transport: str  # "raw" or "compressed"
    frame: str  # optical frame, a link of the URDF
    width: int  # pixels, as captured
    height: int
    hz: float
    required: bool  # without it there is no observation; others are marked invalid
    role: str  # the policy's name for this view: openpi's base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb, or one's own
    fov: float  # vertical field of view, rad: what the simulated camera sees


@dataclass(frozen=True, eq=False)
class Robot:
    """A robot. [A] = one number per column of the action, in the units of the action (rad, m, 0..1, m/s, rad/s)."""

    name: str
    file: Path
    urdf_file: Path
    controllers_file: Path | None  # parameters of its controller_manager; None: started by somebody else
    base_frame: str
    action_names: tuple[str, ...]
    groups: tuple[Group, ...]
    cameras: tuple[Camera, ...]
    dt: float  # s between two rows of a chunk
    horizon: int  # rows of a chunk
    observation_hz: float
    image_size: tuple[int, int]  # (height, width) that cameras are letterboxed to
    lower: np.ndarray  # [A]; base: -speed
    upper: np.ndarray  # [A]; base: +speed
    velocity: np.ndarray  # [A]; base: inf, its columns are velocities themselves
    acceleration: np.ndarray  # [A]; base: of the commanded velocity
    jerk: np.ndarray  # [A]
    splice_tolerance: np.ndarray  # [A] how far a chunk's first row may be from what is being commanded
    tracking_tolerance: np.ndarray  # [A] how far measured may be from commanded; grippers and base: inf
    tool_speed: float  # m/s relative to the base, each tool
    workspace: np.ndarray  # [2, 3] lower and upper corner of a box in base_frame, for every tool
    base_speed: float  # m/s, of the vector (vx, vy); inf without a base
    max_blind: float  # s after the observation beyond which no row is played
    window: float  # s of plan sent to a controller, before the braking tail
    command_hz: float
    joint_state_timeout: float
    clock_tolerance: float  # s between our clock and the stamps of joint_states
    heartbeat_timeout: float | None  # None: no stop button is required
    home: np.ndarray  # [A]

    def group(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(f"{self.name} has no group '{name}': {', '.join(group.name for group in self.groups)}")

    def urdf(self, *, meshes: str = "package", **arguments: str) -> str:
        """The URDF, expanded. meshes="file": paths instead of package://. Others: the xacro's own arguments."""
        return expand(self.urdf_file, meshes=meshes, arguments=tuple(sorted(arguments.items())))

    def state(
        self, names: Sequence[str], positions: Sequence[float], twist: Sequence[float] = (0.0, 0.0, 0.0)
    ) -> np.ndarray:
        """[A] from joint_states, mapped by name whatever their order, and the base's (vx, vy, wz)."""
        if len(names) != len(positions):
            raise RobotError(self.file, "joint_states", f"has {len(names)} names and {len(positions)} positions")
        measured = dict(zip(names, positions))
        state = np.zeros(len(self.action_names))
        for group in self.groups:
            if group.kind == "base":
                state[group.columns] = twist
                continue
            missing = [joint for joint in group.joints if joint not in measured]
            if missing:
                raise RobotError(self.file, "joint_states", f"lacks {', '.join(missing)}")
            values = [measured[joint] for joint in group.joints]
            state[group.columns] = [group.gripper.action(value) for value in values] if group.gripper else values
        if not np.isfinite(state).all():
            bad = [name for name, value in zip(self.action_names, state) if not np.isfinite(value)]
            raise RobotError(self.file, "joint_states", f"not finite: {', '.join(bad)}")
        return state

    def joints(self, action: np.ndarray) -> dict[str, float]:
        """The positions of all URDF joints that a row of the action determines, mimic fingers included."""
        positions: dict[str, float] = {}
        for group in self.groups:
            for joint, value in zip(group.joints, action[group.columns]):
                positions[joint] = group.gripper.position(float(value)) if group.gripper else float(value)
            if group.gripper:
                value = float(action[group.columns.start])
                positions |= {joint: low + value * (high - low) for joint, low, high in group.gripper.mimic}
        return positions

    @functools.cached_property
    def is_base(self) -> np.ndarray:
        """[A] bool"""
        return self._is("base")

    @functools.cached_property
    def is_gripper(self) -> np.ndarray:
        """[A] bool"""
        return self._is("gripper")

    @functools.cached_property
    def is_position(self) -> np.ndarray:
        """[A] bool: all but the base's columns"""
        return ~self.is_base

    def _is(self, kind: str) -> np.ndarray:
        mask = np.zeros(len(self.action_names), dtype=bool)
        for group in self.groups:
            mask[group.columns] = group.kind == kind
        mask.flags.writeable = False
        return mask
