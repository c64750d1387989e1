"""Pictures of the simulated world: the robot's cameras, cheaply; a free camera, prettily."""

from __future__ import annotations

import mujoco
import numpy as np

from pi_policy_node.sim import meshes
from pi_policy_node.sim.model import Model


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

    def cameras(self, data: mujoco.MjData, names, size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
        """Images uint8 [h, w, 3] of the robot's cameras, each in its own size, or all in `size` (h, w)."""
        images = {}
        for camera in self._model.robot.cameras:
            if camera.name in names:
                view = mujoco.MjvCamera()
                view.type = mujoco.mjtCamera.mjCAMERA_FIXED
                view.fixedcamid = self._model.mj.camera(camera.name).id
                images[camera.name] = self._render(data, view, size or (camera.height, camera.width), bool(images))
        return images

    def free(self, data: mujoco.MjData, size: tuple[int, int], *, lookat=(0.45, 0.0, 0.65), distance: float = 2.6,
             azimuth: float = 150.0, elevation: float = -22.0) -> np.ndarray:
        """An image uint8 [h, w, 3] from anywhere; angles in degrees."""
        view = mujoco.MjvCamera()
        view.type = mujoco.mjtCamera.mjCAMERA_FREE
        view.lookat[:], view.distance, view.azimuth, view.elevation = lookat, distance, azimuth, elevation
        return self._render(data, view, size, False)

    def _render(self, data, view, size, same_moment: bool) -> np.ndarray:
        height, width = size
        if height > self._size[0] or width > self._size[1]:
            raise ValueError(f"this renderer is for at most {self._size[1]}x{self._size[0]}, not {width}x{height}")
        self._gl.make_current()
        mj = self._model.mj
        if same_moment:  # the geoms are those of the image before
            mujoco.mjv_updateCamera(mj, data, view, self._scene)
        else:
            mujoco.mjv_updateScene(mj, data, self._option, self._perturb, view, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        rectangle = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(rectangle, self._scene, self._context)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_readPixels(image, None, rectangle, self._context)
        return image[::-1]

    def close(self) -> None:
        self._context.free()
        self._gl.free()
