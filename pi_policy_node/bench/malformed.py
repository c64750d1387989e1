"""Peers that send a policy server what no robot should, and say whether it answered each as the protocol has it."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable

import numpy as np
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from pi_policy_node.policy.remote import wire
from pi_policy_node.robot import Robot

LIMIT = 30.0  # s for an answer
OVERSIZED = 17 << 20  # bytes, more than a server takes by default
PROTOCOL = ("error frame", "closed")  # how a bad request may end; vanishing peers wait for nothing


class Vandal:
    """Sends bad requests one after another, each on a connection of its own, and counts what became of them."""

    def __init__(self, robot: Robot, port: int, *, seed: int = 0) -> None:
        self._port, self._random = port, random.Random(seed)
        self._picture = np.zeros((8, 8, 3), np.uint8)
        self._good = {"state": robot.home, "prompt": "put the red block in the bin",
                      "images": {robot.cameras[0].name: self._picture}}
        self.outcomes: Counter[str] = Counter()

    def run(self, count: int, stop: threading.Event) -> None:
        kinds = [self._no_handshake, self._vanishing, *map(self._sending, (
            self._truncated, self._flipped, self._noise, self._wrong_shape, self._not_finite, self._unknown_camera,
            self._no_picture, self._too_long, self._text))]
        for number in range(count):
            if stop.is_set():
                return
            kind = self._sending(lambda: bytes(OVERSIZED)) if number % 100 == 99 else kinds[number % len(kinds)]
            try:
                self.outcomes[kind()] += 1
            except TimeoutError:
                self.outcomes["no answer"] += 1
            except (OSError, WebSocketException) as error:
                self.outcomes[f"no connection: {type(error).__name__}"] += 1

    @property
    def unanswered(self) -> int:
        """Bad requests that ended in none of the ways they should have."""
        return sum(count for what, count in self.outcomes.items() if what not in (*PROTOCOL, "gone", "answer"))

    # ---- ways to behave

    def _sending(self, make: Callable[[], bytes | str]) -> Callable[[], str]:
        def send() -> str:
            with connect(f"ws://127.0.0.1:{self._port}", compression=None, max_size=None, proxy=None) as peer:
                peer.recv(timeout=LIMIT)  # the metadata
                try:
                    peer.send(make())
                    answer = peer.recv(timeout=LIMIT)
                except ConnectionClosed:
                    return "closed"
                # flipped bits may leave a request that is good
                return "error frame" if isinstance(answer, str) or "error" in str(wire.unpack(answer)) else "answer"

        return send

    def _no_handshake(self) -> str:
        with socket.create_connection(("127.0.0.1", self._port), timeout=LIMIT) as raw:
            raw.sendall(self._random.randbytes(self._random.randrange(1, 200)))
        return "gone"

    def _vanishing(self) -> str:
        with connect(f"ws://127.0.0.1:{self._port}", compression=None, max_size=None, proxy=None) as peer:
            peer.recv(timeout=LIMIT)
            peer.send(wire.pack(self._good))
            with contextlib.suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)  # gone without a word, while the policy thinks
        return "gone"

    # ---- bad requests

    def _truncated(self) -> bytes:
        whole = wire.pack(self._good)
        return whole[: self._random.randrange(len(whole))]

    def _flipped(self) -> bytes:
        data = bytearray(wire.pack(self._good))
        for _ in range(4):
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        return bytes(data)

    def _noise(self) -> bytes:
        return self._random.randbytes(self._random.randrange(1, 1000))

    def _wrong_shape(self) -> bytes:
        return wire.pack(self._good | {"state": np.zeros(self._random.choice((0, 3, 400)))})

    def _not_finite(self) -> bytes:
        state = self._good["state"].copy()
        state[self._random.randrange(len(state))] = self._random.choice((np.nan, np.inf))
        return wire.pack(self._good | {"state": state})

    def _unknown_camera(self) -> bytes:
        return wire.pack(self._good | {"images": {"nowhere": self._picture}})

    def _no_picture(self) -> bytes:
        return wire.pack(self._good | {"images": {}})

    def _too_long(self) -> bytes:
        return wire.pack(self._good | {"prompt": "ä" * (wire.MAX_PROMPT + 1)})

    def _text(self) -> str:
        return "put the red block in the bin"
