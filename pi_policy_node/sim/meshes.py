"""Coarse copies of a robot's visual meshes: drawing on the CPU costs by the vertex, and CAD has many."""

from __future__ import annotations

import mujoco
import numpy as np

CELLS = 10  # a mesh is reduced to what differs on a grid with that many cells along its longest side ...
FINEST, COARSEST = 0.004, 0.020  # m ... of at least and at most this size
FEW = 400  # triangles of a mesh that is left as it is
ALWAYS, PRETTY, FAST, COLLISION, HIDDEN = 0, 1, 2, 3, 5  # groups of geoms, by which pictures they are drawn in


def add_coarse_copies(spec: mujoco.MjSpec, geoms: list) -> None:
    """Each of these geoms is drawn in pretty pictures only from now on; a coarse copy of it in fast ones."""
    if not geoms:
        return
    mj = spec.copy().compile()
    made: set[str] = set()
    for geom in geoms:
        if geom.type != mujoco.mjtGeom.mjGEOM_MESH or mj.mesh(geom.meshname).facenum[0] <= FEW:
            continue
        name = f"{geom.meshname}:coarse"
        if name not in made:
            made.add(name)
            vertices, faces = coarsen(*_vertices(mj, geom.meshname))
            mesh = spec.add_mesh(name=name, uservert=vertices.ravel(), userface=faces.ravel())
            mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
        geom.group = PRETTY
        geom.parent.add_geom(type=geom.type, meshname=name, pos=geom.pos, quat=geom.quat, rgba=geom.rgba, group=FAST,
                             contype=0, conaffinity=0, mass=0)


def coarsen(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [V, 3] and faces [F, 3] with all vertices of a grid cell merged into their mean."""
    low, extent = vertices.min(axis=0), float(np.ptp(vertices, axis=0).max())
    cell = np.clip(extent / CELLS, FINEST, COARSEST)
    _, merged = np.unique(np.floor((vertices - low) / cell).astype(int), axis=0, return_inverse=True)
    merged = merged.ravel()
    count = np.bincount(merged)
    means = np.stack([np.bincount(merged, weights=vertices[:, axis]) / count for axis in range(3)], axis=1)
    kept = merged[faces]
    kept = kept[(kept[:, 0] != kept[:, 1]) & (kept[:, 1] != kept[:, 2]) & (kept[:, 2] != kept[:, 0])]
    _, first = np.unique(np.sort(kept, axis=1), axis=0, return_index=True)
    kept = kept[first]
    return (means, kept) if len(kept) >= 4 else (vertices, faces)


def _vertices(mj: mujoco.MjModel, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A compiled mesh as it was in its file: compiling moves it into its frame of inertia."""
    mesh = mj.mesh(name)
    at, count = mesh.vertadr[0], mesh.vertnum[0]
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, mj.mesh_quat[mesh.id])
    vertices = mj.mesh_vert[at:at + count] @ rotation.reshape(3, 3).T + mj.mesh_pos[mesh.id]
    return vertices.astype(float), mj.mesh_face[mesh.faceadr[0]:mesh.faceadr[0] + mesh.facenum[0]]
