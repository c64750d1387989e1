"""What a node asks of the operating system: to be told of signals, and a place in front of what can wait."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

NICE = -10  # whatever else runs, what moves a robot comes first


def on_signals(stop: Callable[[], object]) -> None:
    """Calls `stop` on SIGINT and SIGTERM, from a thread of its own."""
    # The executor waits in C, where Python's handlers don't run; the wake-up fd is written by the C handler itself.
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    def watch() -> None:
        with reader, writer:
            while reader.recv(1):
                stop()

    threading.Thread(target=watch, name="signals", daemon=True).start()


def ask_for_priority(nice: int = NICE) -> None:
    """A niceness for this process and what it starts from now on, unless somebody has chosen one for it.

    The same for all of a robot's nodes: they share memory, and one that is kept waiting with a lock keeps all waiting.
    Below 0 the system may say no, as it does to most users: then all stays as it is, and on a busy machine the robot
    stops sooner.
    """
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) != 0:
            return
        os.setpriority(os.PRIO_PROCESS, 0, nice)
        # Linux shares the machine between sessions first (a terminal, a launch), and by niceness only within each.
        Path("/proc/self/autogroup").write_text(f"{nice}\n")
    except OSError:
        pass
