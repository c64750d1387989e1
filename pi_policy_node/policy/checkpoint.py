"""Checkpoints in, checkpoints out: openpi's layout, LeRobot's and our own. A model is whole or it is an error."""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from pi_policy_node.policy.base import CheckpointError
from pi_policy_node.policy.model import Pi
from pi_policy_node.policy.names import DEAD, TIED, Source, published
from pi_policy_node.policy.shapes import PRESETS, GemmaShape, Shape, VisionShape
from pi_policy_node.policy.statistics import Statistics, find_statistics, write_statistics
from pi_policy_node.policy.tensorfile import DTYPES, Stored, checksum, open_tensors, write_tensors

FORMAT = "pi_policy_node 1"
_LEROBOT = "model."


@dataclass
class Report:
    """What a checkpoint holds, read from its header alone."""

    files: list[Path]
    layout: str  # "openpi", "lerobot" or "ours"
    shape: Shape  # exact, or the nearest preset where `problems` says what differs
    stored: dict[str, Stored]  # without LeRobot's prefix
    metadata: dict[str, str]
    problems: list[str] = field(default_factory=list)

    @property
    def dtypes(self) -> dict[str, int]:
        kinds = [s.dtype for s in self.stored.values()]
        return {kind: kinds.count(kind) for kind in DTYPES if kind in kinds}

    @property
    def bytes(self) -> int:
        return sum(s.end - s.start for s in self.stored.values())


@dataclass
class Checkpoint:
    model: Pi
    shape: Shape
    statistics: dict[str, Statistics] | None  # "state" and "actions"


def inspect(path: Path | str, *, preset: str | None = None) -> Report:
    """Read the headers; say what is there and everything that is wrong, without reading a weight."""
    files = _files(Path(path))
    stored: dict[str, Stored] = {}
    metadata: dict[str, str] = {}
    for file in files:
        tensors, more = open_tensors(file)
        if twice := stored.keys() & tensors.keys():
            raise CheckpointError(f"{file}: {min(twice)} is in another of the checkpoint's files as well")
        stored |= tensors
        metadata |= more
    if metadata.get("format") == FORMAT:
        shape = _own_shape(files[0], metadata)
        return _judge(Report(files, "ours", shape, stored, metadata), preset)
    if "format" in metadata and metadata["format"].startswith("pi_policy_node"):
        raise CheckpointError(f"{files[0]}: written in the format {metadata['format']!r}; this reads {FORMAT!r}")
    layout = "openpi"
    if stored and all(name.startswith(_LEROBOT) for name in stored):
        layout, stored = "lerobot", {name.removeprefix(_LEROBOT): s for name, s in stored.items()}
    shape = max(PRESETS.values(), key=lambda s: _matches(s, stored)) if preset is None else PRESETS[preset]
    return _judge(Report(files, layout, shape, stored, metadata), preset)


def load(
    path: Path | str,
    *,
    preset: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    asset: str | None = None,
) -> Checkpoint:
    """Read a checkpoint, straight into place: beyond the weights themselves a few MB are needed.

    dtype: of the large products (float32 or bfloat16); None = as stored. preset: what it must be; None = what it is.
    """
    report = inspect(path, preset=preset)
    if report.problems:
        raise CheckpointError(f"{path} is not a whole {report.shape.name} checkpoint: " + "; ".join(report.problems))
    statistics = find_statistics(_folder(Path(path)), asset)
    model = empty(report.shape, dtype=dtype or _stored_dtype(report), device=device)
    sums = _own_sums(report) if report.layout == "ours" else {}
    for name, parameter in model.named_parameters():
        row = 0
        for source, size in _sources(report, name, parameter):
            stored = report.stored[source]
            crc = stored.read_into(parameter.data[row : row + size[0]])
            if report.layout == "ours" and sums.get(source) != crc:
                raise CheckpointError(f"{stored.file}: {source} is damaged (its checksum is not the one written)")
            row += size[0]
    _check_tied(report)
    return Checkpoint(model, report.shape, statistics)


def save(
    folder: Path | str,
    model: Pi,
    *,
    dtype: torch.dtype | None = None,
    statistics: dict[str, Statistics] | None = None,
    asset: str = "robot",
) -> Path:
    """Write our own layout: <folder>/model.safetensors, and the statistics under <folder>/assets/<asset>/."""
    if model.vlm.blocks[0].norm1.weight is None:
        raise CheckpointError("this model is folded for inference; save the one it was made from")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if dtype is not None:
        model = model.cast(dtype)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    shape = json.dumps(asdict(model.shape))
    sums = {"": zlib.crc32(shape.encode())} | {name: checksum(tensor) for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "shape": shape, "crc32": json.dumps(sums)}
    write_tensors(folder / "model.safetensors", tensors, metadata)
    if statistics is not None:
        write_statistics(folder / "assets" / asset / "norm_stats.json", statistics)
    return folder


def empty(shape: Shape, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Pi:
    """A model whose weights are memory not yet written to, frozen."""
    with torch.device("meta"):
        model = Pi(shape).requires_grad_(False)
        for name, module in model.named_modules():
            for key, parameter in module.named_parameters(recurse=False):
                kind = dtype if model.is_large(f"{name}.{key}".lstrip(".")) else torch.float32
                setattr(module, key, torch.nn.Parameter(torch.empty_like(parameter, dtype=kind), requires_grad=False))
    return model.to_empty(device=device)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or folder")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index}: not an index of safetensors files ({error!r})") from None
        return [path / name for name in names]
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    if (path / "params").is_dir():
        raise CheckpointError(f"{path}: a JAX checkpoint; convert it with openpi's convert_jax_model_to_pytorch.py")
    raise CheckpointError(f"{path}: no model.safetensors in it")


def _own_shape(file: Path, metadata: dict[str, str]) -> Shape:
    try:
        sizes = json.loads(metadata["shape"])
        parts = {"vision": VisionShape(**sizes.pop("vision"))}
        parts |= {key: GemmaShape(**sizes.pop(key)) for key in ("vlm", "expert")}
        return Shape(**sizes, **parts)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: the shape in its metadata is damaged ({error!r})") from None


def _own_sums(report: Report) -> dict[str, int]:
    """The checksums written with the tensors, and with the shape."""
    try:
        sums = dict(json.loads(report.metadata["crc32"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{report.files[0]}: the checksums in its metadata are damaged ({error!r})") from None
    if sums.get("") != zlib.crc32(report.metadata["shape"].encode()):
        raise CheckpointError(f"{report.files[0]}: the shape in its metadata is damaged")
    return sums


def _expected(report: Report) -> dict[str, tuple[int, ...]]:
    if report.layout == "ours":
        with torch.device("meta"):
            return {name: tuple(p.shape) for name, p in Pi(report.shape).named_parameters()}
    return {name: shape for sources in published(report.shape).values() for name, shape in sources}


def _matches(shape: Shape, stored: dict[str, Stored]) -> int:
    wanted = (source for sources in published(shape).values() for source in sources)
    return sum(name in stored and stored[name].shape == size for name, size in wanted)


def _judge(report: Report, preset: str | None) -> Report:
    if preset is not None and report.layout == "ours" and preset != report.shape.name:
        report.problems.append(f"it is a {report.shape.name}, not a {preset}")
    expected = _expected(report)
    there = dict(report.stored)
    for alias, name in TIED.items() if report.layout != "ours" else ():
        if alias in there and name not in there:
            there[name] = report.stored[name] = there[alias]
        there.pop(alias, None)
    for what, names in (
        ("missing", sorted(expected.keys() - there.keys())),
        ("unknown", sorted(there.keys() - expected.keys() - DEAD)),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            report.problems.append(f"{len(names)} {what}: {', '.join(names[:3])}{more}")
    for name in sorted(expected.keys() & there.keys()):
        if there[name].shape != expected[name]:
            report.problems.append(f"{name} has the shape {there[name].shape}, not {expected[name]}")
    return report


def _sources(report: Report, name: str, parameter: Tensor) -> list[Source]:
    if report.layout == "ours":
        return [(name, tuple(parameter.shape))]
    return published(report.shape)[name]


def _stored_dtype(report: Report) -> torch.dtype:
    """bfloat16 if most of the weights lie so; whatever else there is becomes float32."""
    half = sum(s.end - s.start for s in report.stored.values() if s.dtype == "BF16")
    return torch.bfloat16 if 2 * half > report.bytes else torch.float32


def _check_tied(report: Report) -> None:
    """Where both names of the tied embedding are stored, they must hold the same numbers."""
    for alias, name in TIED.items():
        both = [report.stored.get(alias), report.stored.get(name)]
        if report.layout == "ours" or None in both or both[0] is both[1]:
            continue
        if any(not torch.equal(a.float(), b.float()) for a, b in zip(both[0].pieces(), both[1].pieces())):
            raise CheckpointError(f"{both[0].file}: {alias} differs from {name}; the model has one tensor for both")
