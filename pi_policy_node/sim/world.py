"""The room around the robot: furniture that stays, and a pool of things that a scene puts down or takes away.

Everything is compiled once. A scene only moves, paints and hides what is here, so that a reset costs no compilation.
Lengths in m, masses in kg. The robot starts at the origin, facing +x, with the table in front of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from pi_policy_node.sim import meshes

# Which geoms touch which: two touch when one's type is in the other's affinity.
WORLD, ROBOT, FLOOR = 1, 2, 4

TABLE = np.array([[0.36, -0.65, 0.0], [0.92, 0.65, 0.70]])  # corners; the top is at z = 0.70
COUNTER = np.array([[-0.60, -2.60, 0.0], [0.60, -2.10, 0.70]])
DRAWER = (0.66, 0.47)  # middle of the drawer's cabinet on the table, x, y
DRAWER_TRAVEL = 0.13
HANDLE = (-0.172, 0.0, 0.055)  # middle of the handle of the closed drawer, from DRAWER on the table's top
PLACES = {  # where the base stands to be there: x, y, yaw
    "table": (0.0, 0.0, 0.0),
    "counter": (0.0, -1.74, -math.pi / 2),
    "dock": (-1.20, 0.90, math.pi / 2),
}
COLOURS = {
    "red": (0.80, 0.07, 0.07), "orange": (0.95, 0.42, 0.03), "yellow": (0.93, 0.78, 0.06), "green": (0.10, 0.52, 0.14),
    "blue": (0.07, 0.20, 0.75), "purple": (0.42, 0.12, 0.58), "white": (0.92, 0.92, 0.90), "black": (0.06, 0.06, 0.07),
}

# One physics for everything that can be grasped: stiff contacts, friction in all directions, no creep under a squeeze.
CONTACT = dict(solref=[0.005, 1.0], solimp=[0.95, 0.99, 0.001, 0.5, 2.0], condim=4)
FRICTION = np.array([0.9, 0.01, 0.0002])  # sliding, torsional (m), rolling (m)
BALL_FRICTION = np.array([0.9, 0.01, 0.0008])
_BOX, _CYLINDER, _SPHERE, _MESH, _PLANE = (getattr(mujoco.mjtGeom, f"mjGEOM_{n}")
                                           for n in ("BOX", "CYLINDER", "SPHERE", "MESH", "PLANE"))


@dataclass(frozen=True)
class Kind:
    """A sort of thing: how many the pool has, the circle it needs on a table, and where its middle is above it."""

    count: int
    radius: float  # m, of the circle around its footprint
    height: float  # m, from what it stands on up to the origin of its body
    container: bool = False
    inside: float = 0.0  # m, how far from the middle of a container still counts as in it


KINDS = {
    "block": Kind(6, 0.030, 0.021),
    "cylinder": Kind(4, 0.020, 0.028),
    "ball": Kind(3, 0.023, 0.023),
    "prism": Kind(3, 0.025, 0.022),
    "brick": Kind(3, 0.045, 0.018),
    "bin": Kind(3, 0.112, 0.0, container=True, inside=0.075),
    "bowl": Kind(2, 0.076, 0.0, container=True, inside=0.065),
    "tray": Kind(2, 0.117, 0.0, container=True, inside=0.075),
    "plate": Kind(2, 0.085, 0.0, container=True, inside=0.075),
}


def slots() -> list[tuple[str, str]]:
    """Every member of the pool: its body's name and its kind."""
    return [(f"{kind}_{i}", kind) for kind, k in KINDS.items() for i in range(k.count)]


def furnish(spec: mujoco.MjSpec) -> None:
    """Adds the room, the furniture and the pool to a model that has only the robot."""
    _textures(spec)
    _room(spec)
    _furniture(spec)
    _drawer(spec)
    _meshes(spec)
    for i, (name, kind) in enumerate(slots()):
        body = spec.worldbody.add_body(name=name, pos=parking(i))
        body.add_freejoint(name=name)
        body.sleep = mujoco.mjtSleepPolicy.mjSLEEP_INIT
        _BUILDERS[kind](_Body(body, 1.0))


def bench(spec: mujoco.MjSpec) -> list[float]:
    """Adds a bench in front of the table for a robot without a base, and says where it stands on it."""
    (x, _, _), (_, _, top) = TABLE
    _static(spec, (x - 0.56, -0.35, 0), (x - 0.01, 0.35, top), (0.42, 0.44, 0.46))
    return [x - 0.24, 0.0, top]


def parking(i: int) -> list[float]:
    """Where slot i of the pool is while no scene uses it: out of the way, asleep, touching nothing."""
    return [20.0 + 0.3 * i, 0.0, 1.0]


class _Body:
    """Adds geoms with the pool's common properties to a body."""

    def __init__(self, body, alpha: float = 1.0, *, colour=(0.8, 0.8, 0.8), **common):
        self.body, self.common = body, {"rgba": [*colour, alpha], "contype": WORLD,
                                        "conaffinity": WORLD | ROBOT | FLOOR, "friction": FRICTION, **CONTACT, **common}

    def add(self, kind, size, pos=(0, 0, 0), **other):
        return self.body.add_geom(type=kind, size=[*size, *[0] * (3 - len(size))], pos=list(pos),
                                  **{**self.common, **other})

    def mesh(self, name: str, **other):
        return self.body.add_geom(type=_MESH, meshname=name, **{**self.common, **other})

    def seen(self, mesh: str):
        """A mesh that is only looked at."""
        return self.mesh(mesh, contype=0, conaffinity=0, mass=0)


# ---------------------------------------------------------------------------------------------- what can be grasped

def _block(b: _Body) -> None:
    b.add(_BOX, [0.021] * 3, mass=0.06)


def _cylinder(b: _Body) -> None:
    b.add(_CYLINDER, [0.020, 0.028], mass=0.06)


def _ball(b: _Body) -> None:
    b.add(_SPHERE, [0.023], mass=0.05, condim=6, friction=BALL_FRICTION)


def _prism(b: _Body) -> None:
    b.mesh("prism", mass=0.06)


def _brick(b: _Body) -> None:
    b.add(_BOX, [0.018, 0.040, 0.018], mass=0.08)


# ---------------------------------------------------------------------------------- what things are put into or onto

def _bin(b: _Body) -> None:
    x, y, h, t = 0.085, 0.072, 0.07, 0.003
    b.add(_BOX, [x, y, t], (0, 0, t), mass=0.3)
    for s in (-1, 1):
        b.add(_BOX, [t, y, h / 2], (s * (x - t), 0, h / 2), mass=0.1)
        b.add(_BOX, [x, t, h / 2], (0, s * (y - t), h / 2), mass=0.1)


def _bowl(b: _Body) -> None:
    b.seen("bowl")
    b.add(_CYLINDER, [0.042, 0.003], (0, 0, 0.003), mass=0.4, rgba=[0, 0, 0, 0])
    sides = 12
    for k in range(sides):  # a ring of staves, leaning outwards
        a = 2 * math.pi * k / sides
        # A stave is as wide as the ring's circumference there; its lean is 45 degrees.
        quat = _turn(a, math.pi / 4)
        b.add(_BOX, [0.003, 0.016, 0.024], (0.058 * math.cos(a), 0.058 * math.sin(a), 0.022), quat=quat, mass=0.01,
              rgba=[0, 0, 0, 0])


def _tray(b: _Body) -> None:
    x, y, h, t = 0.095, 0.068, 0.014, 0.003
    b.add(_BOX, [x, y, t], (0, 0, t), mass=0.4)
    for s in (-1, 1):
        b.add(_BOX, [t, y, h / 2], (s * (x - t), 0, h / 2), mass=0.03)
        b.add(_BOX, [x, t, h / 2], (0, s * (y - t), h / 2), mass=0.03)


def _plate(b: _Body) -> None:
    b.seen("plate")
    b.add(_CYLINDER, [0.082, 0.004], (0, 0, 0.004), mass=0.4, rgba=[0, 0, 0, 0])


_BUILDERS = {"block": _block, "cylinder": _cylinder, "ball": _ball, "prism": _prism, "brick": _brick,
             "bin": _bin, "bowl": _bowl, "tray": _tray, "plate": _plate}


def _turn(yaw: float, pitch: float) -> list[float]:
    """A quaternion: pitch about y, then yaw about z."""
    cy, sy, cp, sp = math.cos(yaw / 2), math.sin(yaw / 2), math.cos(pitch / 2), math.sin(pitch / 2)
    return [cy * cp, -sy * sp, cy * sp, sy * cp]


def _meshes(spec: mujoco.MjSpec) -> None:
    angles = np.arange(6) * math.pi / 3
    flat = 0.0215 / math.cos(math.pi / 6)  # 43 mm across the flats
    ring = np.stack([flat * np.cos(angles), flat * np.sin(angles)], axis=1)
    prism = np.concatenate([np.c_[ring, np.full(6, z)] for z in (-0.022, 0.022)])
    spec.add_mesh(name="prism", uservert=prism.ravel())  # no faces: its convex hull
    # Profiles (radius, height) from the inner bottom over the rim to the outer bottom.
    _lathe(spec, "bowl", [(0, 0.006), (0.040, 0.007), (0.060, 0.024), (0.073, 0.042), (0.076, 0.042), (0.064, 0.022),
                          (0.044, 0.0), (0, 0.0)])
    _lathe(spec, "plate", [(0, 0.008), (0.058, 0.008), (0.083, 0.016), (0.085, 0.015), (0.060, 0.002), (0.055, 0.0),
                           (0, 0.0)])


def _lathe(spec: mujoco.MjSpec, name: str, profile: list[tuple[float, float]], sides: int = 32) -> None:
    """A closed surface of revolution about z."""
    angle = np.arange(sides) * 2 * math.pi / sides
    rings = [np.stack([r * np.cos(angle), r * np.sin(angle), np.full(sides, z)], axis=1) for r, z in profile[1:-1]]
    vertices = np.concatenate([[[0, 0, profile[0][1]]], *rings, [[0, 0, profile[-1][1]]]])
    faces, last = [], len(vertices) - 1
    for k in range(sides):
        n = (k + 1) % sides
        faces.append((0, 1 + k, 1 + n))
        for r in range(len(rings) - 1):
            a, b = 1 + r * sides, 1 + (r + 1) * sides
            faces += [(a + k, b + k, b + n), (a + k, b + n, a + n)]
        top = 1 + (len(rings) - 1) * sides
        faces.append((last, top + n, top + k))
    mesh = spec.add_mesh(name=name, uservert=vertices.ravel(), userface=np.array(faces).ravel())
    mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL


# ------------------------------------------------------------------------------------------------ what stays

def _textures(spec: mujoco.MjSpec) -> None:
    spec.add_texture(name="sky", type=mujoco.mjtTexture.mjTEXTURE_SKYBOX, builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
                     rgb1=[0.75, 0.80, 0.85], rgb2=[0.45, 0.50, 0.58], width=64, height=64)
    _texture(spec, "oak", _planks(np.random.default_rng(1), (0.62, 0.45, 0.29), boards=3), repeat=(1, 1))
    _texture(spec, "parquet", _planks(np.random.default_rng(2), (0.56, 0.52, 0.47), boards=8), repeat=(0.5, 0.5),
             uniform=True)


def _planks(rng: np.random.Generator, colour, *, boards: int, size: int = 256) -> np.ndarray:
    """Wood as an image [size, size, 3]: boards of slightly different tone with grain along them."""
    grain = rng.normal(0, 1, (size, size // 32)).repeat(32, axis=1)
    kernel = np.hanning(33) / np.hanning(33).sum()
    grain = np.apply_along_axis(lambda row: np.convolve(np.r_[row, row, row], kernel, "same")[size:2 * size], 1, grain)
    tone = 1 + 0.035 * grain
    edges = np.linspace(0, size, boards + 1).astype(int)
    for a, b in zip(edges, edges[1:]):
        tone[a:b] *= 1 + 0.05 * rng.normal()
        tone[a] *= 0.72
    return (255 * np.clip(tone[..., None] * np.array(colour), 0, 1)).astype(np.uint8)


def _texture(spec: mujoco.MjSpec, name: str, image: np.ndarray, *, repeat, uniform: bool = False) -> None:
    texture = spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=image.shape[1],
                               height=image.shape[0], nchannel=3)
    texture.data = image.tobytes()
    material = spec.add_material(name=name, texrepeat=list(repeat), texuniform=uniform, specular=0.1, shininess=0.1)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def _static(spec: mujoco.MjSpec, low, high, colour=(1, 1, 1), **other) -> None:
    """A box that never moves, from corner to corner."""
    low, high = np.asarray(low, float), np.asarray(high, float)
    b = _Body(spec.worldbody, colour=colour, conaffinity=WORLD | ROBOT)
    b.add(_BOX, (high - low) / 2, (high + low) / 2, **other)


def _room(spec: mujoco.MjSpec) -> None:
    floor = _Body(spec.worldbody, contype=FLOOR, conaffinity=0)
    floor.add(_PLANE, [3.5, 3.5, 0.1], (-0.2, -0.4, 0), name="floor", material="parquet", rgba=[1, 1, 1, 1],
              group=meshes.PRETTY)
    floor.add(_PLANE, [3.5, 3.5, 0.3], (-0.2, -0.4, 0), contype=0, rgba=[0.56, 0.52, 0.47, 1], group=meshes.FAST)
    seen = dict(contype=0, conaffinity=0)
    for low, high, colour in (((3.0, -3.9, 0), (3.1, 3.1, 2.9), (0.80, 0.79, 0.75)),   # in front of the robot
                              ((-3.8, -3.9, 0), (-3.7, 3.1, 2.9), (0.66, 0.74, 0.77)),  # behind
                              ((-3.7, 3.0, 0), (3.0, 3.1, 2.9), (0.77, 0.72, 0.64)),    # left
                              ((-3.7, -3.9, 0), (3.0, -3.8, 2.9), (0.72, 0.76, 0.69)),  # right
                              ((2.97, -1.1, 1.0), (3.0, 0.1, 1.8), (0.30, 0.42, 0.52)),  # a picture
                              ((-3.7, 0.2, 0), (-3.67, 1.1, 2.0), (0.45, 0.31, 0.22)),  # a door
                              ((-1.65, 0.55, 0.001), (-0.75, 1.25, 0.004), (0.16, 0.36, 0.34))):  # the dock's mat
        _static(spec, low, high, colour, **seen)
    spec.worldbody.add_light(name="lamp", pos=[0.3, 0.4, 2.8], dir=[0.05, -0.1, -1], diffuse=[0.45] * 3,
                             specular=[0.1] * 3, castshadow=True, type=mujoco.mjtLightType.mjLIGHT_SPOT, cutoff=80,
                             exponent=1)
    spec.worldbody.add_light(name="window", pos=[-2.0, 2.0, 2.4], dir=[0.6, -0.45, -0.55], diffuse=[0.32] * 3,
                             specular=[0.05] * 3, castshadow=False, type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL)


def _furniture(spec: mujoco.MjSpec) -> None:
    (x0, y0, _), (x1, y1, top) = TABLE
    _static(spec, (x0, y0, top - 0.035), (x1, y1, top), name="table", material="oak")
    for x in (x0 + 0.05, x1 - 0.05):
        for y in (y0 + 0.05, y1 - 0.05):
            _static(spec, (x - 0.025, y - 0.025, 0), (x + 0.025, y + 0.025, top - 0.035), (0.30, 0.30, 0.32))
    (x0, y0, _), (x1, y1, top) = COUNTER
    _static(spec, (x0, y0, top - 0.03), (x1, y1, top), (0.36, 0.37, 0.40), name="counter")
    _static(spec, (x0 + 0.02, y0 + 0.02, 0.08), (x1 - 0.02, y1 - 0.04, top - 0.03), (0.86, 0.85, 0.80))
    _static(spec, (x0 + 0.04, y0 + 0.04, 0), (x1 - 0.04, y1 - 0.08, 0.08), (0.2, 0.2, 0.2))
    for x in (x0 + (x1 - x0) / 3, x1 - (x1 - x0) / 3):
        _static(spec, (x - 0.002, y1 - 0.042, 0.1), (x + 0.002, y1 - 0.039, top - 0.05), (0.5, 0.5, 0.48),
                contype=0, conaffinity=0)


def _drawer(spec: mujoco.MjSpec) -> None:
    """A cabinet on the table with one drawer that opens towards the robot; its handle is a bar to be gripped."""
    x, y = DRAWER
    z, half, depth, height, t = TABLE[1, 2], 0.095, 0.11, 0.10, 0.005
    cabinet = _Body(spec.worldbody.add_body(name="cabinet", pos=[x, y, z]), colour=(0.85, 0.83, 0.78),
                    conaffinity=WORLD | ROBOT)
    cabinet.add(_BOX, [depth, half, t], (0, 0, t))
    cabinet.add(_BOX, [depth, half, t], (0, 0, height - t))
    cabinet.add(_BOX, [t, half, height / 2], (depth - t, 0, height / 2))
    for s in (-1, 1):
        cabinet.add(_BOX, [depth, t, height / 2], (0, s * (half - t), height / 2))
    body = cabinet.body.add_body(name="drawer")
    body.add_joint(name="drawer", type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[-1, 0, 0], range=[0, DRAWER_TRAVEL],
                   damping=4.0, frictionloss=1.0, armature=0.05, solref_limit=[0.005, 1.0])
    drawer = _Body(body, colour=(0.55, 0.38, 0.24))
    low, w, d, h = 0.014, half - 2 * t - 0.002, depth - 0.008, 0.034
    drawer.add(_BOX, [d, w, 0.003], (-0.004, 0, low), mass=0.2)
    drawer.add(_BOX, [0.003, w, h], (d - 0.008, 0, low + h), mass=0.05)
    for s in (-1, 1):
        drawer.add(_BOX, [d, 0.003, h], (-0.004, s * (w - 0.003), low + h), mass=0.05)
    drawer.add(_BOX, [0.005, half - 2 * t - 0.001, 0.038], (-depth + 0.003, 0, 0.050), mass=0.1)
    grip = dict(rgba=[0.2, 0.2, 0.22, 1])
    for s in (-1, 1):
        drawer.add(_BOX, [0.028, 0.005, 0.006], (-depth - 0.030, s * 0.045, HANDLE[2]), mass=0.01, **grip)
    drawer.add(_BOX, [0.006, 0.050, 0.009], HANDLE, mass=0.02, name="handle", **grip)
