"""The MuJoCo model of a robot in its world, made from the robot's URDF, and where everything is in it."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

import mujoco
import numpy as np

from pi_policy_node.robot import Robot, RobotError
from pi_policy_node.sim import meshes, world

TIMESTEP = 0.002  # s
STIFFNESS = 100.0  # rad/s: the natural frequency of every position-controlled joint, critically damped
GRIP_STIFFNESS = 2500.0  # N/m or Nm/rad: full force once the fingers are 2 cm short of their command
ARMATURE = 0.005  # kg m^2 of rotor, seen through the gears, per Nm of effort; kg per N for prismatic joints
BASE_LAG = 0.005  # s: time constant of the wheels' velocity control
BASE_FORCE = np.array([400.0, 400.0, 120.0])  # N, N, Nm: what the wheels can bring to the floor
# Sliding, torsional (m), rolling (m); of a pad's and a thing's friction the larger counts.
PAD_FRICTION = np.array([0.3, 0.010, 0.0002])
BASE_JOINTS = ("base_x", "base_y", "base_yaw")


@dataclass(frozen=True, eq=False)
class Model:
    """A compiled model and the indices into it. J = joints that are driven by position, in the order of `joints`."""

    robot: Robot
    mj: mujoco.MjModel
    joints: tuple[str, ...]
    qpos: np.ndarray  # [J] index into qpos
    dof: np.ndarray  # [J] index into qvel
    position: np.ndarray  # [J] index into ctrl: the position wanted
    feedforward: np.ndarray  # [J] index into ctrl: the velocity wanted
    base_qpos: np.ndarray  # [3] index into qpos of x, y, yaw; empty where the robot has no base
    base_dof: np.ndarray  # [3]
    base_ctrl: np.ndarray  # [3] velocities wanted, in the world's frame
    published: tuple[str, ...]  # every moving joint of the URDF, as a joint_state_broadcaster would name them
    wheels: dict[str, np.ndarray]  # joint -> [3]: its speed (rad/s) per vx, vy, wz of the base
    home: np.ndarray  # [nq] everything of the robot at its home pose, the pool parked


def build(robot: Robot) -> Model:
    """Compiles the robot's URDF and the world around it."""
    spec, wheels = _robot_spec(robot)
    world.furnish(spec)
    try:
        mj = spec.compile()
        _exclude_resting_contacts(robot, spec, mj)
        _tune(robot, spec, mj)
        mj = spec.compile()
    except (ValueError, mujoco.FatalError) as error:
        raise RobotError(robot.urdf_file, "", f"MuJoCo refuses it: {' '.join(str(error).split())}") from None
    return _index(robot, mj, wheels)


def driven_joints(robot: Robot) -> tuple[str, ...]:
    """The joints that controllers command, in the order of the action's columns."""
    return tuple(joint for group in robot.groups for joint in group.joints)


def _robot_spec(robot: Robot) -> tuple[mujoco.MjSpec, dict[str, np.ndarray]]:
    root = ElementTree.fromstring(robot.urdf(meshes="file"))
    for child in list(root):
        if child.tag not in ("link", "joint", "material"):
            root.remove(child)
    compiler = ElementTree.SubElement(ElementTree.SubElement(root, "mujoco"), "compiler")
    # Links fused away would take the cameras' and tools' frames with them.
    compiler.attrib.update(fusestatic="false", discardvisual="false", strippath="false", balanceinertia="true")
    try:
        spec = mujoco.MjSpec.from_string(ElementTree.tostring(root, encoding="unicode"))
    except (ValueError, mujoco.FatalError) as error:
        raise RobotError(robot.urdf_file, "", f"MuJoCo refuses it: {' '.join(str(error).split())}") from None
    _options(spec)
    base = spec.body(robot.base_frame)
    if base is None:
        raise RobotError(robot.urdf_file, robot.base_frame, "is not a body of the model")
    visuals = []
    for body in _bodies(base):
        body.gravcomp = 1.0
        for geom in body.geoms:
            if geom.contype:  # a collision shape; URDF visuals come with contype 0
                geom.contype, geom.conaffinity, geom.group = world.ROBOT, world.WORLD | world.ROBOT, meshes.COLLISION
                geom.condim = 3
            else:
                geom.group = meshes.ALWAYS
                visuals.append(geom)
    meshes.add_coarse_copies(spec, visuals)
    _grip(robot, spec)
    wheels = _wheels(robot, spec)
    for joint in spec.joints:
        if joint.name in driven_joints(robot):
            joint.armature = ARMATURE * max(1.0, float(joint.actfrcrange[1]))
    if any(group.kind == "base" for group in robot.groups):
        for name, kind, axis in zip(BASE_JOINTS, ("SLIDE", "SLIDE", "HINGE"), np.eye(3)[[0, 1, 2]]):
            base.add_joint(name=name, type=getattr(mujoco.mjtJoint, f"mjJNT_{kind}"), axis=axis)
    else:
        base.pos = world.bench(spec)
    for body in _roots(base):
        body.sleep = mujoco.mjtSleepPolicy.mjSLEEP_NEVER  # it must feel its commands
    for camera in robot.cameras:
        # A camera of MuJoCo looks along -z with +y up; an optical frame has z forward and y down.
        spec.body(camera.frame).add_camera(name=camera.name, quat=[0, 1, 0, 0], fovy=math.degrees(camera.fov))
    return spec, wheels


def _options(spec: mujoco.MjSpec) -> None:
    option = spec.option
    option.timestep = TIMESTEP
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10.0  # friction as stiff as the normal force: what is held does not creep
    # Newton's method, MuJoCo's own choice, at times threw what a finger touched at 100 m/s, or came apart.
    option.solver, option.tolerance = mujoco.mjtSolver.mjSOL_CG, 1e-10
    option.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP  # what lies still costs nothing
    spec.visual.global_.offwidth, spec.visual.global_.offheight = 1920, 1080
    spec.visual.quality.shadowsize = 2048
    spec.visual.headlight.ambient = [0.42] * 3
    spec.visual.headlight.diffuse = [0.18] * 3
    spec.visual.headlight.specular = [0.05] * 3
    spec.visual.map.shadowscale = 0.9
    spec.visual.map.znear, spec.visual.map.zfar = 0.01, 30.0
    spec.stat.extent, spec.stat.center = 1.0, [0.4, 0.0, 0.6]


def _bodies(body):
    yield body
    for child in body.bodies:
        yield from _bodies(child)


def _roots(body):
    """The first bodies with joints on every branch."""
    if list(body.joints):
        yield body
    else:
        for child in body.bodies:
            yield from _roots(child)


def _grip(robot: Robot, spec: mujoco.MjSpec) -> None:
    """Rubber on the fingers, and a stiff coupling between them."""
    for equality in spec.equalities:  # the URDF's mimic joints
        equality.solref[:2], equality.solimp[:3] = [2 * TIMESTEP, 1.0], [0.99, 0.999, 0.0005]
    for group in robot.groups:
        if group.gripper is None:
            continue
        for name in (*group.joints, *(mimic[0] for mimic in group.gripper.mimic)):
            joint = spec.joint(name)
            joint.damping = np.full_like(joint.damping, max(float(np.max(joint.damping)), 5.0))
            for geom in (g for body in _bodies(joint.parent) for g in body.geoms if g.contype):
                geom.friction, geom.condim = PAD_FRICTION, 4
                geom.solref, geom.solimp = world.CONTACT["solref"], world.CONTACT["solimp"]


def _wheels(robot: Robot, spec: mujoco.MjSpec) -> dict[str, np.ndarray]:
    """Takes the wheels' joints out (the base moves on its own) and says how fast they would turn, as mecanum wheels."""
    wheels = {}
    driven = {*driven_joints(robot), *(m[0] for g in robot.groups if g.gripper for m in g.gripper.mimic)}
    for joint in list(spec.joints):
        body = joint.parent
        if joint.name in driven or joint.type != mujoco.mjtJoint.mjJNT_HINGE or joint.limited == 1:
            continue
        if np.any(np.asarray(joint.range)):
            continue
        x, y, radius = body.pos
        if radius > 0:
            wheels[joint.name] = np.array([1.0, -np.sign(x * y), -np.sign(y) * (abs(x) + abs(y))]) / radius
        for geom in body.geoms:
            geom.contype = geom.conaffinity = 0
        spec.delete(joint)
    return wheels


def _exclude_resting_contacts(robot: Robot, spec: mujoco.MjSpec, mj: mujoco.MjModel) -> None:
    """Neighbouring shapes of a description often overlap; those that do at home would push against each other."""
    data = mujoco.MjData(mj)
    for joint, value in robot.joints(robot.home).items():
        data.qpos[mj.joint(joint).qposadr[0]] = value
    mujoco.mj_forward(mj, data)
    pairs = set()
    for contact in data.contact[:data.ncon]:
        if all(mj.geom_contype[g] == world.ROBOT for g in contact.geom):
            pairs.add(tuple(sorted(int(mj.geom_bodyid[g]) for g in contact.geom)))
    for a, b in sorted(pairs):
        spec.add_exclude(bodyname1=mj.body(a).name, bodyname2=mj.body(b).name)


def _tune(robot: Robot, spec: mujoco.MjSpec, mj: mujoco.MjModel) -> None:
    """Adds the drives. Gains follow from the inertia each joint carries, so that all answer alike."""
    fixed_gain, affine = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE

    def drive(name: str, joint: str, gain: float, bias: list[float], force: float | None = None) -> None:
        actuator = spec.add_actuator(name=name, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT, gaintype=fixed_gain,
                                     biastype=affine)
        actuator.gainprm[0] = gain
        actuator.biasprm[:3] = bias
        if force is not None:
            actuator.forcerange, actuator.forcelimited = [-force, force], 1

    for group in robot.groups:
        for joint in group.joints:
            inertia = float(mj.dof_M0[mj.joint(joint).dofadr[0]])
            # The joint's own force limit (the URDF's effort) bounds the sum of both.
            kp = GRIP_STIFFNESS if group.gripper else inertia * STIFFNESS**2
            kd = 2 * math.sqrt(kp * inertia)
            drive(f"{joint}:position", joint, kp, [0, -kp, 0])
            drive(f"{joint}:velocity", joint, kd, [0, 0, -kd])
    if any(group.kind == "base" for group in robot.groups):
        for name, force in zip(BASE_JOINTS, BASE_FORCE):
            kd = float(mj.dof_M0[mj.joint(name).dofadr[0]]) / BASE_LAG
            drive(name, name, kd, [0, 0, -kd], float(force))


def _index(robot: Robot, mj: mujoco.MjModel, wheels: dict[str, np.ndarray]) -> Model:
    joints = driven_joints(robot)

    def of(names, kind: str, field: str) -> np.ndarray:
        if field == "id":
            return np.array([getattr(mj, kind)(name).id for name in names], int)
        return np.array([getattr(getattr(mj, kind)(name), field)[0] for name in names], int)

    base = BASE_JOINTS if any(group.kind == "base" for group in robot.groups) else ()
    home = mj.qpos0.copy()
    for joint, value in robot.joints(robot.home).items():
        home[mj.joint(joint).qposadr[0]] = value
    mimic = tuple(m[0] for g in robot.groups if g.gripper for m in g.gripper.mimic)
    return Model(
        robot=robot, mj=mj, joints=joints,
        qpos=of(joints, "joint", "qposadr"), dof=of(joints, "joint", "dofadr"),
        position=of([f"{j}:position" for j in joints], "actuator", "id"),
        feedforward=of([f"{j}:velocity" for j in joints], "actuator", "id"),
        base_qpos=of(base, "joint", "qposadr"), base_dof=of(base, "joint", "dofadr"),
        base_ctrl=of(base, "actuator", "id"),
        published=(*joints, *mimic, *wheels), wheels=wheels, home=home,
    )
