"""What `./pi doctor` looks at. Standard library only: it must work where nothing else does.

Whatever may crash, hang or not be there (ROS, OpenGL, torch) is asked in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report. `mend` says what would help; `wrong`: the robot can't run like this."""

    name: str
    text: str
    mend: str = ""
    wrong: bool = False

    def __str__(self) -> str:
        mark = "WRONG" if self.wrong else "note" if self.mend else "ok"
        line = f"{mark:<6} {self.name:<16} {self.text}"
        return f"{line}\n{'':<23} -> {self.mend}" if self.mend else line


Check = Callable[[], Iterator[Finding]]


def report() -> int:
    """Print every finding as it comes; 1 when something necessary is wrong."""
    from pi_policy_node.doctor import graph, machine

    wrong = 0
    for check in (*machine.CHECKS, *graph.CHECKS):
        for finding in check():
            print(finding, flush=True)
            wrong += finding.wrong
    print(f"\n{wrong} thing{'s' if wrong > 1 else ''} to mend." if wrong else "\nAll that the robot needs is here.")
    return 1 if wrong else 0
