"""A policy that lives on a server: openpi's own, unmodified, or ours."""

from __future__ import annotations

import itertools
import ssl
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

import numpy as np

from pi_policy_node.policy.base import (Cancelled, DeadlineExceeded, InputError, Observation, PolicyError, Prefix,
                                        Result)
from pi_policy_node.policy.remote import wire
from pi_policy_node.policy.remote.link import Job, Link, LinkDown, LinkState
from pi_policy_node.robot import Robot

ENCODINGS = ("auto", "raw", "jpeg")
CANCEL_POLL = 0.02  # s
_ERRORS = {"deadline": DeadlineExceeded, "superseded": Cancelled, "input": InputError}


class RemotePolicy:
    """Looks like any other policy. While the link is down `infer` raises LinkDown at once, and `link` says why."""

    name = "remote"

    def __init__(self, robot: Robot, *, url: str = "ws://127.0.0.1:8000", api_key_file: str = "", ca_file: str = "",
                 timeout: float = 1.0, encoding: str = "auto", jpeg_quality: int = 90,
                 image_key: str = "images.{role}", state_key: str = "state", prompt_key: str = "prompt",
                 channels_first: bool = False, connect_limit: float = 5.0) -> None:
        """`timeout`: longest an answer may take [s], where the request has no nearer deadline. `encoding`: of images;
        JPEG is for our servers only, "auto" means JPEG to a server elsewhere that takes it. The keys are where a plain
        openpi server's configuration expects things, a dot for nesting: "observation/{role}" or "images.{name}".
        `channels_first`: images as [3, H, W]. `connect_limit`: how long warm_up waits for the server [s]."""
        if encoding not in ENCODINGS:
            raise PolicyError(f"image encoding '{encoding}' is none of {', '.join(ENCODINGS)}")
        if not url.startswith(("ws://", "wss://")):
            raise PolicyError(f"'{url}' is no address of a policy server: ws://host:port or wss://host:port")
        if not timeout > 0:
            raise PolicyError(f"the timeout is {timeout} s, but must be positive")
        self.robot, self.dt, self.horizon = robot, robot.dt, robot.horizon
        self._timeout, self._connect_limit = timeout, connect_limit
        self._encoding, self._quality = encoding, jpeg_quality
        self._keys = (image_key, state_key, prompt_key)
        self._channels_first = channels_first
        self._numbers = itertools.count(1)
        self._reset = threading.Event()
        self._near = any(f"//{host}" in url for host in ("localhost", "127.", "[::1]"))
        self.link = Link(url, key=_read_key(api_key_file), tls=_tls(url, ca_file), check=self._check_metadata,
                         reply_limit=max(5.0, 3 * timeout))

    @property
    def takes_subtask(self) -> bool:
        """Whether the server can be told the step beside the task; else a step goes in the task's place."""
        return "subtask" in (self.link.extension or {}).get("offers", ())

    def warm_up(self) -> None:
        """Waits for the server; LinkDown where it does not come. The link goes on trying."""
        end = time.monotonic() + self._connect_limit
        while self.link.status.state != LinkState.UP:
            if time.monotonic() > end:
                raise LinkDown(self.link.status.sentence)
            time.sleep(0.01)

    def reset(self) -> None:
        """A new task begins; a server with our extension is told with the next observation."""
        self._reset.set()

    def close(self) -> None:
        """Ends the link."""
        self.link.close()

    def infer(self, obs: Observation, *, prefix: Prefix | None = None, deadline: float | None = None,
              cancel: threading.Event | None = None) -> Result:
        """Asks the server. LinkDown, DeadlineExceeded, Cancelled, InputError or PolicyError where no answer comes."""
        begin = time.monotonic()
        end = begin + self._timeout if deadline is None else min(deadline, begin + self._timeout)
        extension = self.link.extension
        number = next(self._numbers) if extension else None
        request = self._plain(obs) if extension is None else self._extended(obs, prefix, number, end - begin)
        job = Job(wire.pack(request), number)
        self.link.submit(job)
        reply = self._wait(job, end, cancel)
        actions = wire.read_actions(reply, len(self.robot.action_names))
        if prefix is not None and extension is None:
            fixed = min(len(prefix.rows), len(actions))
            actions[:fixed] = prefix.rows[:fixed]  # they run whatever the server would rather do
        said = reply.get(wire.EXTENSION) if extension is not None else {}
        timing = {"round trip": time.monotonic() - begin}
        server = reply.get("server_timing")
        if isinstance(server, dict) and isinstance(server.get("infer_ms"), (int, float)):
            timing["server"] = server["infer_ms"] / 1000
        return Result(actions, subtask=str(said.get("subtask") or ""), progress=_progress(said.get("progress")),
                      timing=timing)

    def _wait(self, job: Job, end: float, cancel: threading.Event | None) -> dict:
        try:
            while True:
                left = end - time.monotonic()
                try:
                    reply = job.answer.result(timeout=max(0.0, left if cancel is None else min(left, CANCEL_POLL)))
                    break
                except FutureTimeout:
                    if cancel is not None and cancel.is_set():
                        raise Cancelled("the request was cancelled") from None
                    if time.monotonic() >= end:
                        raise DeadlineExceeded(f"no answer from {self.link.url} in time: "
                                               f"{self.link.status.sentence}") from None
        finally:
            self.link.abandon(job)
        said = reply.get(wire.EXTENSION) if isinstance(reply, dict) else None
        if isinstance(said, dict) and "error" in said:
            raise _ERRORS.get(said.get("code"), PolicyError)(f"the server: {said['error']}")
        return reply

    def _plain(self, obs: Observation) -> dict:
        image_key, state_key, prompt_key = self._keys
        request: dict = {}
        roles = {camera.name: camera.role for camera in self.robot.cameras}
        for name, image in obs.images.items():
            image = np.ascontiguousarray(image.transpose(2, 0, 1)) if self._channels_first else image
            _put(request, image_key.format(name=name, role=roles.get(name, name)), image)
        _put(request, state_key, np.asarray(obs.state, np.float32))
        _put(request, prompt_key, obs.prompt)
        return request

    def _extended(self, obs: Observation, prefix: Prefix | None, number: int, left: float) -> dict:
        asked: dict = {"id": number, "deadline_ms": left * 1000}
        if prefix is not None:
            asked["prefix"] = np.asarray(prefix.rows, np.float64)
        if obs.subtask and self.takes_subtask:
            asked["subtask"] = obs.subtask
        if self._reset.is_set():
            self._reset.clear()
            asked["reset"] = True
        jpeg = self._encoding == "jpeg" or self._encoding == "auto" and not self._near
        images = {name: _jpeg(image, self._quality) if jpeg else image for name, image in obs.images.items()}
        return {"images": images, "state": np.asarray(obs.state, np.float64), "prompt": obs.prompt, "stamp": obs.stamp,
                wire.EXTENSION: asked}

    def _check_metadata(self, metadata: dict) -> None:
        names = metadata.get("action_names")
        if names is not None and list(names) != list(self.robot.action_names):
            raise PolicyError(f"the server is for robot '{metadata.get('robot')}' with {len(names)} actions, and this "
                              f"is '{self.robot.name}' with {len(self.robot.action_names)}")
        if wire.EXTENSION not in metadata and self._encoding == "jpeg":
            raise PolicyError("JPEG was asked for, but this is a plain openpi server, which takes raw images only")
        for key, least in (("dt", 1e-4), ("horizon", 1)):
            value = metadata.get(key)
            if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= least:
                setattr(self, key, type(getattr(self, key))(value))


def _put(request: dict, key: str, value: object) -> None:
    *folders, last = key.split(".")
    for folder in folders:
        request = request.setdefault(folder, {})
    request[last] = value


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    import cv2

    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _progress(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _read_key(file: str) -> str:
    if not file:
        return ""
    try:
        key = Path(file).expanduser().read_text().strip()
    except OSError as error:
        raise PolicyError(f"the API key cannot be read: {error}") from None
    if not key or not key.isascii() or not key.isprintable():
        raise PolicyError(f"{file} holds no API key: one line of printable ASCII")
    return key


def _tls(url: str, ca_file: str) -> ssl.SSLContext | None:
    if not url.startswith("wss://"):
        return None
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise PolicyError(f"the certificate {ca_file} cannot be read: {error}") from None
