"""Normalisation statistics: where checkpoints keep them, and what they do to numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pi_policy_node.policy.base import CheckpointError
from pi_policy_node.policy.tensorfile import open_tensors

EPSILON = 1e-6
_FIELDS = ("mean", "std", "q01", "q99")


@dataclass(frozen=True)
class Statistics:
    """Of one vector (the state, or a row of actions), float64 [D] each; quantiles may be missing."""

    mean: np.ndarray
    std: np.ndarray
    q01: np.ndarray | None = None
    q99: np.ndarray | None = None

    def check(self, where: str) -> Statistics:
        for field in _FIELDS:
            values = getattr(self, field)
            if values is not None and (values.ndim != 1 or values.shape != self.mean.shape):
                raise CheckpointError(f"{where}: {field} has the shape {values.shape}, mean has {self.mean.shape}")
            if values is not None and not np.isfinite(values).all():
                raise CheckpointError(f"{where}: {field} is not finite at {np.flatnonzero(~np.isfinite(values))}")
        if (self.std < 0).any():
            raise CheckpointError(f"{where}: std is negative at {np.flatnonzero(self.std < 0)}")
        if self.q01 is not None and self.q99 is not None and (self.q99 < self.q01).any():
            raise CheckpointError(f"{where}: q99 is below q01 at {np.flatnonzero(self.q99 < self.q01)}")
        return self


class Normaliser:
    """z-scores or quantiles to -1..1; exactly inverted, never clipped. Works on the last axis, [..., D]."""

    def __init__(self, statistics: Statistics, *, quantiles: bool, size: int, what: str) -> None:
        """size: how many numbers the vector has; statistics may be longer (padded), never shorter."""
        if quantiles and (statistics.q01 is None or statistics.q99 is None):
            raise CheckpointError(f"the {what} statistics have no q01 and q99, and this policy is normalised by them")
        if len(statistics.mean) < size:
            raise CheckpointError(f"the {what} statistics have {len(statistics.mean)} numbers; {size} are needed")
        if quantiles:
            low, high = statistics.q01[:size], statistics.q99[:size]
            self.scale = (high - low + EPSILON) / 2
            self.offset = low + self.scale  # the middle, so that ±1 are the quantiles
        else:
            self.scale = statistics.std[:size] + EPSILON
            self.offset = statistics.mean[:size].copy()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (x - self.offset) / self.scale

    def inverse(self, x: np.ndarray) -> np.ndarray:
        return x * self.scale + self.offset

    def narrow(self, limit: float = 1e-4) -> np.ndarray:
        """Indices where the statistics say that nothing ever moved: any real motion explodes there."""
        return np.flatnonzero(self.scale < limit)


def read_statistics(file: Path) -> dict[str, Statistics]:
    """openpi's norm_stats.json: {"norm_stats": {"state": {"mean": [...], ...}, "actions": {...}}}."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))["norm_stats"]
        made = {key: _statistics(content[key]) for key in ("state", "actions")}
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{file}: not a norm_stats.json with state and actions ({error!r})") from None
    return {key: s.check(f"{file}: {key}") for key, s in made.items()}


def write_statistics(file: Path, statistics: dict[str, Statistics]) -> None:
    content = {
        key: {f: getattr(s, f).tolist() for f in _FIELDS if getattr(s, f) is not None} for key, s in statistics.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(json.dumps({"norm_stats": content}, indent=1), encoding="utf-8")
    temporary.replace(file)


def find_statistics(folder: Path, asset: str | None = None) -> dict[str, Statistics] | None:
    """Those beside a checkpoint, wherever its maker keeps them; None where there are none.

    openpi and ours: assets/<asset>/norm_stats.json. LeRobot: the state of its normaliser step, a safetensors file.
    """
    found = sorted({*folder.glob("assets/**/norm_stats.json"), *folder.glob("norm_stats.json")})
    if asset is not None:
        wanted = [f for f in found if f.parent == folder / "assets" / asset]
        if found and not wanted:
            names = ", ".join(str(f.parent.relative_to(folder)) for f in found)
            raise CheckpointError(f"{folder}: no statistics for the asset {asset!r}; there are {names}")
        found = wanted
    if len(found) > 1:
        names = ", ".join(str(f.parent.relative_to(folder / "assets")) for f in found)
        raise CheckpointError(f"{folder}: statistics of several assets; name one of {names}")
    if found:
        return read_statistics(found[0])
    steps = sorted(folder.glob("policy_preprocessor_step_*_normalizer_processor.safetensors"))
    return _lerobot(steps[0]) if steps else None


def _lerobot(file: Path) -> dict[str, Statistics]:
    stored, _ = open_tensors(file)
    made = {}
    for key, theirs in (("state", "observation.state"), ("actions", "action")):
        fields = {f: stored[f"{theirs}.{f}"].read().double().numpy() for f in _FIELDS if f"{theirs}.{f}" in stored}
        if not {"mean", "std"} <= fields.keys():
            raise CheckpointError(f"{file}: no {theirs}.mean and {theirs}.std")
        made[key] = Statistics(**fields).check(f"{file}: {theirs}")
    return made


def _statistics(content: dict) -> Statistics:
    fields = {f: np.asarray(content[f], dtype=np.float64) for f in _FIELDS if content.get(f) is not None}
    return Statistics(**fields)
