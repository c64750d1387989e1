"""Two clocks: data is stamped with the node's clock, which may stop or jump; timeouts run on a steady one, which can't."""

from __future__ import annotations

from collections import deque

STOPPED = 0.5  # s after which a clock that does not advance has stopped
JUMP = 0.5  # s by which one step of the two clocks may differ, forwards
BACK = 0.02  # s by which a clock may step back: it is being adjusted
LEAD = 0.03  # s by which the time line may be ahead of the last that the clock said
LEAK = 0.02  # part of a lead that is given back at every new word of the clock


class MotionClock:
    """Turns stamps of the node's clock into seconds on a time line that neither stops nor jumps.

    While the node's clock behaves, the two advance together. A simulated clock speaks a hundred times a second, late by
    some milliseconds or other: in between, time goes on with the steady clock, and it is the earliest words that count.
    (With the clock's own steps, windows would begin up to 10 ms apart from where the controllers are.) When the clock
    stops or jumps, the time line goes on with the steady one, so that a motion under way comes to its end; stamps then
    mean what the clock says from there on.
    """

    def __init__(self) -> None:
        self._zero: int | None = None  # ns of the node's clock at time 0
        self._now = 0  # ns
        self._steady = 0.0
        self._changed = 0.0  # s, steady: when the node's clock last advanced
        self.time = 0.0
        self.standing = 0.0  # s, steady, for which the node's clock has not advanced
        self.stopped = False

    @property
    def started(self) -> bool:
        """A simulated clock is 0 until its first message."""
        return self._zero is not None

    def at(self, stamp: int) -> float:
        """Seconds on the time line of a stamp in ns."""
        return (stamp - (self._zero or 0)) * 1e-9

    def advance(self, now: int, steady: float) -> str:
        """To this moment, in ns and s. Returns what is wrong with the node's clock, or nothing."""
        if self._zero is None:
            if now > 0:
                self._zero = self._now = now
                self._steady = self._changed = steady
            return ""
        passed, step = max(0.0, steady - self._steady), (now - self._now) * 1e-9
        problem = ""
        if now != self._now:
            self._changed = steady
            if step < -BACK:
                problem = f"the clock jumped back by {-step:.3f} s"
            elif step - passed > JUMP and not self.stopped:
                problem = f"the clock jumped ahead by {step - passed:.3f} s"
            self.stopped = False
        elif steady - self._changed > STOPPED:
            self.stopped = True
            problem = f"the clock has stood still for {steady - self._changed:.1f} s"
        time = self._carry_on(now, passed)
        if problem:
            time = self.time + passed
        elif self.stopped:
            time = self.time
        if problem:
            self._zero = now - round(time * 1e9)
        self.time, self._now, self._steady = time, now, steady
        self.standing = steady - self._changed
        return problem

    def _carry_on(self, now: int, passed: float) -> float:
        said, time = self.at(now), self.time + passed
        if now != self._now:
            behind = said - time
            time += behind if behind > 0 else LEAK * behind
        return max(min(time, said + LEAD), self.time)


class StampWatch:
    """Whether somebody's stamps agree with our clock, judged by the best one of the last second.

    A message may be late without any clock being wrong; if none in a while was on time, one is.
    """

    SPAN = 1.0  # s
    LEAST = 3

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._ages: deque[tuple[float, float]] = deque(maxlen=1000)  # (steady, age)

    def add(self, age: float, steady: float) -> None:
        self._ages.append((steady, age))
        while self._ages and steady - self._ages[0][0] > self.SPAN:
            self._ages.popleft()

    def disagreement(self) -> float | None:
        """Seconds by which the stamps are behind (positive) or ahead of our clock, if that is beyond the tolerance."""
        if len(self._ages) < self.LEAST or self._ages[-1][0] - self._ages[0][0] < self.SPAN / 2:
            return None
        best = min((age for _, age in self._ages), key=abs)
        return best if abs(best) > self._tolerance else None

    def clear(self) -> None:
        self._ages.clear()
