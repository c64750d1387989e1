"""The physics of one world: puts a scene into it, moves it along the controllers' references, says where things are."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Iterator, NamedTuple

import mujoco
import numpy as np

from pi_policy_node.sim import meshes, world
from pi_policy_node.sim.model import TIMESTEP, Model
from pi_policy_node.sim.scene import Item, Scene, SceneError

SETTLE = 0.1  # s that a new scene gets to come to rest before anybody looks
_WARNINGS = [int(getattr(mujoco.mjtWarning, f"mjWARN_{w}")) for w in ("BADQPOS", "BADQVEL", "BADQACC")]


class PhysicsError(RuntimeError):
    """The physics came apart; the world must be reset."""


class Thing(NamedTuple):
    """Something of the scene as it is now. `position` is its body's origin (m), in the world's frame."""

    kind: str
    colour: str
    position: np.ndarray  # [3]
    quaternion: np.ndarray  # [4] w x y z
    velocity: np.ndarray  # [3] m/s


class Base(NamedTuple):
    """The base as odometry: pose in the world's frame, velocity in its own."""

    x: float
    y: float
    yaw: float
    vx: float
    vy: float
    wz: float


class Physics:
    """One MjData and the scene in it. Not thread-safe."""

    def __init__(self, model: Model):
        self.model = model
        self.data = mujoco.MjData(model.mj)
        self._spare: mujoco.MjData | None = None
        self.scene = Scene()
        self._bodies: dict[str, int] = {}  # name in the scene -> body
        self._items: dict[str, Item] = {}
        self._free: dict[str, tuple[int, int]] = {}  # name in the scene -> where its free joint is in qpos, in qvel
        self._wheels = np.zeros(len(model.wheels))
        self._spin = np.array(list(model.wheels.values())).reshape(-1, 3)
        self._base = list(zip(model.base_qpos.tolist(), model.base_dof.tolist()))
        self._yaw = self._base[2][0] if self._base else -1
        moving = [model.mj.joint(name).id for name in model.published[:len(model.published) - len(model.wheels)]]
        self._moving = model.mj.jnt_qposadr[moving], model.mj.jnt_dofadr[moving]
        self._tools = {g.name: model.mj.body(g.tool).id for g in model.robot.groups if g.tool}
        self._drawer = int(model.mj.joint("drawer").qposadr[0])
        self._warnings = self.data.warning.number  # a view
        joints = model.mj.actuator_trnid[model.position, 0]
        ends, limited = model.mj.jnt_range[joints].T, model.mj.jnt_limited[joints].astype(bool)
        self._limits = np.where(limited, ends[0], -np.inf), np.where(limited, ends[1], np.inf)
        self._neutral = _Neutral(model.mj)
        self._slots = {kind: [model.mj.body(name).id for name, k in world.slots() if k == kind] for kind in world.KINDS}

    # ------------------------------------------------------------------------------------------------ scenes

    def reset(self, scene: Scene) -> None:
        """Puts this scene in place, the robot at its home pose."""
        assigned = self._assign(scene)
        mj, data = self.model.mj, self.data
        self._neutral.restore()
        self.scene, self._items = scene, dict(zip(scene.names(), scene.items))
        self._bodies = dict(zip(scene.names(), assigned))
        joints = {name: mj.body_jntadr[body] for name, body in self._bodies.items()}
        self._free = {name: (int(mj.jnt_qposadr[j]), int(mj.jnt_dofadr[j])) for name, j in joints.items()}
        for kind, bodies in self._slots.items():
            for body in bodies:
                self._show(body, None)
        for body, item in zip(assigned, scene.items):
            self._show(body, item)
        self._dress(scene)
        mujoco.mj_resetData(mj, data)  # after _show: this is where trees are put to sleep
        data.qpos[:] = self.model.home
        for body, item in zip(assigned, scene.items):
            at = mj.jnt_qposadr[mj.body_jntadr[body]]
            x, y, z = item.position
            data.qpos[at:at + 7] = x, y, z + world.KINDS[item.kind].height + 5e-4, *_yaw_quaternion(item.yaw)
        data.qpos[self._drawer] = scene.drawer * world.DRAWER_TRAVEL
        if len(self.model.base_qpos):
            data.qpos[self.model.base_qpos] = scene.base
        self._wheels[:] = 0.0
        data.ctrl[self.model.position] = data.qpos[self.model.qpos]
        for _ in range(round(SETTLE / TIMESTEP)):
            mujoco.mj_step(mj, data)
        self._check()
        data.time = 0.0
        mujoco.mj_forward(mj, data)

    def _assign(self, scene: Scene) -> list[int]:
        free = {kind: list(bodies) for kind, bodies in self._slots.items()}
        assigned = []
        for item in scene.items:
            if item.kind not in free:
                raise SceneError(f"there is no {item.kind!r}; there are {', '.join(free)}")
            if item.colour not in world.COLOURS:
                raise SceneError(f"nothing is {item.colour!r}; colours are {', '.join(world.COLOURS)}")
            if not free[item.kind]:
                raise SceneError(f"a scene can have {world.KINDS[item.kind].count} of {item.kind}, not more")
            assigned.append(free[item.kind].pop(0))
        return assigned

    def _show(self, body: int, item: Item | None) -> None:
        mj = self.model.mj
        policy = mujoco.mjtSleepPolicy
        mj.tree_sleep_policy[mj.body_treeid[body]] = policy.mjSLEEP_INIT if item is None else policy.mjSLEEP_ALLOWED
        first = mj.body_geomadr[body]
        for geom in range(first, first + mj.body_geomnum[body]):
            mj.geom_group[geom] = meshes.HIDDEN if item is None else meshes.ALWAYS
            if item is not None:
                mj.geom_rgba[geom, :3] = world.COLOURS[item.colour]
                mj.geom_friction[geom] *= item.friction

    def _dress(self, scene: Scene) -> None:
        mj, look = self.model.mj, scene.look
        tint = np.array(look.tint)
        mj.light_diffuse[mj.light("lamp").id] *= look.lamp * tint
        mj.light_diffuse[mj.light("window").id] *= look.window * tint
        mj.light_pos[mj.light("lamp").id] += look.lamp_shift
        mj.vis.headlight.ambient[:] = self._neutral.ambient * look.ambient * tint
        mj.geom_rgba[mj.geom("table").id, :3] = np.clip(look.table, 0, 1.2)
        if look.camera_shift or look.camera_turn:
            rng = np.random.default_rng([scene.seed, 7])
            for camera in range(mj.ncam):
                mj.cam_pos[camera] += rng.normal(0, look.camera_shift, 3)
                mujoco.mju_quatIntegrate(mj.cam_quat[camera], rng.normal(0, look.camera_turn, 3), 1.0)

    # -------------------------------------------------------------------------------------------------- motion

    def advance(self, position: np.ndarray, velocity: np.ndarray, twist: np.ndarray) -> None:
        """N steps. position [N, J] and velocity [N, J] or [J]: what the joints are asked for; twist [N, 3] or [3]: the
        base, in its own frame.

        What is not finite is not passed on to the joints: they stay at their last command, or stand.
        """
        mj, data, model = self.model.mj, self.data, self.model
        ctrl, qpos = data.ctrl, data.qpos
        if not np.isfinite(position).all():
            position = np.where(np.isfinite(position), position, ctrl[model.position])
        if not np.isfinite(velocity).all():
            velocity = np.nan_to_num(velocity, nan=0.0, posinf=20.0, neginf=-20.0)
        if not np.isfinite(twist).all():
            twist = np.nan_to_num(twist, nan=0.0, posinf=5.0, neginf=-5.0)
        controls = np.zeros((len(position), mj.nu))
        controls[:, model.position] = np.minimum(np.maximum(position, self._limits[0]), self._limits[1])
        controls[:, model.feedforward] = np.minimum(np.maximum(velocity, -20.0), 20.0)
        if twist.any() and self._base:
            rows = np.broadcast_to(np.minimum(np.maximum(twist, -5.0), 5.0), (len(position), 3)).tolist()
            forward, left, turn = model.base_ctrl.tolist()
            for control, (vx, vy, wz) in zip(controls, rows):
                yaw = qpos[self._yaw]
                c, s = math.cos(yaw), math.sin(yaw)
                ctrl[:] = control
                ctrl[forward], ctrl[left], ctrl[turn] = c * vx - s * vy, s * vx + c * vy, wz
                mujoco.mj_step(mj, data)
        else:
            for control in controls:
                ctrl[:] = control
                mujoco.mj_step(mj, data)
        self._check()
        if model.wheels:
            b = self.base()
            self._wheels += self._spin @ [b.vx, b.vy, b.wz] * (len(position) * TIMESTEP)

    @contextmanager
    def tried(self) -> Iterator[None]:
        """The world is put back at the end; what comes apart within has not happened."""
        mj, wheels = self.model.mj, self._wheels.copy()
        kept = self._spare = self._spare or mujoco.MjData(mj)
        mujoco.mj_copyData(kept, mj, self.data)
        try:
            yield
        except PhysicsError:
            pass
        finally:
            mujoco.mj_copyData(self.data, mj, kept)
            self._wheels = wheels

    def _check(self) -> None:
        if not self._warnings[_WARNINGS].any():
            return
        for warning in _WARNINGS:
            if self._warnings[warning]:
                raise PhysicsError(f"the physics came apart ({mujoco.mjtWarning(warning).name[7:]}) in scene "
                                   f"{self.scene.name!r}, seed {self.scene.seed}")

    def place(self, name: str, position, yaw: float = 0.0) -> None:
        """Puts a thing of the scene elsewhere, standing, at rest. `position`: of what it stands on."""
        item, at, dof = self._item(name)
        x, y, z = position
        self.data.qpos[at:at + 7] = x, y, z + world.KINDS[item.kind].height, *_yaw_quaternion(yaw)
        self.data.qvel[dof:dof + 6] = 0.0
        self._wake(name)

    def pose(self, name: str, position, quaternion) -> None:
        """Puts a thing exactly where `things` once told that it was, at rest."""
        _, at, dof = self._item(name)
        self.data.qpos[at:at + 7] = *position, *quaternion
        self.data.qvel[dof:dof + 6] = 0.0
        self._wake(name)

    def push(self, name: str, velocity) -> None:
        """Gives a thing of the scene a velocity [m/s], as a nudge does."""
        _, _, dof = self._item(name)
        self._wake(name)
        self.data.qvel[dof:dof + 3] = velocity

    def _item(self, name: str) -> tuple[Item, int, int]:
        if name not in self._items:
            raise SceneError(f"nothing in the scene is called {name!r}; there are {', '.join(self._items) or 'none'}")
        return self._items[name], *self._free[name]

    def _wake(self, name: str) -> None:
        # A sleeping tree is woken by a force on it; the smallest one does.
        body = self._bodies[name]
        self.data.xfrc_applied[body, 2] = 1e-12
        mujoco.mj_forward(self.model.mj, self.data)
        self.data.xfrc_applied[body] = 0.0

    # ------------------------------------------------------------------------------------------------- readings

    def joints(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities [J] of the driven joints."""
        return self.data.qpos[self.model.qpos].copy(), self.data.qvel[self.model.dof].copy()

    def joint_state(self) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
        """Names, positions, velocities and efforts of every moving joint, as a joint_state_broadcaster has them."""
        data, model = self.data, self.model
        at, dofs = self._moving
        base = self.base()
        spin = self._spin @ [base.vx, base.vy, base.wz]
        return (model.published, np.concatenate([data.qpos[at], self._wheels]), np.concatenate([data.qvel[dofs], spin]),
                np.concatenate([data.qfrc_actuator[dofs], np.zeros(len(spin))]))

    def base(self) -> Base:
        if not self._base:
            return Base(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        qpos, qvel = self.data.qpos, self.data.qvel
        x, y, yaw = (float(qpos[at]) for at, _ in self._base)
        vx, vy, wz = (float(qvel[dof]) for _, dof in self._base)
        c, s = math.cos(yaw), math.sin(yaw)
        return Base(x, y, yaw, c * vx + s * vy, c * vy - s * vx, wz)

    def put_joints(self, positions: np.ndarray) -> None:
        """Puts the driven joints [J], and the fingers that follow them, exactly there, at rest."""
        data, model = self.data, self.model
        data.qpos[model.qpos] = positions
        for group in model.robot.groups:
            if group.gripper:
                grip = group.gripper
                share = (positions[model.joints.index(group.joints[0])] - grip.closed) / (grip.open - grip.closed)
                for name, low, high in grip.mimic:
                    data.qpos[model.mj.joint(name).qposadr[0]] = low + share * (high - low)
        data.qvel[:] = 0.0
        mujoco.mj_forward(model.mj, data)

    def tool_yaw(self, arm: str) -> float:
        """The direction along which an arm's fingers open, in the world, where it points down."""
        across = self.data.xmat[self._tools[arm]].reshape(3, 3)[:, 1]
        return math.atan2(across[1], across[0])

    def tools(self) -> dict[str, np.ndarray]:
        """Each arm's tool point [3] in the world's frame."""
        mujoco.mj_kinematics(self.model.mj, self.data)
        return {arm: self.data.xpos[body].copy() for arm, body in self._tools.items()}

    def base_pose(self) -> np.ndarray:
        """[4, 4] of the robot's base frame in the world's."""
        mujoco.mj_kinematics(self.model.mj, self.data)
        body = self.data.body(self.model.robot.base_frame)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = body.xmat.reshape(3, 3), body.xpos
        return pose

    def things(self) -> dict[str, Thing]:
        """Everything of the scene, by name."""
        result, qpos, qvel = {}, self.data.qpos.copy(), self.data.qvel.copy()
        for name, item in self._items.items():
            at, dof = self._free[name]
            result[name] = Thing(item.kind, item.colour, qpos[at:at + 3], qpos[at + 3:at + 7], qvel[dof:dof + 3])
        return result

    def body(self, name: str) -> int:
        """The number of the body of a thing of the scene, or of one that is always there."""
        return self._bodies[name] if name in self._bodies else self.model.mj.body(name).id

    def drawer(self) -> float:
        """How far the drawer is open, 0 .. 1."""
        return float(self.data.qpos[self._drawer] / world.DRAWER_TRAVEL)

    def in_contact(self, name: str) -> set[str]:
        """Bodies that touch a thing of the scene."""
        mj, body = self.model.mj, self._bodies[name]
        sleep = mujoco.mjtEnableBit.mjENBL_SLEEP  # contacts of what sleeps are otherwise left out
        mj.opt.enableflags &= ~int(sleep)
        mujoco.mj_collision(mj, self.data)
        mj.opt.enableflags |= int(sleep)
        touching = set()
        for contact in self.data.contact[:self.data.ncon]:
            a, b = (int(mj.geom_bodyid[g]) for g in contact.geom)
            if body in (a, b):
                touching.add(mj.body(b if a == body else a).name)
        return touching


class _Neutral:
    """The parts of a model that scenes change, as they were compiled."""

    FIELDS = ("geom_rgba", "geom_friction", "geom_group", "cam_pos", "cam_quat", "light_pos", "light_diffuse")

    def __init__(self, mj: mujoco.MjModel):
        self._mj = mj
        self._values = {field: getattr(mj, field).copy() for field in self.FIELDS}
        self.ambient = mj.vis.headlight.ambient.copy()

    def restore(self) -> None:
        for name, value in self._values.items():
            getattr(self._mj, name)[:] = value


def _yaw_quaternion(yaw: float) -> tuple[float, float, float, float]:
    return math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)
