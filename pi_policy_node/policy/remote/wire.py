"""The bytes on the wire: msgpack with numpy arrays as maps of bytes keys, and nothing that could run code.

What is read is checked: whatever bytes come, the answer is a plain value or a WireError.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from pi_policy_node.policy.base import InputError, Observation, PolicyError, Prefix
from pi_policy_node.robot import Robot

EXTENSION = "pi"  # key of our additions, in metadata, requests and replies
VERSION = 1
MAX_PROMPT = 20_000  # characters
MAX_DIMENSIONS = 8


class WireError(PolicyError):
    """Bytes that are not a message of the protocol; says what was expected."""


def pack(message: Any) -> bytes:
    """A message of maps, lists, numbers, text, bytes and numpy arrays."""
    return msgpack.packb(message, default=_to_map)


def unpack(data: bytes) -> Any:
    """The message in `data`. Arrays share its memory and are read-only."""
    try:
        return msgpack.unpackb(data, object_hook=_from_map, strict_map_key=False)
    except WireError:
        raise
    except Exception as error:  # msgpack raises a dozen types, ValueError and RecursionError among them
        raise WireError(f"{len(data)} bytes that are not msgpack: {type(error).__name__} {error}") from None


def _to_map(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise WireError(f"cannot send a {type(value).__name__}{f' of {value.dtype}' if hasattr(value, 'dtype') else ''}")


def _from_map(value: dict) -> Any:
    if b"__ndarray__" in value:
        kind, shape, data = _dtype(value), value.get(b"shape"), value.get(b"data")
        if not (isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
                and all(type(side) is int and side >= 0 for side in shape)):
            raise WireError(f"an array of shape {str(shape)[:60]}")
        if not isinstance(data, bytes) or math.prod(shape) * kind.itemsize != len(data):
            raise WireError(f"an array of {str(shape)[:60]} {kind} with "
                            f"{len(data) if isinstance(data, bytes) else 'no'} bytes")
        return np.frombuffer(data, dtype=kind).reshape(shape)
    if b"__npgeneric__" in value:
        try:
            return _dtype(value).type(value.get(b"data"))
        except (TypeError, ValueError, OverflowError) as error:
            raise WireError(f"a number that is none: {error}") from None
    return value


def _dtype(value: dict) -> np.dtype:
    name = value.get(b"dtype")
    name = name.decode("ascii", "replace") if isinstance(name, bytes) else name
    try:
        kind = np.dtype(name) if isinstance(name, str) and len(name) <= 8 else None
    except Exception:  # numpy parses dtypes with a parser of its own
        kind = None
    if kind is None or kind.kind not in "biuf" or kind.shape:
        raise WireError(f"an array of dtype {str(name)[:20]!r}; accepted are booleans, integers and floats")
    return kind


# ---------------------------------------------------------------------------------------------------- requests, read

def read_observation(message: Any, robot: Robot) -> Observation:
    """The observation in a request to our server; InputError where it can't be one for this robot.

    Expected: "state" [A] in the robot file's layout, "prompt", and "images", a map of camera name or role to uint8
    [H, W, 3] (or [3, H, W], or the bytes of a JPEG file). openpi's flat spelling "observation/<key>" is understood.
    """
    if not isinstance(message, dict):
        raise WireError(f"a {type(message).__name__} where a map with state, images and prompt belongs")
    flat = {key.removeprefix("observation/"): value for key, value in message.items() if isinstance(key, str)}
    images = flat.get("images", {})
    if not isinstance(images, dict):
        raise InputError(f"'images' is a {type(images).__name__}, but must be a map of camera to picture")
    images = dict(images)
    known = {spelling: camera.name for camera in robot.cameras for spelling in (camera.role, camera.name)}
    images |= {key: value for key, value in flat.items() if key in known}
    images |= {key.removeprefix("images/"): value for key, value in flat.items() if key.startswith("images/")}
    unknown = [str(name)[:40] for name in images if name not in known]
    if unknown:
        raise InputError(f"no camera {', '.join(unknown)}; {robot.name} has {', '.join(c.name for c in robot.cameras)}")
    return Observation(images={known[name]: read_image(name, value) for name, value in images.items()},
                       state=_read_state(flat.get("state"), robot), prompt=read_prompt(flat.get("prompt", "")),
                       stamp=_read_stamp(flat.get("stamp", 0.0)))


def read_image(name: str, value: Any) -> np.ndarray:
    """uint8 [H, W, 3] of an array or a JPEG file."""
    if isinstance(value, bytes):
        return _decode_jpeg(name, value)
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3:
        given = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"image {name} is {given}, but must be uint8 [H, W, 3] or the bytes of a JPEG file")
    if value.shape[2] != 3 and value.shape[0] == 3:
        value = np.ascontiguousarray(value.transpose(1, 2, 0))
    if value.shape[2] != 3 or 0 in value.shape:
        raise InputError(f"image {name} is {list(value.shape)}, but must be [H, W, 3]")
    return value


def _decode_jpeg(name: str, data: bytes) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data[:2] == b"\xff\xd8" else None
    if image is None or not data.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise InputError(f"image {name} is {len(data)} bytes that are no whole JPEG file")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _read_state(value: Any, robot: Robot) -> np.ndarray:
    width = len(robot.action_names)
    try:
        state = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        state = None
    if state is None or value is None or state.shape != (width,):
        given = "missing" if value is None else "no numbers" if state is None else f"of shape {list(state.shape)}"
        raise InputError(f"'state' is {given}, but must be {width} numbers: {', '.join(robot.action_names)}")
    if not np.isfinite(state).all():
        bad = [name for name, good in zip(robot.action_names, np.isfinite(state)) if not good]
        raise InputError(f"'state' is not finite in {', '.join(bad)}")
    return state


def read_prompt(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"'prompt' is a {type(value).__name__}, but must be text")
    if len(value) > MAX_PROMPT:
        raise InputError(f"'prompt' has {len(value)} characters; accepted are {MAX_PROMPT}")
    return value


def _read_stamp(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
        raise InputError("'stamp' must be a finite number of seconds")
    return float(value)


def read_prefix(value: Any, robot: Robot) -> Prefix | None:
    """The committed rows [d, A] in a request with our extension."""
    if value is None:
        return None
    width = len(robot.action_names)
    if not (isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == width and np.isfinite(value).all()):
        raise InputError(f"'prefix' must be finite rows of {width} numbers")
    return Prefix(value.astype(np.float64)) if len(value) else None


# ----------------------------------------------------------------------------------------------------- replies, read

def read_actions(message: Any, width: int) -> np.ndarray:
    """float64 [H, width] of a reply; WireError where it holds anything else."""
    actions = message.get("actions") if isinstance(message, dict) else None
    if not isinstance(actions, np.ndarray) or actions.ndim != 2 or not len(actions):
        given = f"of shape {list(actions.shape)}" if isinstance(actions, np.ndarray) else "missing"
        raise WireError(f"the server's 'actions' are {given}, but must be rows of {width} numbers")
    if actions.shape[1] != width:
        raise WireError(f"the server's actions have {actions.shape[1]} columns, but this robot has {width}: "
                        "is it serving another robot?")
    if not np.isfinite(actions).all():
        raise WireError("the server's actions are not finite")
    return actions.astype(np.float64)
