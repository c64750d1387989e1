"""A launch in a process of its own, with its output read line by line; and looking at what it leaves behind."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pi_policy_node.environment import checkout
from pi_policy_node.launching import STAND_IN

LIMIT = 15.0  # s for anything to happen; nothing here takes a tenth of it


def environment() -> dict[str, str]:
    """In which `import launch` is the stand-in, whatever is installed."""
    paths = [str(STAND_IN), str(checkout()), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


class Launched:
    """`./pi launch ARGUMENTS`, running."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str] = queue.Queue()
        self._read_all = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pi_policy_node", "launch", *map(str, arguments)], env=env or environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True)
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, text: str, *, count: int = 1) -> str:
        """The line with which `text` has been printed `count` times."""
        end = time.monotonic() + LIMIT
        while True:
            found = [line for line in self.lines if text in line]
            if len(found) >= count:
                return found[count - 1]
            try:
                self._new.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {text!r} in\n{self.output}") from None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """The exit status."""
        code = self.process.wait(LIMIT)
        self._read_all.wait(LIMIT)
        return code

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._new.put(line)
        self._read_all.set()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], limit: float = LIMIT) -> bool:
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
