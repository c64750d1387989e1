"""Runs launch descriptions: starts their processes, passes events on, and ends with nothing left behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence

from .core import Entity, LaunchContext, say
from .events import ProcessExited, Shutdown
from .process import Process, ProcessDescription


class LaunchService:
    """Until all processes have ended, or SIGINT, SIGTERM or SIGHUP, or an action of the launch file ends it."""

    def __init__(self, *, argv: Sequence[str] | None = None, noninteractive: bool = False, debug: bool = False) -> None:
        self.context = LaunchContext(start=self._start, shut_down=self._shut_down, log=_log)
        self._debug = debug
        self._descriptions: list[Entity] = []
        self._processes: dict[asyncio.Task, Process] = {}
        self._failed = False
        self._ending: asyncio.Event | None = None

    def include_launch_description(self, launch_description: Entity) -> None:
        self._descriptions.append(launch_description)

    def run(self) -> int:
        """The exit status: 1 when the launch file or a process failed before anybody asked for an end, else 0."""
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        for number, words in ((signal.SIGINT, "user interrupted with ctrl-c (SIGINT)"),
                              (signal.SIGTERM, "asked to end (SIGTERM)"), (signal.SIGHUP, "terminal closed (SIGHUP)")):
            loop.add_signal_handler(number, self._on_signal, words)
        try:
            for description in self._descriptions:
                self.context.visit(description)
        except Exception as error:
            self._fail(error)
        while self._processes:
            await asyncio.wait(self._processes, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in self._processes if task.done()]:
                del self._processes[task]
                task.result()
        return int(self._failed)

    def _start(self, description: ProcessDescription) -> None:
        process = Process(description, _log)
        self._processes[asyncio.ensure_future(self._look_after(process))] = process

    async def _look_after(self, process: Process) -> None:
        what = process.description
        code = await process.run()
        if code != 0 and not self.context.is_shutdown and not what.respawn:
            self._failed = True
        try:
            self.context.emit(ProcessExited(what.action, what.name, -1 if code is None else code))
        except Exception as error:
            self._fail(error)
        if what.respawn and code is not None and not self.context.is_shutdown:
            try:
                await asyncio.wait_for(self._ending.wait(), what.respawn_delay)
            except asyncio.TimeoutError:
                self._start(what)

    def _on_signal(self, words: str) -> None:
        if self.context.is_shutdown:
            _log("WARNING", "launch", f"{words} again, ignoring...")
            return
        _log("WARNING", "launch", words)
        self._shut_down(words)

    def _shut_down(self, reason: str) -> None:
        if self.context.is_shutdown:
            return
        self.context.is_shutdown = True
        self._ending.set()
        try:
            self.context.emit(Shutdown(reason))
        except Exception as error:
            self._fail(error)
        for process in self._processes.values():
            process.stop()

    def _fail(self, error: Exception) -> None:
        self._failed = True
        if self._debug:
            raise error
        _log("ERROR", "launch", f"Caught exception in launch: {' '.join(str(error).split())}")
        self._shut_down(str(error))


def _log(level: str, name: str, message: str) -> None:
    say(f"[{level}] [{name}]: {message}", error=level == "ERROR")
