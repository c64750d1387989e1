"""How short of computing time the machine is that tests run on."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path


USUAL = 0.15  # s per s, of `taken`: the robot's processes wait for each other on two idle CPUs as well (0.11 to 0.16)


class Starvation:
    """How short of computing time the machine is: what tests may forgive the robot, and no more.

    How much later than asked it wakes threads up, one on each CPU, for a host can take a single one away; what the host
    took, by the kernel's count; and half of the time in which anybody had to wait for a CPU. With two of six processes
    always waiting, nobody has more than half of the speed that the limits are made for.
    """

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=20000)
        self._taken: deque[tuple[float, float]] = deque([(time.monotonic(), taken())], maxlen=20000)
        for cpu in os.sched_getaffinity(0):
            threading.Thread(target=self._watch, args=(cpu,), daemon=True).start()
        threading.Thread(target=self._count, daemon=True).start()

    def _watch(self, cpu: int) -> None:
        os.sched_setaffinity(threading.get_native_id(), {cpu})
        last = time.monotonic()
        while True:
            time.sleep(0.01)
            now = time.monotonic()
            if now - last > 0.03:
                self._late.append((now, now - last - 0.01))
            last = now

    def _count(self) -> None:
        while True:
            time.sleep(0.1)
            self._taken.append((time.monotonic(), taken()))

    def since(self, begin: float) -> float:
        """s in all since a time."""
        late = sum(late for when, late in list(self._late) if when >= begin)
        before = next((count for when, count in reversed(self._taken) if when <= begin), self._taken[0][1])
        return late + max(0.0, taken() - before - USUAL * (time.monotonic() - begin))


def taken() -> float:
    """s by the kernel's counts since some time: taken by the host, and half of those in which somebody waited."""
    stolen = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")
    try:
        waited = float(Path("/proc/pressure/cpu").read_text().split("total=")[1].split()[0]) * 1e-6
    except OSError:  # a kernel that does not count it
        waited = 0.0
    return stolen + waited / 2


STARVATION = Starvation()
