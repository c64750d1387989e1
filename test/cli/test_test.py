"""Which failures `./pi test` tries a second time."""

from __future__ import annotations

import pytest

from pi_policy_node.cli.test import MOST_AGAIN, ON_THE_CLOCK, worth_another_try
from pi_policy_node.environment import checkout

TIMED = ["test/nodes/test_sim.py::test_b", "test/graph/test_faults.py::test_a[x]"]


@pytest.mark.parametrize("failed, again", [
    ([], []),
    (TIMED, sorted(TIMED)),
    ([*TIMED, "test/control/test_limits.py::test_c"], []),
    ([f"test/graph/test_faults.py::test_{k}" for k in range(MOST_AGAIN + 1)], []),
])
def test_only_a_few_that_run_on_the_clock(failed, again):
    assert worth_another_try(failed) == again


def test_what_runs_on_the_clock_is_there():
    assert all((checkout() / path).exists() for path in ON_THE_CLOCK)
