"""What a node asks of the operating system: to be told of signals, and a place in front of what can wait."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable


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


def ask_for_priority(nice: int) -> None:
    """A niceness for this process and what it starts from now on, unless somebody has chosen one for it.

    Below 0 the system may say no, as it does to most users: then all stays as it is, and on a busy machine the robot
    stops sooner.
    """
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError:
        pass
