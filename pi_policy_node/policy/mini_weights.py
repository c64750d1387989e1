"""mini's weights as one safetensors file that says all about itself: shape, words, scales, cameras, where from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from pi_policy_node.policy.base import CheckpointError
from pi_policy_node.policy.mini_model import Mini
from pi_policy_node.policy.mini_rows import Scales
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.shapes import EyeShape, GemmaShape, MiniShape
from pi_policy_node.policy.tensorfile import open_tensors, write_tensors

SHIPPED = Path(__file__).parent / "weights" / "mini" / "mini.safetensors"
FORMAT = "pi mini 1"


@dataclass(frozen=True)
class Weights:
    """A trained mini."""

    model: Mini
    words: Words
    scales: Scales
    cameras: dict[str, str]  # eye -> the robot's camera
    actions: tuple[str, ...]  # the robot's columns that it was trained on
    about: dict[str, str]  # where the weights come from, for people


def save(file: Path, weights: Weights) -> None:
    """Writes it whole or not at all; the network in half precision, which it was not trained to need more of."""
    tensors = {f"model.{name}": value.detach().to(torch.float16) for name, value in weights.model.state_dict().items()}
    for field in fields(Scales):
        tensors[f"scales.{field.name}"] = torch.from_numpy(np.asarray(getattr(weights.scales, field.name), np.float64))
    write_tensors(file, tensors, {
        "format": FORMAT, "shape": describe(weights.model.shape), "words": json.dumps(weights.words.words),
        "names": json.dumps(weights.words.names),
        "cameras": json.dumps(weights.cameras), "actions": json.dumps(weights.actions),
        "about": json.dumps(weights.about),
    })


def load(file: Path) -> Weights:
    """Reads every weight; CheckpointError names what is wrong."""
    stored, metadata = open_tensors(file)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{file} holds no weights of mini (its format is {metadata.get('format')!r})")
    try:
        words = Words(json.loads(metadata["words"]), json.loads(metadata["names"]))
        model = Mini(from_description(metadata["shape"]), len(words), words.named())
        wanted = model.state_dict()
        scales = Scales(**{f.name: stored[f"scales.{f.name}"].read().double().numpy() for f in fields(Scales)})
        cameras, actions = json.loads(metadata["cameras"]), tuple(json.loads(metadata["actions"]))
        about = json.loads(metadata["about"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{file}: its description is damaged ({error})") from None
    names = {name.removeprefix("model.") for name in stored if name.startswith("model.")}
    if names != set(wanted):
        wrong = ", ".join(sorted(names ^ set(wanted))[:4])
        raise CheckpointError(f"{file}: it lacks, or has too many, tensors of its shape: {wrong}")
    for name, value in wanted.items():
        entry = stored[f"model.{name}"]
        if entry.shape != tuple(value.shape):
            raise CheckpointError(f"{file}: {name} has the shape {entry.shape}, not {tuple(value.shape)}")
        entry.read_into(value)
    model.load_state_dict(wanted)
    return Weights(model.eval(), words, scales, cameras, actions, about)


def describe(shape: MiniShape) -> str:
    """A shape as JSON, for the weights' metadata."""
    return json.dumps(asdict(shape), sort_keys=True)


def from_description(text: str) -> MiniShape:
    """The shape again; ValueError or TypeError where the text is no shape."""
    parts = json.loads(text)
    for key in ("front", "wrist", "around"):
        parts[key] = EyeShape(**{k: tuple(v) if isinstance(v, list) else v for k, v in parts[key].items()})
    for key in ("vlm", "expert"):
        parts[key] = GemmaShape(**parts[key])
    return MiniShape(**parts)
