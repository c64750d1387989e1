"""Safetensors files, read and written in small pieces, so that no tensor is ever in memory twice.

The format: 8 bytes with the length of a JSON header, the header {name: {dtype, shape, data_offsets}}, the data.
"""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pi_policy_node.policy.base import CheckpointError

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 4 << 20  # elements read at a time
_LONGEST_HEADER = 100 << 20  # bytes; safetensors' own limit


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, not yet read."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # byte in the file
    end: int

    def pieces(self) -> Iterator[Tensor]:
        """The values in order, a few MB at a time, flat."""
        dtype = DTYPES[self.dtype]
        left = math.prod(self.shape)
        buffer = torch.empty(min(left, _PIECE), dtype=dtype)
        with self.file.open("rb", buffering=0) as source:
            source.seek(self.start)
            while left:
                piece = buffer[: min(left, _PIECE)]
                _fill(source, memoryview(piece.view(torch.uint8).numpy()), self)
                yield piece
                left -= len(piece)

    def read_into(self, target: Tensor) -> int:
        """Copy into a contiguous tensor of as many elements, whatever its dtype and device; the data's CRC-32.

        A value that is not finite is an error that names the tensor.
        """
        flat, done, crc = target.view(-1), 0, 0
        for piece in self.pieces():
            if not torch.isfinite(piece).all():
                raise CheckpointError(f"{self.file}: {self.name} holds a NaN or an infinity")
            crc = zlib.crc32(memoryview(piece.view(torch.uint8).numpy()), crc)
            flat[done : done + len(piece)].copy_(piece)
            done += len(piece)
        return crc

    def read(self) -> Tensor:
        out = torch.empty(self.shape, dtype=DTYPES[self.dtype])
        self.read_into(out)
        return out


def _fill(source, view: memoryview, stored: Stored) -> None:
    while view:
        count = source.readinto(view)
        if not count:
            raise CheckpointError(f"{stored.file}: the file ends inside {stored.name}")
        view = view[count:]


def open_tensors(file: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """What a file holds, by name, and its metadata. The header is checked against the file's true length."""
    try:
        size = file.stat().st_size
        with file.open("rb") as source:
            head = source.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise CheckpointError(f"{file}: not a safetensors file, or cut off ({size} bytes)")
            header = json.loads(source.read(length))
        metadata = header.pop("__metadata__", {})
        found = {name: _entry(file, name, entry, 8 + length) for name, entry in header.items()}
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file}: the header is damaged ({error})") from None
    at = 8 + length
    for stored in sorted(found.values(), key=lambda s: s.start):  # data lie side by side, up to the end of the file
        if stored.start != at:
            raise CheckpointError(f"{file}: the header is damaged ({stored.name} starts at {stored.start}, not {at})")
        at = stored.end
    if at != size:
        what = "is cut off" if size < at else "has something behind its tensors"
        raise CheckpointError(f"{file}: the file {what}: {size} bytes, and its header speaks of {at}")
    return found, metadata


def _entry(file: Path, name: str, entry: dict, base: int) -> Stored:
    shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(f"{file}: {name} is stored as {entry['dtype']}; weights are {', '.join(DTYPES)}")
    if any(not isinstance(n, int) or n < 0 for n in (*shape, start, end)):
        raise ValueError(f"{name} has the shape {shape} at {start}..{end}")
    if math.prod(shape) * DTYPES[entry["dtype"]].itemsize != end - start:
        raise ValueError(f"{name} of shape {shape} cannot lie in {end - start} bytes")
    return Stored(file, name, entry["dtype"], shape, base + start, base + end)


def write_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write atomically, a few MB at a time."""
    header: dict[str, object] = {"__metadata__": metadata}
    at = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[bytes | memoryview]:
        yield struct.pack("<Q", len(text))
        yield text
        for tensor in tensors.values():
            yield from _views(tensor)

    replace_file(file, lambda out: [out.write(chunk) for chunk in chunks()])


def checksum(tensor: Tensor) -> int:
    """The CRC-32 of the data, as `read_into` finds it."""
    crc = 0
    for view in _views(tensor):
        crc = zlib.crc32(view, crc)
    return crc


def _views(tensor: Tensor) -> Iterable[memoryview]:
    flat = tensor.detach().contiguous().view(-1)
    for piece in flat.split(_PIECE):
        yield memoryview(piece.cpu().view(torch.uint8).numpy())


def replace_file(file: Path, write: Callable) -> None:
    """Write beside the file, then put it in place: whoever looks sees the old one or the whole new one."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            write(out)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o644)
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise
