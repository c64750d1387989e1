"""Which of a robot's numbers a checkpoint reads and writes, and in which form: config/embodiments/*.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from pi_policy_node.environment import share
from pi_policy_node.policy.base import PolicyError
from pi_policy_node.robot import Robot


@dataclass(frozen=True)
class Crank:
    """Finger travel 0..1 to a motor's angle 0..1 over a crank. Lengths in m, angles in rad."""

    columns: tuple[int, ...]
    closed: float
    open: float
    arm: float
    horn: float
    low: float
    high: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        out = np.array(x, dtype=np.float64)
        reach = self.closed + out[..., self.columns] * (self.open - self.closed)
        sine = (self.horn**2 + reach**2 - self.arm**2) / (2 * self.horn * reach)
        out[..., self.columns] = (np.arcsin(np.clip(sine, -1, 1)) - self.low) / (self.high - self.low)
        return out


@dataclass(frozen=True)
class Vector:
    """A vector as the checkpoint has it, from the robot's numbers by name: model = scale·robot + offset."""

    names: tuple[str, ...]
    scale: np.ndarray  # [n]
    offset: np.ndarray  # [n]


@dataclass(frozen=True)
class Embodiment:
    name: str
    asset: str | None  # whose statistics, where a checkpoint has several
    dt: float  # s between rows
    horizon: int
    cameras: dict[str, str]  # the checkpoint's view -> the robot's camera, in the checkpoint's order
    state: Vector
    actions: Vector
    relative: np.ndarray  # bool [n]: actions that are differences to the state (in the model's numbers)
    per_row: np.ndarray  # [n]: where not 0, actions are velocities in units of this much per row
    crank: Crank | None = None  # on the state

    # ---- numbers, all in the last axis; rows are [H, n] in the order of `actions`, states [m] of `state`

    def state_in(self, state: np.ndarray) -> np.ndarray:
        """The robot's state, in our order -> the checkpoint's numbers."""
        travelled = self.crank(state) if self.crank else state
        return travelled * self.state.scale + self.state.offset

    def rows_in(self, rows: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Rows in the robot's numbers -> the checkpoint's. `state` [n]: the robot's, in the order of the actions."""
        moves = self.per_row != 0
        out = np.array(rows, dtype=np.float64)
        before = np.concatenate((state[None], rows[:-1]))
        out[:, moves] = (rows - before)[:, moves] / self.per_row[moves]
        return out * self.actions.scale + self.actions.offset - self._reference(state)

    def rows_out(self, rows: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The exact inverse of rows_in."""
        out = (rows + self._reference(state) - self.actions.offset) / self.actions.scale
        moves = self.per_row != 0
        out[:, moves] = state[moves] + np.cumsum(out[:, moves] * self.per_row[moves], axis=0)
        return out

    def _reference(self, state: np.ndarray) -> np.ndarray:
        return np.where(self.relative, self.state_in(state), 0.0) if self.relative.any() else np.zeros(len(state))


def load_embodiment(name_or_path: str | Path) -> Embodiment:
    """By name from config/embodiments, or from a file."""
    file = Path(name_or_path)
    if file.suffix != ".yaml":
        file = share("config", "embodiments", f"{name_or_path}.yaml")
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in share("config", "embodiments").glob("*.yaml")))
        raise PolicyError(f"no embodiment {str(name_or_path)!r}; there are {known}, or give the path of a file")
    try:
        return _read(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise PolicyError(f"{file}: {' '.join(str(error).split())}") from None
    except KeyError as error:
        raise PolicyError(f"{file}: {error.args[0]} is missing") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise PolicyError(f"{file}: {error}") from None


def from_robot(robot: Robot) -> Embodiment:
    """What a robot's own file implies: its columns in its order, joints and lifts relative to the state."""
    count = len(robot.action_names)
    vector = Vector(robot.action_names, np.ones(count), np.zeros(count))
    return Embodiment(
        name=robot.name,
        asset=None,
        dt=robot.dt,
        horizon=robot.horizon,
        cameras={camera.role: camera.name for camera in robot.cameras},
        state=vector,
        actions=vector,
        relative=~(np.asarray(robot.is_gripper) | np.asarray(robot.is_base)),
        per_row=np.zeros(count),
    )


_KEYS = {"name", "asset", "rate", "horizon", "cameras", "state", "actions"}
_VECTOR = {"names", "scale", "offset"}


def _read(content: dict) -> Embodiment:
    _only(content, _KEYS, "")
    state, actions = content["state"], content["actions"]
    _only(state, _VECTOR | {"crank"}, "state.")
    _only(actions, _VECTOR | {"relative", "per_row"}, "actions.")
    vectors = {"state": _vector(state, "state"), "actions": _vector(actions, "actions")}
    count = len(vectors["actions"].names)
    relative = _list(actions, "relative", "actions", count, False, bool)
    if relative.any() and vectors["actions"].names != vectors["state"].names:
        raise ValueError("actions.relative needs actions.names equal to state.names")
    crank = None
    if state.get("crank") is not None:
        sizes = dict(state["crank"])
        columns = tuple(vectors["state"].names.index(name) for name in sizes.pop("names"))
        crank = Crank(columns=columns, **{key: float(value) for key, value in sizes.items()})
    if not float(content["rate"]) > 0 or int(content["horizon"]) < 1:
        raise ValueError("rate must be positive, horizon at least 1")
    if not content["cameras"]:
        raise ValueError("cameras names no view")
    return Embodiment(
        name=content["name"],
        asset=content.get("asset"),
        dt=1 / float(content["rate"]),
        horizon=int(content["horizon"]),
        cameras=dict(content["cameras"]),
        **vectors,
        relative=relative,
        per_row=_list(actions, "per_row", "actions", count, 0.0, float),
        crank=crank,
    )


def _vector(content: dict, where: str) -> Vector:
    names = tuple(content["names"])
    if len(set(names)) != len(names):
        raise ValueError(f"{where}.names names something twice")
    scale = _list(content, "scale", where, len(names), 1.0, float)
    if (scale == 0).any():
        raise ValueError(f"{where}.scale is 0 for {names[int(np.flatnonzero(scale == 0)[0])]}")
    return Vector(names, scale, _list(content, "offset", where, len(names), 0.0, float))


def _list(content: dict, key: str, where: str, count: int, default: object, kind: type) -> np.ndarray:
    values = np.asarray(content.get(key, [default] * count), dtype=kind)
    if values.shape != (count,):
        raise ValueError(f"{where}.{key} has {values.size} entries; names has {count}")
    return values


def _only(content: dict, keys: set[str], where: str) -> None:
    for key in content.keys() - keys:
        raise ValueError(f"{where}{key} is unknown; there is {', '.join(sorted(keys))}")
