"""A training recipe: a file under config/recipes, checked when it is read."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

from pi_policy_node.learn.losses import Weights


class RecipeError(ValueError):
    """A recipe is not what it should be; the message names the file, the key and what would be right."""


@dataclass(frozen=True)
class TrainingRecipe:
    """Everything that the weights follow from, but the data and the code."""

    robot: str
    seed: int
    steps: int
    batch: int
    asked: float
    repeats: int
    glances: int
    looking: int
    looked: int
    questions: int
    rooms: int
    held: bool
    latest: int
    rate: float
    warmup: int
    cooldown: float
    decay: float
    clip: float
    average: float
    save_every: int
    check_every: int
    check_frames: int
    families: dict[str, float]
    kinds: dict[str, float]
    loss: Weights = field(default_factory=Weights)

    def learning_rate(self, step: int) -> float:
        """Up, level, and down in a straight line at the end."""
        down = max(1.0, self.steps * self.cooldown)
        return self.rate * min((step + 1) / max(1, self.warmup), 1.0, max(0.02, (self.steps - step) / down))


_RANGES = {  # key -> least, most
    "seed": (0, 2**31), "steps": (1, 10**8), "batch": (4, 65536), "asked": (0.0, 0.9), "repeats": (1, 64),
    "glances": (0, 65536), "looking": (0, 10**7), "looked": (1, 65536), "questions": (1, 64), "rooms": (2, 65536),
    "latest": (1, 50), "rate": (1e-7, 1.0), "warmup": (0, 10**6), "cooldown": (0.0, 1.0), "decay": (0.0, 1.0),
    "clip": (1e-3, 1e3), "average": (0.0, 0.99999), "save_every": (1, 10**6), "check_every": (1, 10**7),
    "check_frames": (8, 10**6),
}


def load_recipe(file: Path, **changes) -> TrainingRecipe:
    """Read and check; `changes` replace keys of the file."""
    try:
        stored = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{file}: {' '.join(str(error).split())}") from None
    if not isinstance(stored, dict):
        raise RecipeError(f"{file}: must hold keys and values")
    stored |= {key: value for key, value in changes.items() if value is not None}
    known = {f.name for f in fields(TrainingRecipe)}
    if wrong := sorted(set(stored) ^ known):
        raise RecipeError(f"{file}: {', '.join(wrong)}: the keys are exactly {', '.join(sorted(known))}")
    for key, (low, high) in _RANGES.items():
        if isinstance(stored[key], bool) or not isinstance(stored[key], (int, float)) or not low <= stored[key] <= high:
            raise RecipeError(f"{file}: {key} must be between {low} and {high}, not {stored[key]!r}")
    if not isinstance(stored["held"], bool):
        raise RecipeError(f"{file}: held must be true or false, not {stored['held']!r}")
    for key in ("families", "kinds"):
        parts = stored[key]
        if not isinstance(parts, dict) or not parts or any(not v >= 0 for v in parts.values()):
            raise RecipeError(f"{file}: {key} must give a number of 0 or more for each name, not {parts!r}")
    try:
        return TrainingRecipe(**{**stored, "loss": Weights(**stored["loss"])})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{file}: {error}") from None
