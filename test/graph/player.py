"""A commander and a policy made by hand: leases and chunks, right or wrong in exactly one thing."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable

import numpy as np
from harness import RobotUnderTest

from pi_msgs.msg import ActionChunk, Instruction
from pi_policy_node.nodes.common import RELIABLE1, RELIABLE10, from_seconds, to_duration

PERIOD = 0.1  # s between chunks


class Player:
    """Streams a slow swing of the left arm, lift and base, anchored on the graph's clock, until it is stopped."""

    def __init__(self, rut: RobotUnderTest) -> None:
        self.rut = rut
        self._leases = rut.node.create_publisher(Instruction, "instruction", RELIABLE1)
        self._takeover = rut.node.create_publisher(ActionChunk, "takeover/action_chunk", RELIABLE10)
        self._alive = threading.Event()
        self._thread: threading.Thread | None = None
        self._sequence = time.time_ns() // 1000
        self.chunking = True
        self.rows: Callable[[np.ndarray], np.ndarray] | None = None  # times [n] -> rows [n, A]
        self.task = ""

    def begin(self, rows: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        """A new task, with a lease that is renewed and chunks that serve it: of `rows`, or of the swing."""
        self.end()
        self.task = uuid.uuid4().hex[:8]
        self.issued = self.rut.now()
        self.start, self.home = self.rut.now(), self.place()
        self.rows, self.chunking = rows or self.swing, True
        self._alive.set()
        self._thread = threading.Thread(target=self._stream, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Withdraws the lease and falls silent."""
        if self._thread is not None:
            self._alive.clear()
            self._thread.join()
            self._thread = None
            self._leases.publish(Instruction())

    def place(self) -> np.ndarray:
        """Where the robot is [A], its base at rest."""
        return np.where(self.rut.robot.is_base, 0.0, self.rut.state())

    def swing(self, times: np.ndarray) -> np.ndarray:
        """Rows [n, A] at these times: from where the robot was at the beginning, gently to either side."""
        phase = np.maximum(times - self.start, 0.0)
        rise = 1.0 - np.exp(-phase / 0.5)
        way = (rise * np.sin(2.0 * phase))[:, None]
        rows = np.repeat(self.home[None], len(times), axis=0)
        rows[:, 0:1] += 0.15 * way
        rows[:, 14:15] += 0.02 * way
        rows[:, 15:16] += 0.08 * way
        return rows

    def lease(self, *, task: str | None = None, issued: float | None = None, expiry: float = 1.0) -> None:
        """One renewal."""
        now = self.rut.now()
        message = Instruction(id=self.task if task is None else task, text="swing", expiry=to_duration(int(expiry * 1e9)),
                              issued=from_seconds(self.issued if issued is None else issued))
        message.header.stamp = from_seconds(now)
        self._leases.publish(message)

    def chunk(self, *, rows: np.ndarray | None = None, stamp: float | None = None, observed: float | None = None,
              sequence: int | None = None, person: bool = False, **fields) -> ActionChunk:
        """Sends one chunk, right in everything that is not given."""
        robot, now = self.rut.robot, self.rut.now()
        stamp = now if stamp is None else stamp
        if rows is None:
            rows = self.rows(stamp + robot.dt * np.arange(robot.horizon))
        if sequence is None:
            self._sequence += 1
            sequence = self._sequence
        message = ActionChunk(source="person" if person else "player", sequence=sequence, instruction_id=self.task,
                              dt=robot.dt, horizon=len(rows), names=list(robot.action_names),
                              data=np.asarray(rows, float).ravel().tolist(),
                              observation_stamp=from_seconds(max(now if observed is None else observed, 0.0)))
        message.header.stamp = from_seconds(max(stamp, 0.0))
        for name, value in fields.items():
            setattr(message, name, value)
        (self._takeover if person else self.rut.chunks).publish(message)
        return message

    def _stream(self) -> None:
        renewed = 0.0
        while self._alive.is_set():
            if time.monotonic() - renewed > 0.2:
                renewed = time.monotonic()
                self.lease()
            if self.chunking:
                self.chunk()
            time.sleep(PERIOD)  # a rate, nothing that is waited for
