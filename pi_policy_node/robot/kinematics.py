"""Where a robot's tools and links are, computed from its URDF, for many rows at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pi_policy_node.robot import urdf

if TYPE_CHECKING:
    from pi_policy_node.robot.model import Robot


DAMPED = 0.01  # m (and rad) per unit of the action: what moves a tool by less is not worth moving


@dataclass(frozen=True, eq=False)
class _Chain:
    """A chain of n moving joints, the fixed ones folded into them.

    A moving joint's transform is linear in the four features (1, sin q, 1 - cos q, q) of its position q:
    a revolute joint uses the first three, a prismatic one the first and the last.
    """

    columns: np.ndarray  # [n] column of the action that moves the joint
    scale: np.ndarray  # [n] position = scale * action + offset: a gripper's map, a mimic's multiplier
    offset: np.ndarray  # [n]
    basis: np.ndarray  # [n, 4, 16] features -> flattened transform
    end: np.ndarray  # [4, 4] from the last moving joint to the link

    def positions(self, q: np.ndarray) -> np.ndarray:
        """[..., A] -> [n, N]"""
        return (q.reshape(-1, q.shape[-1])[:, self.columns] * self.scale + self.offset).T

    def transforms(self, positions: np.ndarray) -> np.ndarray:
        """[n, N] -> [n, N, 4, 4]"""
        features = np.empty((*positions.shape, 4))
        features[..., 0] = 1.0
        np.sin(positions, out=features[..., 1])
        features[..., 2] = 1.0 - np.cos(positions)
        features[..., 3] = positions
        return (features @ self.basis).reshape(*positions.shape, 4, 4)

    def derivatives(self, positions: np.ndarray) -> np.ndarray:
        """[n, N] -> [n, N, 4, 4], by the action"""
        features = np.stack(
            [np.zeros_like(positions), np.cos(positions), np.sin(positions), np.ones_like(positions)], axis=-1
        )
        return (features @ self.basis).reshape(*positions.shape, 4, 4) * self.scale[:, None, None, None]


class Kinematics:
    """Forward kinematics of a robot. Joints that no column moves (wheels) stay at zero."""

    def __init__(self, robot: Robot) -> None:
        self._base = robot.base_frame
        self._urdf = urdf.parse(robot.urdf_file, robot.urdf())
        self._size = len(robot.action_names)
        self._driven = _driven(robot, self._urdf)
        self._columns = {group.name: group.columns for group in robot.groups if group.tool}
        self._chains: dict[str, _Chain] = {}
        self._tools = {group.name: self._chain(group.tool) for group in robot.groups if group.tool}

    def tools(self, q: np.ndarray) -> dict[str, np.ndarray]:
        """[..., A] -> the tool positions [..., 3] in base_frame (m), by the arm's group."""
        q = np.asarray(q, dtype=float)
        return {name: self._point(chain, q).reshape(*q.shape[:-1], 3) for name, chain in self._tools.items()}

    def jacobians(self, q: np.ndarray) -> dict[str, np.ndarray]:
        """[..., A] -> d(tool position)/d(action) [..., 3, A] (m per unit of the action), by the arm's group."""
        q = np.asarray(q, dtype=float)
        return {name: self._twists(chain, q)[:, :3].reshape(*q.shape[:-1], 3, self._size)
                for name, chain in self._tools.items()}

    def ways(self, q: np.ndarray) -> dict[str, np.ndarray]:
        """[..., A] -> [..., J, 3] how an arm's joints move for its tool to move along base_frame's axes without turning
        (unit of the action per m), by the arm's group. Beside a singular pose, as far as they can at little speed."""
        q = np.asarray(q, dtype=float)
        result = {}
        for name, chain in self._tools.items():
            twists = self._twists(chain, q)[:, :, self._columns[name]]
            across = twists.swapaxes(1, 2)
            solved = across @ np.linalg.inv(twists @ across + DAMPED**2 * np.eye(6))
            result[name] = solved[:, :, :3].reshape(*q.shape[:-1], solved.shape[1], 3)
        return result

    def _twists(self, chain: _Chain, q: np.ndarray) -> np.ndarray:
        """[N, 6, A] how the end of a chain moves and turns in base_frame, per unit of the action."""
        positions = chain.positions(q)
        steps, slopes = chain.transforms(positions), chain.derivatives(positions)
        after = [np.broadcast_to(chain.end, (positions.shape[1], 4, 4))]  # the end, seen from each joint
        for step in steps[:0:-1]:
            after.append(step @ after[-1])
        result = np.zeros((positions.shape[1], 6, self._size))
        before = np.broadcast_to(np.eye(4), (positions.shape[1], 4, 4))
        for column, step, slope, rest in zip(chain.columns, steps, slopes, after[::-1]):
            moved, stands = before @ (slope @ rest), before @ (step @ rest)
            spun = moved[:, :3, :3] @ stands[:, :3, :3].swapaxes(1, 2)  # antisymmetric
            result[:, :3, column] += moved[:, :3, 3]
            result[:, 3:, column] += np.stack((spun[:, 2, 1], spun[:, 0, 2], spun[:, 1, 0]), 1)
            before = before @ step
        return result

    def link_pose(self, q: np.ndarray, link: str) -> np.ndarray:
        """[..., A] -> the pose of any link [..., 4, 4] in base_frame."""
        q = np.asarray(q, dtype=float)
        chain = self._chain(link)
        pose = np.broadcast_to(np.eye(4), (q.size // self._size, 4, 4))
        for step in chain.transforms(chain.positions(q)):
            pose = pose @ step
        return (pose @ chain.end).reshape(*q.shape[:-1], 4, 4)

    @staticmethod
    def _point(chain: _Chain, q: np.ndarray) -> np.ndarray:
        point = chain.end[:, 3:]
        for step in chain.transforms(chain.positions(q))[::-1]:
            point = step @ point
        return np.broadcast_to(point, (max(1, q.size // q.shape[-1]), 4, 1))[:, :3, 0]

    def _chain(self, link: str) -> _Chain:
        if link in self._chains:
            return self._chains[link]
        if link != self._base and link not in self._urdf.links:
            raise KeyError(f"the URDF has no link '{link}'")
        columns, scales, offsets, basis = [], [], [], []
        fixed = np.eye(4)
        for joint in self._urdf.chain(self._base, link):
            fixed = fixed @ joint.origin
            if joint.name in self._driven:
                column, scale, offset = self._driven[joint.name]
                columns.append(column)
                scales.append(scale)
                offsets.append(offset)
                basis.append(_basis(fixed, joint))
                fixed = np.eye(4)
        shape = (len(columns), 4, 16)
        self._chains[link] = _Chain(
            np.array(columns, dtype=int), np.array(scales), np.array(offsets), np.reshape(basis, shape), fixed
        )
        return self._chains[link]


def _driven(robot: Robot, tree: urdf.Urdf) -> dict[str, tuple[int, float, float]]:
    """joint -> (column, scale, offset): position = scale * action + offset"""
    driven = {}
    for group in robot.groups:
        for column, joint in enumerate(group.joints, start=group.columns.start):
            driven[joint] = (column, 1.0, 0.0)
            if group.gripper:
                driven[joint] = (column, group.gripper.open - group.gripper.closed, group.gripper.closed)
                for name, low, high in group.gripper.mimic:
                    driven[name] = (column, high - low, low)
    for joint in tree.joints.values():  # linkages: joints of an arm that follow another one
        if joint.mimic and joint.mimic.joint in driven and joint.name not in driven:
            column, scale, offset = driven[joint.mimic.joint]
            multiplier = joint.mimic.multiplier
            driven[joint.name] = (column, multiplier * scale, multiplier * offset + joint.mimic.offset)
    return driven


def _basis(fixed: np.ndarray, joint: urdf.Joint) -> np.ndarray:
    """[4, 16]: the transform `fixed`, then the joint, by feature (Rodrigues: 1 + sin q K + (1 - cos q) K K)."""
    x, y, z = joint.axis
    cross, slide = np.zeros((4, 4)), np.zeros((4, 4))
    if joint.kind == "prismatic":
        slide[:3, 3] = joint.axis
    else:
        cross[:3, :3] = [[0, -z, y], [z, 0, -x], [-y, x, 0]]
    return np.stack([fixed, fixed @ cross, fixed @ cross @ cross, fixed @ slide]).reshape(4, 16)
