"""A film of what a robot did: its measured joints shown in the simulator's world, its cameras, and words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import mujoco
import numpy as np

from pi_policy_node.robot import Robot
from pi_policy_node.sim.render import Renderer
from pi_policy_node.sim.simulator import Simulator

VIEW = (480, 640)  # h, w of the view from outside
SIDE = (120, 160)  # h, w of a camera's picture
BAR = 72  # px below, for words
INK, PAPER = (235, 235, 235), (24, 24, 28)


@dataclass(frozen=True)
class Moment:
    """One frame: what was measured at a time."""

    time: float  # s
    joints: Mapping[str, float]  # by URDF joint
    base: tuple[float, float, float]  # x, y, yaw: m, m, rad
    images: Mapping[str, np.ndarray] = field(default_factory=dict)  # camera -> uint8 [h, w, 3] rgb
    words: Sequence[str] = ()  # up to three lines
    qpos: np.ndarray | None = None  # of the whole simulated world, in place of joints and base


class Film:
    """Draws moments. Use it in one thread, and close it."""

    def __init__(self, robot: Robot, *, scene: str = "", seed: int = 0, pretty: bool = False,
                 simulator: Simulator | None = None) -> None:
        """simulator: one whose scene stands already; it must be reset afterwards. Else one is made."""
        self._robot = robot
        self._simulator = simulator or Simulator(robot, scene, seed, cameras=())
        self._owned = simulator is None
        self._sleep = int(mujoco.mjtEnableBit.mjENBL_SLEEP)
        self._simulator.model.mj.opt.enableflags &= ~self._sleep  # what sleeps would not be put where it was
        self._renderer = Renderer(self._simulator.model, width=VIEW[1], height=VIEW[0], pretty=pretty)

    def close(self) -> None:
        """Frees the renderer."""
        self._renderer.close()
        self._simulator.model.mj.opt.enableflags |= self._sleep
        if self._owned:
            self._simulator.close()

    def frame(self, moment: Moment) -> np.ndarray:
        """uint8 [h, w, 3] rgb: the robot from outside, its cameras beside it, the words below."""
        height, width = VIEW[0] + BAR, VIEW[1] + SIDE[1]
        frame = np.full((height, width, 3), PAPER, np.uint8)
        frame[: VIEW[0], : VIEW[1]] = self._outside(moment)
        for k, camera in enumerate(self._robot.cameras[:4]):
            image = moment.images.get(camera.name)
            cell = frame[k * SIDE[0]: (k + 1) * SIDE[0], VIEW[1]:]
            if image is not None:
                cell[:] = cv2.resize(image, SIDE[::-1], interpolation=cv2.INTER_AREA)
            _write(cell, camera.name.replace("_", " "), (5, 13), 0.36)
        for k, line in enumerate(moment.words[:3]):
            _write(frame, line, (12, VIEW[0] + 24 + 20 * k), 0.62 if k == 0 else 0.45)
        return frame

    def write(self, moments: Sequence[Moment], file: Path, *, fps: float) -> None:
        """A video (mp4) of all moments, in place only when it is whole."""
        part = file.with_name(f".{file.stem}.part{file.suffix}")
        video = None
        try:
            for moment in moments:
                frame = self.frame(moment)
                if video is None:
                    size = frame.shape[1], frame.shape[0]
                    video = cv2.VideoWriter(str(part), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
                    if not video.isOpened():
                        raise OSError(f"OpenCV cannot write {file}")
                video.write(np.ascontiguousarray(frame[..., ::-1]))
        finally:
            if video is not None:
                video.release()
        if video is not None:
            os.replace(part, file)

    def _outside(self, moment: Moment) -> np.ndarray:
        model, data = self._simulator.model, self._simulator.physics.data
        if moment.qpos is None:
            self._pose(moment)
            return self._from_beside(*moment.base)
        data.qpos[:] = moment.qpos
        mujoco.mj_forward(model.mj, data)
        return self._from_beside(*data.qpos[model.base_qpos])

    def _pose(self, moment: Moment) -> None:
        """Puts the robot where it was measured."""
        model, data = self._simulator.model, self._simulator.physics.data
        for name, value in moment.joints.items():
            joint = mujoco.mj_name2id(model.mj, mujoco.mjtObj.mjOBJ_JOINT, name)
            if joint >= 0:
                data.qpos[model.mj.jnt_qposadr[joint]] = value
        if len(model.base_qpos):
            data.qpos[model.base_qpos] = moment.base
        mujoco.mj_forward(model.mj, data)

    def _from_beside(self, x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> np.ndarray:
        # The camera goes along with the base, so that the robot stays in the picture, but does not turn with it.
        return self._renderer.free(self._simulator.physics.data, VIEW, lookat=(x + 0.3, y, 0.7), distance=2.9,
                                   azimuth=145.0, elevation=-20.0)


def sheet(frames: Sequence[np.ndarray], columns: int = 2) -> np.ndarray:
    """Pictures of equal size in a grid."""
    rows = [list(frames[k: k + columns]) for k in range(0, len(frames), columns)]
    blank = np.full_like(frames[0], PAPER)
    return np.concatenate([np.concatenate(row + [blank] * (columns - len(row)), axis=1) for row in rows])


def save(image: np.ndarray, file: Path) -> None:
    """A picture uint8 [h, w, 3] rgb, in place only when it is whole."""
    part = file.with_name(f".{file.stem}.part{file.suffix}")
    if not cv2.imwrite(str(part), np.ascontiguousarray(image[..., ::-1])):
        raise OSError(f"OpenCV cannot write {file}")
    os.replace(part, file)


def _write(image: np.ndarray, text: str, at: tuple[int, int], size: float) -> None:
    plain = text.encode("ascii", "replace").decode()  # what OpenCV's letters can show
    for colour, shift in (((0, 0, 0), 1), (INK, 0)):
        cv2.putText(image, plain, (at[0] + shift, at[1] + shift), cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1,
                    cv2.LINE_AA)
