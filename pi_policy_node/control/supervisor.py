"""Who may move the robot at all: the latch, the stop button, the instruction's lease, the resume. Knows no motion."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from pi_policy_node.control.modes import Cause, Code, Latch
from pi_policy_node.control.timeline import Chunk, Refused

LONGEST_LEASE = 5.0  # s; an instruction must be renewed


@dataclass(frozen=True)
class Lease:
    """The instruction in force."""

    id: str
    issued: int  # ns, the node's clock
    until: float  # s, steady


class Supervisor:
    """Stamps in ns of the node's clock; `steady` in s."""

    def __init__(self, heartbeat_timeout: float | None) -> None:
        self.latch = Latch()
        self.lease: Lease | None = None
        self._ended: str | None = None  # the instruction that a stop ended
        self._resumed: int | None = None  # ns: instructions issued before are dead
        self._awaiting = False  # nothing has been asked since the resume
        self._missing: tuple[str, ...] = ()
        self._heartbeat_timeout = heartbeat_timeout
        self._heartbeat: float | None = None  # s, steady; -inf: says stop

    def instruct(self, instruction_id: str, *, issued: int, stamp: int, expiry: float, now: int, steady: float) -> bool:
        """A renewal of the lease; an empty id withdraws it. True if another task begins. Refused where it is void."""
        age = (now - stamp) * 1e-9
        left = min(expiry, LONGEST_LEASE) - max(0.0, age)
        if not instruction_id:
            self.lease = None
            return False
        if not left > 0.0 or age < -LONGEST_LEASE:
            raise Refused("instruction_expired", f"the instruction '{instruction_id}' is {age:.1f} s old")
        if instruction_id == self._ended:
            raise Refused("instruction_ended", f"'{instruction_id}' was ended by a stop")
        other = self.lease is None or self.lease.id != instruction_id
        # Not later than when it was first heard: a clock that is ahead must not carry an old task over a resume.
        issued = min(issued, now if other else self.lease.issued)
        self.lease = Lease(instruction_id, issued, steady + left)
        self._awaiting = self._awaiting and not self._alive(issued)
        return other

    def in_force(self, steady: float) -> Lease | None:
        """The lease, unless it has run out."""
        return self.lease if self.lease is not None and steady <= self.lease.until else None

    def _alive(self, issued: int) -> bool:
        return self._resumed is None or issued >= self._resumed

    def check(self, chunk: Chunk, steady: float) -> None:
        """Raises Refused unless the chunk serves the instruction in force."""
        lease = self.in_force(steady)
        if lease is None:
            raise Refused("no_instruction", f"it serves '{chunk.instruction_id}', but no instruction is in force")
        if chunk.instruction_id != lease.id:
            raise Refused("other_instruction", f"it serves '{chunk.instruction_id}', not '{lease.id}'")
        if not self._alive(lease.issued):
            raise Refused("before_resume", f"'{lease.id}' was given before the robot was resumed; give the task again")

    def check_person(self, chunk: Chunk) -> None:
        """Raises Refused if a person's chunk was made before the last resume."""
        if not self._alive(chunk.observation_stamp):
            raise Refused("before_resume", "it was made before the robot was resumed")

    def heartbeat(self, alive: bool, steady: float) -> None:
        self._heartbeat = steady if alive else -math.inf

    def listeners(self, missing: Collection[str]) -> None:
        self._missing = tuple(missing)

    def end_task(self) -> None:
        """A stop: the instruction in force will not be taken again."""
        if self.lease is not None:
            self._ended = self.lease.id
        self.lease = None

    def resume(self, now: int) -> None:
        self.latch.clear()
        self._resumed, self._awaiting = now, True

    def clock_jumped(self, now: int) -> None:
        """What was issued before a jump back must not look younger than what will be issued after it."""
        if self._resumed is not None:
            if self.lease is not None and not self._alive(self.lease.issued):
                self.end_task()
            self._resumed = min(self._resumed, now)

    def heart(self, steady: float) -> Cause | None:
        """What the stop button says. False stops, whether or not the robot requires one."""
        limit = self._heartbeat_timeout
        if self._heartbeat is None:
            waiting = Cause(Code.NO_HEARTBEAT_YET, "waiting for the first message on stop_heartbeat")
            return None if limit is None else waiting
        if self._heartbeat == -math.inf:
            return Cause(Code.HEARTBEAT_FALSE, "the stop button says stop")
        silent = steady - self._heartbeat
        if limit is not None and silent > limit:
            return Cause(Code.HEARTBEAT_SILENT, f"the stop button was silent for {silent:.2f} s; the limit is {limit:g} s")
        return None

    def nobody_listens(self) -> Cause | None:
        return Cause(Code.NO_SUBSCRIBER, f"nobody listens on {', '.join(self._missing)}") if self._missing else None

    def no_task(self, steady: float) -> Cause | None:
        """Why the policy may not move the robot, as far as tasks go."""
        lease = self.in_force(steady)
        if self._awaiting:
            return Cause(Code.AWAITING_RESUMED_TASK, "resumed: waiting for a task given since" if lease is None else
                         f"'{lease.id}' was given before the resume: give the task again")
        if lease is None:
            expired = f": '{self.lease.id}' was not renewed" if self.lease is not None else ""
            return Cause(Code.NO_INSTRUCTION, f"no instruction is in force{expired}")
        if not self._alive(lease.issued):
            return Cause(Code.AWAITING_RESUMED_TASK, f"'{lease.id}' was given before the resume: give the task again")
        return None
