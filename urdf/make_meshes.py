#!/usr/bin/env python3
"""Draws the visual meshes in urdf/meshes: python3 urdf/make_meshes.py. numpy only; collision shapes are primitives.

Everything is a loft: closed outlines in parallel planes, skinned. Units: m. Frames: those of the links that wear them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

Mesh = np.ndarray  # [n, 3, 3] triangles, corners counter-clockwise seen from outside
FOLDER = Path(__file__).parent / "meshes"
SIDES = 32  # corners of an outline
BEVEL = 4  # outlines of a rounded edge


# Outlines: [SIDES, 2], counter-clockwise.


def circle(radius: float) -> np.ndarray:
    return ellipse(radius, radius)


def ellipse(a: float, b: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, SIDES, endpoint=False)
    return np.stack([a * np.cos(angle), b * np.sin(angle)], axis=1)


def rectangle(width: float, height: float, radius: float) -> np.ndarray:
    """With corners of this radius; a quarter of the SIDES at each corner."""
    radius = min(radius, width / 2 - 1e-5, height / 2 - 1e-5)
    angle = np.linspace(0, np.pi / 2, SIDES // 4)
    corners = []
    for quarter, (sx, sy) in enumerate([(1, 1), (-1, 1), (-1, -1), (1, -1)]):
        at = angle + quarter * np.pi / 2
        middle = [sx * (width / 2 - radius), sy * (height / 2 - radius)]
        corners.append(middle + radius * np.stack([np.cos(at), np.sin(at)], axis=1))
    return np.concatenate(corners)


def stadium(length: float, start: float, end: float) -> np.ndarray:
    """Round ends of radius `start` at the origin and `end` at (length, 0), joined by straight flanks."""
    half = np.linspace(-np.pi / 2, np.pi / 2, SIDES // 2)
    right = np.stack([length + end * np.cos(half), end * np.sin(half)], axis=1)
    left = np.stack([-start * np.cos(half), -start * np.sin(half)], axis=1)
    return np.concatenate([right, left])


# Solids.


def loft(outlines: list[np.ndarray], heights: list[float]) -> Mesh:
    """Skin the outlines, each at its height along z, and close both ends."""
    rings = np.stack([np.column_stack([o, np.full(len(o), z)]) for o, z in zip(outlines, heights)])
    ahead = np.roll(rings, -1, axis=1)
    a, b, c, d = rings[:-1], ahead[:-1], ahead[1:], rings[1:]
    skin = [np.stack(corners, axis=2).reshape(-1, 3, 3) for corners in ((a, b, c), (a, c, d))]
    lids = []
    for ring, up in ((rings[0], False), (rings[-1], True)):
        centre = np.broadcast_to(ring.mean(axis=0), ring.shape)
        first, second = (ring, np.roll(ring, -1, axis=0)) if up else (np.roll(ring, -1, axis=0), ring)
        lids.append(np.stack([centre, first, second], axis=1))
    return np.concatenate([*skin, *lids])


def slab(outline: Callable[[float], np.ndarray], bottom: float, top: float, bevel: float) -> Mesh:
    """Extrude outline(inset) from bottom to top with rounded edges; inset shrinks the outline by that much."""
    angle = np.linspace(0, np.pi / 2, BEVEL)
    inset, rise = bevel * (1 - np.sin(angle)), bevel * (1 - np.cos(angle))
    outlines = [outline(i) for i in inset] + [outline(i) for i in inset[::-1]]
    return loft(outlines, [*(bottom + rise), *(top - rise[::-1])])


def box(width: float, depth: float, bottom: float, top: float, corner: float, bevel: float) -> Mesh:
    return slab(lambda i: rectangle(width - 2 * i, depth - 2 * i, max(corner - i, 1e-4)), bottom, top, bevel)


def drum(radius: float, bottom: float, top: float, bevel: float) -> Mesh:
    return slab(lambda i: circle(radius - i), bottom, top, bevel)


def lathe(profile: list[tuple[float, float]]) -> Mesh:
    """Turn (radius, height) pairs about z, from the bottom up."""
    return loft([circle(radius) for radius, _ in profile], [height for _, height in profile])


def cheek(length: float, start: float, end: float, bottom: float, top: float) -> Mesh:
    return slab(lambda i: stadium(length, start - i, end - i), bottom, top, 0.004)


def tube(stations: list[tuple[float, float, float, float]]) -> Mesh:
    """A shell along z: stations of (height, width in x, width in y, corner radius), eased between."""
    table = np.array(stations)
    at = np.arange(len(table))
    fine = np.linspace(0, len(table) - 1, 4 * (len(table) - 1) + 1)
    z, x, y, r = (np.interp(fine, at, column) for column in table.T)
    return loft([rectangle(a, b, c) for a, b, c in zip(x, y, r)], list(z))


# Placing.


def move(mesh: Mesh, x: float = 0, y: float = 0, z: float = 0) -> Mesh:
    return mesh + [x, y, z]


def turn(mesh: Mesh, axis: str, angle: float) -> Mesh:
    c, s = np.cos(angle), np.sin(angle)
    i = "xyz".index(axis)
    j, k = (i + 1) % 3, (i + 2) % 3
    turned = mesh.copy()
    turned[..., j], turned[..., k] = c * mesh[..., j] - s * mesh[..., k], s * mesh[..., j] + c * mesh[..., k]
    return turned


def along_x(mesh: Mesh) -> Mesh:
    """z becomes x, x becomes -z."""
    return turn(mesh, "y", np.pi / 2)


def along_y(mesh: Mesh) -> Mesh:
    """z becomes y, y becomes -z."""
    return turn(mesh, "x", -np.pi / 2)


def both(mesh: Mesh) -> Mesh:
    """The mesh and its mirror image across y = 0."""
    return np.concatenate([mesh, (mesh * [1, -1, 1])[:, ::-1]])


def join(*meshes: Mesh) -> Mesh:
    return np.concatenate(meshes)


# The robot.


def base() -> dict[str, Mesh]:
    hull = join(
        box(0.56, 0.37, 0.045, 0.215, 0.05, 0.02),
        slab(lambda i: rectangle(0.60 - 2 * i, 0.50 - 2 * i, 0.11 - i), 0.185, 0.272, 0.022),
    )
    trim = join(
        box(0.50, 0.40, 0.262, 0.280, 0.08, 0.005),  # deck
        box(0.585, 0.34, 0.050, 0.105, 0.05, 0.012),  # bumper
        slab(lambda i: rectangle(0.594 - 2 * i, 0.494 - 2 * i, 0.107 - i), 0.178, 0.192, 0.004),  # shadow gap
    )
    light = slab(lambda i: rectangle(0.606 - 2 * i, 0.506 - 2 * i, 0.113 - i), 0.214, 0.222, 0.002)
    mushroom = [
        (0.022, 0.0),
        (0.022, 0.012),
        (0.012, 0.013),
        (0.012, 0.022),
        (0.021, 0.024),
        (0.021, 0.032),
        (0.014, 0.038),
    ]
    button = move(lathe(mushroom), -0.235, 0.0, 0.275)
    return {"base_hull": hull, "base_trim": trim, "base_light": light, "base_button": button}


def wheel(slant: float) -> tuple[Mesh, Mesh]:
    """Rim and rollers of a mecanum wheel about y. slant: of the uppermost roller's axis, from y, about z."""
    count, radius, waist, end, reach = 10, 0.0762, 0.0155, 0.0105, 0.019
    profile = [(0.056, 0.019), (0.060, 0.021), (0.060, 0.024), (0.030, 0.025), (0.026, 0.029), (0.010, 0.030)]
    rim = join(both(along_y(lathe(profile))), along_y(drum(0.042, -0.021, 0.021, 0.002)))
    along = np.linspace(-1, 1, 7)
    barrel = loft([circle(end + (waist - end) * (1 - t * t))[::4] for t in along], list(along * reach / np.cos(slant)))
    uppermost = move(turn(along_y(barrel), "z", slant), z=radius - waist)
    return rim, join(*[turn(uppermost, "y", 2 * np.pi * i / count) for i in range(count)])


def column() -> dict[str, Mesh]:
    post = join(box(0.11, 0.15, 0.0, 1.09, 0.03, 0.004), box(0.20, 0.22, 0.0, 0.018, 0.05, 0.006))
    rails = both(move(box(0.012, 0.022, 0.04, 1.02, 0.003, 0.002), 0.056, 0.045))
    head = box(0.20, 0.24, 1.075, 1.165, 0.07, 0.03)
    visor = box(0.204, 0.20, 1.100, 1.136, 0.05, 0.01)
    return {"column_post": post, "column_rails": rails, "column_head": head, "column_visor": visor}


def stand() -> dict[str, Mesh]:
    """What the single arm and its camera stand on."""
    post = move(join(drum(0.016, 0.015, 0.80, 0.004), drum(0.030, 0.018, 0.032, 0.003)), -0.22)
    clamp = move(along_x(drum(0.014, -0.004, 0.020, 0.002)), -0.22, 0, 0.785)
    return {"stand_plate": move(box(0.40, 0.26, 0.0, 0.020, 0.04, 0.005), -0.08), "stand_post": join(post, clamp)}


def carriage() -> dict[str, Mesh]:
    block = join(
        move(box(0.05, 0.18, -0.085, 0.15, 0.015, 0.008), 0.032),
        both(move(drum(0.068, 0.030, 0.0405, 0.003), 0.13, 0.20)),
        move(box(0.12, 0.12, -0.06, 0.0, 0.03, 0.02), 0.09),
    )
    beam = turn(slab(lambda i: rectangle(0.062 - 2 * i, 0.12 - 2 * i, 0.024 - i), -0.275, 0.275, 0.02), "x", -np.pi / 2)
    beam = move(turn(beam, "y", np.pi / 2), 0.12, 0, 0.007)
    return {"carriage_block": block, "carriage_beam": beam}


def arm() -> dict[str, Mesh]:
    upper, roll, wrist = 0.30, 0.15, 0.14  # as in arm.xacro
    flange = lathe([(0.062, 0.0), (0.064, 0.002), (0.064, 0.012), (0.056, 0.016), (0.053, 0.040), (0.053, 0.0585)])

    turret = join(
        lathe([(0.050, 0.001), (0.054, 0.004), (0.054, 0.016), (0.045, 0.022)]),
        both(upright(cheek(0.012, 0.044, 0.047, 0.035, 0.054), 0.06)),
    )
    turret_caps = both(move(along_y(drum(0.030, 0.052, 0.059, 0.003)), z=0.06))

    shell2 = tube(
        [
            (-0.036, 0.030, 0.040, 0.01),
            (-0.026, 0.064, 0.060, 0.026),
            (0.000, 0.080, 0.066, 0.03),
            (0.050, 0.080, 0.068, 0.032),
            (0.150, 0.064, 0.062, 0.03),
            (0.250, 0.066, 0.060, 0.03),
            (upper, 0.066, 0.058, 0.028),
            (upper + 0.018, 0.052, 0.050, 0.02),
            (upper + 0.025, 0.026, 0.036, 0.01),
        ]
    )
    drums2 = join(
        along_y(drum(0.037, -0.0345, 0.0345, 0.003)),
        move(along_y(drum(0.033, -0.0335, 0.0335, 0.003)), z=upper),
        move(box(0.070, 0.066, 0.142, 0.158, 0.03, 0.004), 0),
    )

    fore = along_x(
        tube([
            (0.040, 0.050, 0.084, 0.02),
            (0.050, 0.070, 0.094, 0.025),
            (0.075, 0.078, 0.096, 0.034),
            (0.120, 0.074, 0.080, 0.036),
            (roll - 0.004, 0.072, 0.072, 0.0359),
        ])
    )
    shell3 = join(fore, both(lying(cheek(0.062, 0.036, 0.034, 0.0345, 0.049))))
    caps3 = join(
        both(along_y(drum(0.025, 0.047, 0.054, 0.003))),
        along_x(drum(0.0345, roll - 0.006, roll + 0.003, 0.002)),
    )

    shell4 = join(
        along_x(tube([
            (0.006, 0.070, 0.070, 0.0349),
            (0.030, 0.070, 0.070, 0.0349),
            (0.070, 0.064, 0.074, 0.03),
            (0.092, 0.056, 0.076, 0.022),
            (0.100, 0.046, 0.072, 0.016),
        ])),
        both(move(lying(cheek(0.052, 0.024, 0.027, 0.0265, 0.0385)), wrist - 0.052)),
    )
    caps4 = both(move(along_y(drum(0.019, 0.0375, 0.043, 0.0025)), wrist))

    wrist5 = join(
        along_y(drum(0.025, -0.026, 0.026, 0.003)),
        along_x(tube([
            (0.0, 0.040, 0.046, 0.012),
            (0.020, 0.046, 0.050, 0.02),
            (0.036, 0.058, 0.058, 0.0289),
            (0.047, 0.058, 0.058, 0.0289),
        ])),
    )

    hand = along_x(
        tube([
            (0.008, 0.044, 0.056, 0.02),
            (0.014, 0.054, 0.100, 0.024),
            (0.020, 0.058, 0.120, 0.024),
            (0.044, 0.058, 0.124, 0.016),
            (0.049, 0.052, 0.118, 0.012),
        ])
    )
    rail = join(
        along_x(drum(0.030, 0.001, 0.012, 0.002)),
        along_x(box(0.036, 0.122, 0.046, 0.0545, 0.006, 0.002)),
        # The bracket of the wrist camera.
        move(box(0.014, 0.026, 0.020, 0.064, 0.004, 0.002), 0.010),
    )

    blade = along_x(
        loft(
            [rectangle(0.036, 0.020, 0.004), rectangle(0.036, 0.020, 0.004), rectangle(0.022, 0.0125, 0.003),
             rectangle(0.022, 0.0125, 0.003), rectangle(0.020, 0.008, 0.003), rectangle(0.016, 0.005, 0.002)],
            [0.001, 0.013, 0.024, 0.045, 0.066, 0.070],
        )
    )  # fmt: skip
    # The inner face stays in one plane while the outer one tapers: shear by the half thickness.
    stations, half = [0.013, 0.024, 0.045, 0.066, 0.070], [0.0125, 0.0088, 0.0088, 0.0065, 0.005]
    blade[..., 1] += np.interp(blade[..., 0], stations, half)
    pad = move(along_x(box(0.019, 0.003, 0.028, 0.068, 0.001, 0.0008)), y=0.002)
    return {
        "arm_base": flange,
        "arm_link1": turret,
        "arm_link1_caps": turret_caps,
        "arm_link2": shell2,
        "arm_link2_drums": drums2,
        "arm_link3": shell3,
        "arm_link3_caps": caps3,
        "arm_link4": shell4,
        "arm_link4_caps": caps4,
        "arm_link5": wrist5,
        "hand": hand,
        "hand_rail": rail,
        "finger": blade,
        "finger_pad": pad,
    }


def upright(plate: Mesh, height: float) -> Mesh:
    """A cheek stood up: its thickness along y, its end `start` at z = height, the rest below."""
    return np.stack([plate[..., 1], plate[..., 2], height - plate[..., 0]], axis=-1)[:, ::-1]


def lying(plate: Mesh) -> Mesh:
    """A cheek laid along x: its thickness along y."""
    return np.stack([plate[..., 0], plate[..., 2], -plate[..., 1]], axis=-1)


def cameras() -> dict[str, Mesh]:
    meshes = {}
    for name, width, lenses in (
        ("camera_wide", 0.090, [(0.0085, 0.0), (0.006, 0.026), (0.006, -0.026)]),
        ("camera_small", 0.042, [(0.0075, 0.008), (0.005, -0.010)]),
    ):
        meshes[name] = along_x(box(0.025, width, -0.024, -0.001, 0.0115, 0.004))
        meshes[f"{name}_lens"] = join(*[move(along_x(drum(radius, -0.004, 0.0, 0.001)), y=y) for radius, y in lenses])
    return meshes


def write(name: str, mesh: Mesh) -> int:
    """Binary STL."""
    normals = np.cross(mesh[:, 1] - mesh[:, 0], mesh[:, 2] - mesh[:, 0])
    area = np.linalg.norm(normals, axis=1)
    mesh, normals = mesh[area > 1e-12], (normals[area > 1e-12].T / area[area > 1e-12]).T
    records = np.zeros(len(mesh), dtype=[("data", "<f4", (4, 3)), ("spare", "<u2")])
    records["data"] = np.concatenate([normals[:, None], mesh], axis=1)
    data = name.encode().ljust(80) + struct.pack("<I", len(mesh)) + records.tobytes()
    (FOLDER / f"{name}.stl").write_bytes(data)
    return len(data)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    meshes = base() | column() | carriage() | stand() | arm() | cameras()
    # Seen from above the rollers form an X: those of the front left and the rear right wheel are alike.
    for name, slant in (("a", -np.pi / 4), ("b", np.pi / 4)):
        meshes["wheel_rim"], meshes[f"wheel_rollers_{name}"] = wheel(slant)
    total = sum(write(name, mesh) for name, mesh in meshes.items())
    print(f"{len(meshes)} meshes, {total / 1e6:.2f} MB in {FOLDER}")


if __name__ == "__main__":
    main()
