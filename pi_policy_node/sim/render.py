"""Pictures of the simulated world: the robot's cameras, cheaply; a free camera, prettily."""

from __future__ import annotations

import math
from collections.abc import Mapping

import mujoco
import numpy as np

from pi_policy_node.sim import meshes
from pi_policy_node.sim.model import Model

Size = tuple[int, int] | Mapping[str, tuple[int, int]] | None  # (h, w) of all cameras, or by camera


class Renderer:
    """An OpenGL context of its own. Make it, use it and close it in one thread.

    pretty: shadows, reflections and smooth edges, some twenty times as slow.
    """

    def __init__(self, model: Model, *, width: int = 640, height: int = 480, pretty: bool = False):
        mj = model.mj
        self._model = model
        self._gl = mujoco.GLContext(width, height)
        self._gl.make_current()
        mj.vis.quality.offsamples = 8 if pretty else 0  # read when the context is made
        mj.vis.quality.shadowsize = 4096 if pretty else 0
        mj.vis.quality.numquads = 4 if pretty else 1
        mj.vis.quality.numslices, mj.vis.quality.numstacks = (48, 24) if pretty else (16, 8)
        mj.vis.global_.offwidth, mj.vis.global_.offheight = width, height
        self._context = mujoco.MjrContext(mj, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(mj, maxgeom=500)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX"):  # on the CPU the sky alone takes as long as all the rest
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = pretty
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[[meshes.ALWAYS, meshes.PRETTY if pretty else meshes.FAST]] = 1
        self._perturb = mujoco.MjvPerturb()
        self._size = height, width
        self._views = [_fixed(mj.camera(camera.name).id) for camera in model.robot.cameras]
        self._endless = mj.geom_type == mujoco.mjtGeom.mjGEOM_PLANE

    def cameras(self, data: mujoco.MjData, names, size: Size = None) -> dict[str, np.ndarray]:
        """Images uint8 [h, w, 3] of the robot's cameras, each in its own size where `size` has none for it.

        The robot's first camera carries the headlight for all of them: the light must not move with the hands.
        """
        images, mj = {}, self._model.mj
        groups = mj.geom_group.copy()
        try:
            for camera, view in zip(self._model.robot.cameras, self._views):
                if camera.name in names:
                    shape = size_of(camera, size)
                    mj.geom_group[:] = np.where(self._in_sight(data, view.fixedcamid, shape), groups, meshes.HIDDEN)
                    images[camera.name] = self._render(data, view, shape, light=self._views[0])
        finally:
            mj.geom_group[:] = groups
        return images

    def _in_sight(self, data: mujoco.MjData, camera: int, size: tuple[int, int]) -> np.ndarray:
        """Geoms whose box reaches into a camera's pyramid of sight: drawing costs by the vertex."""
        mj, turn = self._model.mj, data.geom_xmat.reshape(-1, 3, 3)
        up = math.tan(math.radians(mj.cam_fovy[camera]) / 2)
        across = up * size[1] / size[0]
        sides = np.array([[1, 0, across], [-1, 0, across], [0, 1, up], [0, -1, up], [0, 0, 1]])  # outwards; looks at -z
        sides = sides @ data.cam_xmat[camera].reshape(3, 3).T  # [5, 3] in the world's frame
        middle = data.geom_xpos - data.cam_xpos[camera] + (turn @ mj.geom_aabb[:, :3, None])[:, :, 0]
        reach = np.abs(sides @ turn) @ mj.geom_aabb[:, 3:, None]  # [geoms, 5, 1]
        return ((sides @ middle.T).T < reach[:, :, 0]).all(axis=1) | self._endless

    def free(self, data: mujoco.MjData, size: tuple[int, int], *, lookat=(0.45, 0.0, 0.65), distance: float = 2.6,
             azimuth: float = 150.0, elevation: float = -22.0) -> np.ndarray:
        """An image uint8 [h, w, 3] from anywhere; angles in degrees."""
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FREE
        view.lookat[:], view.distance, view.azimuth, view.elevation = lookat, distance, azimuth, elevation
        return self._render(data, view, size, light=view)

    def _render(self, data, view, size, *, light) -> np.ndarray:
        """light: the camera that carries the headlight."""
        height, width = size
        if height > self._size[0] or width > self._size[1]:
            raise ValueError(f"this renderer is for at most {self._size[1]}x{self._size[0]}, not {width}x{height}")
        self._gl.make_current()
        mj = self._model.mj
        mujoco.mjv_updateScene(mj, data, self._option, self._perturb, light, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        mujoco.mjv_updateCamera(mj, data, view, self._scene)
        rectangle = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(rectangle, self._scene, self._context)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, rectangle, self._context)
        return image[::-1]

    def close(self) -> None:
        self._context.free()
        self._gl.free()


def size_of(camera, size: Size) -> tuple[int, int]:
    """(h, w) of a camera's images."""
    given = size.get(camera.name) if isinstance(size, Mapping) else size
    return given or (camera.height, camera.width)


def _fixed(camera: int) -> mujoco.MjvCamera:
    view = mujoco.MjvCamera()
    view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
    return view
