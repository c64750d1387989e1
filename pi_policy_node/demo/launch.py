"""The shipped launch file, started for the demo and ended with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pi_policy_node.cli import CommandError
from pi_policy_node.environment import share

END_LIMIT = 15.0  # s from Ctrl-C to the launch's end


class Launch:
    """The shipped launch file in a process of its own; its output goes to a file, and is looked through here."""

    def __init__(self, log: Path, arguments: list[str]) -> None:
        self.log = log
        command = [sys.executable, "-m", "pi_policy_node", "launch", "mobile_manipulator.launch.py", *arguments]
        # A group of its own: a Ctrl-C at the terminal is passed on below, once, and in order.
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                         errors="replace", stdin=subprocess.DEVNULL, start_new_session=True)
        self._ready = threading.Event()
        self._tail: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self.log.open("w") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()
                self._tail = [*self._tail[-200:], line.rstrip()]
                if "robot ready" in line:
                    self._ready.set()

    def wait_ready(self, limit: float) -> None:
        """Until the robot is; CommandError with what its nodes complained of when it is not."""
        end = time.monotonic() + limit
        while not self._ready.wait(0.1):
            if self._process.poll() is not None or time.monotonic() > end:
                self._reader.join(1.0)
                why = "ended" if self._process.poll() is not None else f"was not ready within {limit:g} s"
                raise CommandError(f"the launch {why}: {self.complaint()}")

    def check(self) -> None:
        """CommandError when it has ended."""
        if self._process.poll() is not None:
            self._reader.join(1.0)
            raise CommandError(f"the launch ended: {self.complaint()}")

    def complaint(self) -> str:
        """The first severe line of the log, or its last one."""
        severe = [line for line in self._tail if "[FATAL]" in line] or [line for line in self._tail if "ERROR" in line]
        return (severe or self._tail[-1:] or ["it said nothing"])[0]

    def end(self) -> None:
        """As Ctrl-C does; harder when that does not help."""
        for number, limit in ((signal.SIGINT, END_LIMIT), (signal.SIGTERM, 5.0)):
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            try:
                self._process.wait(limit)
            except subprocess.TimeoutExpired:
                continue
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # whoever is left of the group
        except ProcessLookupError:
            pass
        self._process.wait()
        self._reader.join(1.0)


@contextmanager
def launched(out: Path, *, policy: str, scene: str, seed: int) -> Iterator[Launch]:
    """The simulated robot in a scene, for as long as the block lasts."""
    parameters = out / "params.yaml"
    scene = f"\n/**/sim:\n  ros__parameters:\n    scene: '{scene}'\n    seed: {seed}\n"
    part = parameters.with_suffix(".part")
    part.write_text(share("config", "params.yaml").read_text() + scene)
    os.replace(part, parameters)
    launch = Launch(out / "launch.log", ["hardware:=sim", f"policy:={policy}", f"params_file:={parameters.resolve()}"])
    try:
        yield launch
    finally:
        launch.end()
