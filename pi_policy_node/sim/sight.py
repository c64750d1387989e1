"""Whether a camera sees a thing, or something stands before it: by rays, which cost far less than a picture."""

from __future__ import annotations

import mujoco
import numpy as np

from pi_policy_node.sim import meshes
from pi_policy_node.sim.physics import Physics

LEAST = 2  # of the nine rays must arrive
_SHOWN = np.array([group in (meshes.ALWAYS, meshes.FAST) for group in range(mujoco.mjNGROUP)], np.uint8)
_BESIDE = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)], float)


def sees(physics: Physics, camera: str, points: np.ndarray, reach: np.ndarray, bodies: np.ndarray) -> np.ndarray:
    """bool [N]: whether what a camera sees within reach [N] m of points [N, 3] of the world is these bodies [N].

    Wherever the picture ends: what is behind the camera, or beside the picture, may be seen as well.
    """
    mj, data = physics.model.mj, physics.data
    at, turn = data.camera(camera).xpos, data.camera(camera).xmat.reshape(3, 3)
    housing = mj.body_parentid[mj.camera(camera).bodyid[0]]  # which pictures are too near to show
    ways = points[:, None] + reach[:, None, None] * (_BESIDE @ turn[:, :2].T) - at
    ways = ways.reshape(-1, 3)
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    geoms, far = np.full(len(ways), -1, np.int32), np.zeros(len(ways))
    mujoco.mj_multiRay(mj, data, at, ways.ravel(), _SHOWN, True, housing, geoms, far, None, len(ways),
                        mujoco.mjMAXVAL)
    met = np.where(geoms >= 0, mj.geom_bodyid[geoms], -1).reshape(-1, len(_BESIDE))
    return (met == bodies[:, None]).sum(1) >= LEAST
