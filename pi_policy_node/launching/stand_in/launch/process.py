"""One process of a launch: started, listened to, signalled, and never left behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from .core import say

PR_SET_PDEATHSIG = 1
DRAIN = 0.5  # s that output may still come after the process has exited: a child of its own may hold the pipe open

_libc = ctypes.CDLL(None)


@dataclass(frozen=True)
class ProcessDescription:
    """A process as the launch file wants it, with every substitution done."""

    action: Any
    name: str  # with its number: "sim-1"
    cmd: list[str]
    env: dict[str, str]
    cwd: str | None = None
    output: str = "log"  # "screen" and "both" show everything, "log" only the error output
    respawn: bool = False
    respawn_delay: float = 0.0  # s
    sigterm_timeout: float = 5.0  # s after SIGINT
    sigkill_timeout: float = 5.0  # s after SIGTERM


class Process:
    """Runs a ProcessDescription once."""

    def __init__(self, description: ProcessDescription, log: Callable[..., None]) -> None:
        self.description = description
        self._log = log
        self._process: subprocess.Popen | None = None
        self._stopping: asyncio.Task | None = None
        self._stop_asked = False

    async def run(self) -> int | None:
        """From start to exit: the exit status, negative for a signal; None where it could not be started."""
        if self._stop_asked:
            return 0
        what = self.description
        launch = os.getpid()

        def die_with_launch() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != launch:
                os._exit(1)

        try:
            # A session of its own: Ctrl-C in the terminal comes to us alone, and we tell the processes.
            self._process = subprocess.Popen(
                what.cmd, env=what.env, cwd=what.cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, bufsize=0, start_new_session=True, preexec_fn=die_with_launch)
        except OSError as error:
            self._log("ERROR", what.name, f"cannot start {what.cmd[0]}: {error.strerror}")
            return None
        self._log("INFO", what.name, f"process started with pid [{self._process.pid}]")
        readers = [asyncio.ensure_future(self._relay(self._process.stdout, show=what.output in ("screen", "both"))),
                   asyncio.ensure_future(self._relay(self._process.stderr, show=True))]
        if self._stop_asked:
            self.stop()
        code = await _exit_of(self._process)
        if self._stopping is not None:
            self._stopping.cancel()
        self._signal(signal.SIGKILL)  # whatever it left behind in its process group
        _, late = await asyncio.wait(readers, timeout=DRAIN)
        for reader in late:
            reader.cancel()
        if code == 0:
            self._log("INFO", what.name, f"process has finished cleanly [pid {self._process.pid}]")
        else:
            command = " ".join(part for part in what.cmd if part.strip())
            self._log("ERROR", what.name,
                      f"process has died [pid {self._process.pid}, exit code {code}, cmd '{command}'].")
        return code

    def stop(self) -> None:
        """SIGINT, then SIGTERM, then SIGKILL."""
        self._stop_asked = True
        if self._process is not None and self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())

    async def _stop(self) -> None:
        what = self.description
        self._log("INFO", what.name, f"sending signal 'SIGINT' to process[{what.name}]")
        self._signal(signal.SIGINT)
        waited = 0.0
        for after, limit, number in (("SIGINT", what.sigterm_timeout, signal.SIGTERM),
                                     ("SIGTERM", what.sigkill_timeout, signal.SIGKILL)):
            await asyncio.sleep(limit)
            waited += limit
            self._log("ERROR", what.name, f"process[{what.name}] failed to terminate '{waited:g}' seconds after "
                      f"receiving '{after}', escalating to '{number.name}'")
            self._signal(number)

    def _signal(self, number: int) -> None:
        try:
            if number == signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                os.kill(self._process.pid, number)
        except ProcessLookupError:
            pass

    async def _relay(self, pipe: IO[bytes], *, show: bool) -> None:
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), pipe)
        rest = b""
        try:
            while chunk := await stream.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                if show:
                    self._print(lines)
            if rest and show:
                self._print([rest])
        finally:
            transport.close()

    def _print(self, lines: list[bytes]) -> None:
        for line in lines:
            say(f"[{self.description.name}] {line.decode(errors='replace')}")


def _exit_of(process: subprocess.Popen) -> asyncio.Future[int]:
    """The exit status, once there is one. (asyncio's own way waits for the pipes as well on some Pythons.)"""
    loop = asyncio.get_running_loop()
    exited = loop.create_future()
    threading.Thread(target=lambda: loop.call_soon_threadsafe(exited.set_result, process.wait()), daemon=True).start()
    return exited
