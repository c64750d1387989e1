from __future__ import annotations

import pytest

from pi_policy_node.environment import share
from pi_policy_node.sim.faults import FAULTS, FaultError, Switchboard


def board() -> Switchboard:
    return Switchboard(["front_camera", "wrist_camera"])


@pytest.mark.parametrize("target, kind", [
    *(("front_camera", kind) for kind in FAULTS["camera"]),
    *((target, kind) for target in FAULTS if target != "camera" for kind in FAULTS[target])])
def test_every_fault_can_be_set_is_said_in_words_and_cleared(target, kind):
    b = board()
    words = b.set(target, kind, 1.0, now=0.0)
    assert target in words and len(words.split()) > 5
    assert b.get(target, now=0.5).kind == kind
    b.set(target, "none", 0.0, now=0.6)
    assert b.get(target, now=0.7) is None


@pytest.mark.parametrize("target, kind, value, words", [
    ("side_camera", "drop", 0.5, "no target 'side_camera'; there are front_camera, wrist_camera, joint_states"),
    ("all", "drop", 0.5, "all with none"),
    ("front_camera", "nan", 0.0, "no fault 'nan'; it has drop"),
    ("physics", "freeze", 0.0, "it has stall"),
    ("odom", "drop", 1.5, "between 0 and 1"),
    ("odom", "delay", -1.0, "not less than 0"),
    ("odom", "skew", float("nan"), "must be finite"),
    ("joint_states", "missing", 0.5, "number of a joint"),
])
def test_what_does_not_exist_is_refused_with_what_does(target, kind, value, words):
    with pytest.raises(FaultError, match=words):
        board().set(target, kind, value, now=0.0)


def test_timed_faults_end_by_themselves_and_all_clears_all():
    b = board()
    b.set("physics", "stall", 0.5, now=1.0)
    b.set("clock", "pause", 0.0, now=1.0)
    b.set("odom", "freeze", 0.0, now=1.0)
    assert b.get("physics", now=1.4) is not None and b.get("physics", now=1.5) is None
    assert b.get("clock", now=1e9) is not None
    b.set("all", "none", 0.0, now=2.0)
    assert not b.active()


def test_the_page_on_the_simulator_tells_of_every_fault():
    page = share("docs", "simulator.md").read_text()
    for target, kinds in FAULTS.items():
        for kind, words in kinds.items():
            name = "a camera" if target == "camera" else f"`{target}`"
            assert f"| {name} | `{kind}` | {words} |" in page
