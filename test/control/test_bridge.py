"""What holds the robot, which of it latches and what clears it; splicing; takeover; stop and resume."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from rig import STEP, Rig

from pi_policy_node.control import Code, Mode
from pi_policy_node.control.timeline import Refused


@pytest.fixture
def rig(pi_mobile) -> Rig:
    return Rig(pi_mobile)


def heartbeat(robot):
    return dataclasses.replace(robot, heartbeat_timeout=0.3)


def swap(joints: dict) -> dict:
    return dict(reversed(joints.items()))


# ------------------------------------------------------------------------------------------------------------ the modes

def test_codes_are_those_of_the_message():
    from pi_msgs.msg import BridgeStatus

    for enum in (Mode, Code):
        for member in enum:
            assert getattr(BridgeStatus, member.name) == member, member
    names = {n for n in dir(BridgeStatus) if n.isupper() and not n.startswith("_")} - {"SLOT_TYPES"}
    assert names <= {m.name for m in Mode} | {c.name for c in Code}


def test_runs_and_follows_without_lag(rig):
    rig.running()
    for _ in range(20):
        rig.step()
        assert abs(rig.bridge.shaper.command(rig.bridge.clock.time)[0] - rig.policy(rig.time)[0]) < 0.002
    assert rig.status.plan_left > 0.5 and rig.status.source == "test" and rig.status.instruction_id == "a"


TRANSIENT = {
    Code.NO_INSTRUCTION: lambda rig: setattr(rig, "lease", ""),
    Code.NO_CHUNK: lambda rig: setattr(rig, "policy", None) or rig.chunk(rig.still(5) + rig.bridge.shaper.command(rig.bridge.clock.time) - rig.still(5)),
    Code.EMPTY_CHUNK: lambda rig: setattr(rig, "policy", None) or rig.chunk(np.zeros((0, 18))),
    Code.TOO_BLIND: lambda rig: setattr(rig, "policy", None),
    Code.NO_SUBSCRIBER: lambda rig: rig.bridge.on_listeners(["lift_controller/joint_trajectory"]),
}  # fmt: skip


@pytest.mark.parametrize("code", TRANSIENT, ids=lambda code: code.name)
def test_transient_holds_clear_by_themselves(rig, code):
    rig.running()
    TRANSIENT[code](rig)
    rig.reaches(Mode.HOLD, code, limit=1.5)
    assert not rig.status.latched and rig.status.cause
    assert rig.rests(0.6) <= rig.bridge.shaper.blend + 1.25 * rig.bridge.shaper.tail + 2 * STEP
    place = rig.place.copy()
    rig.run(0.3)
    assert np.array_equal(rig.place, place) or code == Code.NO_SUBSCRIBER
    rig.bridge.on_listeners([])
    if code == Code.NO_INSTRUCTION:
        rig.lease = "a"
    rig.policy = rig.sway()
    rig.reaches(Mode.RUNNING, Code.OK)


def chunk_of_nan(rig):
    rows = rig.still()
    rows[3, 2] = np.nan
    assert "left_joint3 in row 3" in rig.chunk(rows)


def lame(rig):
    rig.follows = False
    rig.place = rig.place + np.eye(18)[0] * 0.4


FAULTS = {
    Code.CHUNK_NOT_FINITE: (chunk_of_nan, lambda rig: None),
    Code.JOINTS_STALE: (lambda rig: setattr(rig, "joints", False), lambda rig: setattr(rig, "joints", True)),
    Code.JOINTS_MALFORMED: (lambda rig: setattr(rig, "names", lambda j: {k: v for k, v in j.items() if k != "lift_joint"}),
                            lambda rig: setattr(rig, "names", lambda j: j)),
    Code.TRACKING_ERROR: (lame, lambda rig: setattr(rig, "follows", True)),
    Code.CLOCK: (lambda rig: setattr(rig, "stamp_error", 0.05), lambda rig: setattr(rig, "stamp_error", 0.0)),
    Code.CAMERA: (lambda rig: rig.bridge.on_camera("front_camera", "no image for 0.5 s"),
                  lambda rig: rig.bridge.on_camera("front_camera", "")),
    Code.CONTROLLER: (lambda rig: rig.bridge.fault(Code.CONTROLLER, "gave up"), lambda rig: None),
    Code.INTERNAL: (lambda rig: rig.bridge.fault(Code.INTERNAL, "a bug"), lambda rig: None),
    Code.STOP_SERVICE: (lambda rig: rig.bridge.stop(), lambda rig: None),
    Code.HEARTBEAT_FALSE: (lambda rig: rig.bridge.on_heartbeat(False, steady=rig.time),
                           lambda rig: rig.bridge.on_heartbeat(True, steady=rig.time)),
}  # fmt: skip


@pytest.mark.parametrize("code", FAULTS, ids=lambda code: code.name)
def test_faults_and_stops_latch_until_resume(rig, code):
    harm, heal = FAULTS[code]
    rig.running()
    harm(rig)
    mode = Mode.STOPPED if code.stops else Mode.FAULT
    assert rig.reaches(mode, code) <= 1.3
    assert rig.status.latched and rig.status.cause
    rig.rests(0.7)
    lasting = code in (Code.JOINTS_STALE, Code.JOINTS_MALFORMED, Code.CLOCK, Code.CAMERA, Code.HEARTBEAT_FALSE)
    assert rig.bridge.resume(**rig.moment)[0] is not lasting
    heal(rig)
    rig.run(1.1)
    if lasting:  # it does not clear by itself, though its reason is gone and the policy streams
        assert (rig.status.mode, rig.status.code) == (mode, code) and rig.status.at_rest
        assert rig.bridge.resume(**rig.moment)[0]
    place = rig.place.copy()
    rig.run(0.5)
    assert (rig.status.mode, rig.status.code) == (Mode.HOLD, Code.AWAITING_RESUMED_TASK)
    assert np.abs(rig.place - place).max() < 1e-9  # resume moves nothing
    rig.give("b")
    rig.policy = rig.sway()
    rig.reaches(Mode.RUNNING, Code.OK)


def test_a_stop_outranks_a_fault_and_the_first_fault_counts(rig):
    rig.running()
    rig.bridge.fault(Code.CONTROLLER, "first")
    rig.bridge.fault(Code.INTERNAL, "second")
    assert rig.status.cause == "first"
    rig.bridge.stop()
    rig.bridge.fault(Code.INTERNAL, "third")
    assert rig.status.code == Code.STOP_SERVICE


def test_starts_only_with_joints_and_odometry(rig):
    assert rig.status.code == Code.STARTING
    rig.joints = False
    rig.give()
    assert rig.run(0.3).status.code == Code.STARTING and rig.output.action is None
    assert "not known" in rig.chunk(rig.still())


# ------------------------------------------------------------------------------------------------------------ heartbeat

def test_without_its_heartbeat_nothing_starts_and_everything_stops(pi_mobile):
    rig = Rig(heartbeat(pi_mobile))
    rig.give()
    rig.policy = rig.sway()
    rig.run(0.5)
    assert rig.status.code == Code.NO_HEARTBEAT_YET and not rig.status.latched
    rig.bridge.on_heartbeat(True, steady=rig.time)
    rig.run(0.25)
    assert rig.status.mode == Mode.RUNNING
    assert rig.reaches(Mode.STOPPED, Code.HEARTBEAT_SILENT) <= 0.3
    assert not rig.bridge.resume(**rig.moment)[0]
    rig.bridge.on_heartbeat(True, steady=rig.time)
    assert rig.bridge.resume(**rig.moment)[0]


# --------------------------------------------------------------------------------------------------------------- chunks

def columns(robot):
    return list(robot.action_names)


BAD_FORM = {
    "wrong_names": {"names": [f"joint{i}" for i in range(18)]},
    "wrong_size": {"horizon": 49},
    "wrong_dt": {"dt": -0.02},
}


@pytest.mark.parametrize("reason", BAD_FORM)
def test_chunks_of_a_wrong_form_cannot_be_read(rig, reason):
    rig.running()
    with pytest.raises(Refused) as refusal:
        rig.chunk(rig.still(), **BAD_FORM[reason])
    assert refusal.value.reason == reason
    with pytest.raises(Refused, match="another order: column 0"):
        rig.chunk(rig.still(), names=columns(rig.robot)[::-1])


def far(rig):
    rows = rig.still()
    rows[:, 1] += 0.5
    return rig.chunk(rows)


REFUSED = {
    "other_instruction": lambda rig: rig.chunk(rig.still(), instruction_id="z"),
    "duplicate": lambda rig: rig.chunk(rig.still(), sequence=rig.sequence),
    "out_of_order": lambda rig: rig.chunk(rig.still(), sequence=1),
    "late": lambda rig: rig.chunk(rig.still(), late=2.0),
    "from_the_future": lambda rig: rig.chunk(rig.still(), late=-0.5),
    "too_blind": lambda rig: rig.chunk(rig.still(), old=0.9),
    "far_first_row": far,
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_refused_chunks_are_counted_and_change_nothing(rig, reason):
    rig.running()
    until = rig.bridge.timeline.until
    assert REFUSED[reason](rig)
    assert rig.status.counters[f"refused_{reason}"] == 1
    assert rig.status.mode == Mode.RUNNING and rig.bridge.timeline.until == until


def test_a_restarted_policy_may_count_anew_after_a_pause(rig):
    rig.running()
    rig.policy = None
    rig.run(0.7)
    rig.sequence = 0
    assert not rig.chunk(rig.still())


def test_rows_past_are_dropped_and_newer_ones_take_over_in_time(rig):
    rig.running()
    rig.policy = None
    plan = rig.bridge.timeline
    before = plan.rows.times[(plan.rows.times > rig.bridge.clock.time) & (plan.rows.times <= plan.until)]
    command = rig.bridge.shaper.command(rig.bridge.clock.time)
    rows = np.tile(np.where(rig.robot.is_base, 0.0, command), (50, 1))
    assert not rig.chunk(rows, late=0.095, old=0.1)
    due = plan.rows.times > rig.bridge.clock.time
    assert plan.rows.times[due][0] == pytest.approx(rig.bridge.clock.time + 0.005, abs=1e-6)
    assert due.sum() == 45  # five of fifty were past
    assert len(plan.discarded.times) == len(before)  # and what they replace is not forgotten
    assert plan.until == pytest.approx(rig.bridge.clock.time - 0.1 + rig.robot.max_blind, abs=1e-6)


def test_from_rest_the_measured_pose_counts_not_the_command(rig):
    rig.running()
    rig.policy = None
    rig.rests(2.0)
    rig.follows = False
    rig.place = rig.place + np.eye(18)[0] * 0.15  # pushed, within the tracking tolerance
    rig.run(0.1)
    rows = rig.still()
    rows[:, 0] -= 0.3  # near the command, further than the tolerance from the arm
    assert not rig.chunk(rows)
    rig.run(0.1)
    assert rig.status.mode == Mode.HOLD and rig.status.counters["refused_far_first_row"] == 1
    assert not rig.chunk(rig.still())
    rig.reaches(Mode.RUNNING, Code.OK)


def test_a_grasp_is_held_through_hold_and_resume(rig):
    """The gripper is told to close and stops at a block: its command stays, though the measured one differs."""
    rig.run(0.2)
    rig.give()
    rows = rig.still()
    rows[:, 6] = 0.0
    rig.policy = lambda time: rows[0]
    rig.run(1.5)
    rig.policy, rig.follows = None, False
    rig.place[6] = 0.45
    rig.rests(2.0)
    assert rig.output.action[6] == pytest.approx(0.0, abs=0.002)
    rig.bridge.stop()
    rig.run(0.5)
    assert rig.bridge.resume(**rig.moment)[0]
    rig.run(0.5)
    rig.give("b")
    assert not rig.chunk(np.where(np.arange(18) == 6, 0.0, rig.still()))
    rig.run(0.2)
    assert rig.status.mode == Mode.RUNNING and rig.output.action[6] == pytest.approx(0.0, abs=0.002)


def test_another_task_ends_the_plan_of_the_last_one(rig):
    rig.running()
    rig.policy = None
    rig.give("b")
    rig.step()
    assert rig.status.code == Code.NO_CHUNK and "'b'" in rig.status.cause
    assert not rig.chunk(rig.still())  # waits until the robot is at rest
    rig.step()
    assert rig.status.mode == Mode.HOLD and not rig.status.at_rest
    rig.rests()
    rig.policy = rig.sway()
    rig.reaches(Mode.RUNNING, Code.OK)


# ------------------------------------------------------------------------------------------------------ stop and resume

def test_a_stopped_task_does_not_come_back(rig):
    rig.running()
    rig.bridge.stop()
    rig.rests()
    rig.run(0.5)  # renewed and streamed all the while
    assert rig.bridge.resume(**rig.moment)[0]
    rig.run(0.5)
    assert rig.status.code == Code.AWAITING_RESUMED_TASK and rig.status.instruction_id == ""
    assert rig.status.counters["refused_instruction_ended"] > 1 and rig.status.counters["refused_latched"] > 1


@pytest.mark.parametrize("ahead, back", [(3.0, 0.0), (0.0, 30.0)])
def test_no_clock_carries_a_task_over_a_resume(rig, ahead, back):
    """Neither that of a commander, `ahead` of ours, nor ours when it jumps `back` after the resume."""
    rig.running()
    rig.lease, rig.issued = "b", rig.now + round(ahead * 1e9)
    rig.run(0.3)
    rig.bridge.fault(Code.INTERNAL, "whatever")
    rig.rests()
    assert rig.bridge.resume(**rig.moment)[0]
    rig.run(0.1)
    rig.clock_error -= back
    moved = rig.place.copy()
    rig.run(1.0)
    assert rig.status.mode == Mode.HOLD and rig.status.code == Code.AWAITING_RESUMED_TASK, rig.status
    np.testing.assert_allclose(rig.place, moved, atol=1e-9)


def test_a_chunk_right_after_a_resume_waits_until_nothing_pulls_on_the_robot(rig):
    """A robot that was moved while it was held (or a simulated one that began again at home): no fault at once."""
    rig.running()
    rig.bridge.stop()
    rig.policy = None
    rig.rests()
    rig.follows = False
    rig.place = rig.place + 0.5 * np.eye(len(rig.place))[0]
    rig.run(0.5)
    assert rig.bridge.resume(**rig.moment)[0]
    rig.time += 0.001  # sooner than the next tick
    rig.give("b")
    rig.policy = lambda time, row=rig.still(1)[0]: row
    rig.chunk(rig.still())
    rig.until(lambda status: status.latched or status.mode == Mode.RUNNING, limit=5.0)
    rig.run(0.5)
    assert rig.status.mode == Mode.RUNNING, rig.status
    assert abs(rig.output.action[0] - rig.place[0]) < 0.01


def test_resume_lets_go_of_an_arm_that_is_elsewhere(rig):
    rig.running()
    lame(rig)
    rig.reaches(Mode.FAULT, Code.TRACKING_ERROR)
    rig.rests()
    stuck = rig.place.copy()
    rig.run(0.5)
    assert np.abs(rig.output.action - stuck)[0] > 0.3  # holding keeps the last command ...
    assert rig.bridge.resume(**rig.moment)[0]
    rig.run(1.5)
    assert np.abs(rig.output.action - stuck)[0] < 1e-6  # ... until somebody resumes: then nothing pulls any more
    assert rig.status.code == Code.AWAITING_RESUMED_TASK


# ------------------------------------------------------------------------------------------------------------- takeover

def test_a_person_takes_over_at_speed_and_hands_back_from_rest(rig):
    rig.running()
    before = rig.bridge.shaper.reference(rig.bridge.clock.time)
    assert abs(before[1, 0]) > 0.05
    rig.person = lambda time, place=rig.place.copy(): np.where(rig.robot.is_base, 0.0, place)
    rig.reaches(Mode.TAKEOVER, Code.OK)
    assert rig.status.counters["takeovers"] == 1
    rig.run(0.2)
    assert rig.status.counters["refused_takeover"] >= 2  # the policy streams on, in vain
    rig.lease = ""  # a person needs no instruction
    rig.run(1.5)
    assert rig.status.mode == Mode.TAKEOVER and rig.status.code == Code.OK
    rig.person = None  # silent: at rest, and still theirs
    rig.reaches(Mode.TAKEOVER, Code.AWAITING_TAKEOVER)
    rig.rests()
    rig.run(1.0)
    assert rig.status.mode == Mode.TAKEOVER
    rig.give("b")
    assert not rig.chunk(np.zeros((0, 18)), person=True)
    rig.policy = rig.sway()
    rig.reaches(Mode.RUNNING, Code.OK)
    assert rig.status.counters["handed_back"] == 1


def test_a_person_is_not_given_the_policys_plan_that_waited_for_rest(rig):
    rig.running()
    rig.chunk(np.zeros((0, 18)))  # brakes
    rig.policy = None
    assert not rig.status.at_rest
    towards = rig.still() + np.where(rig.robot.is_base | rig.robot.is_gripper, 0.0, 0.02)
    assert not rig.chunk(towards, source="policy")
    assert not rig.chunk(rig.still(), source="device", person=True, old=0.1)  # seen earlier than the policy's
    rig.reaches(Mode.TAKEOVER, Code.OK)
    assert rig.status.source == "device"


def test_a_person_who_is_not_where_the_robot_is_does_not_have_it(rig):
    rig.running()
    rows = rig.still()
    rows[:, 2] += 1.0
    assert rig.chunk(rows, person=True)
    assert rig.status.mode == Mode.RUNNING


def test_a_person_cannot_pass_a_latch_nor_use_a_chunk_of_before_the_resume(rig):
    rig.running()
    rig.bridge.stop()
    assert "held" in rig.chunk(rig.still(), person=True)
    rig.rests()
    rig.run(0.1)
    assert rig.bridge.resume(**rig.moment)[0]
    assert "before the robot was resumed" in rig.chunk(rig.still(), person=True, old=0.05)
    rig.run(0.1)
    assert not rig.chunk(rig.still(), person=True)
    rig.reaches(Mode.TAKEOVER, Code.OK)


# ------------------------------------------------------------------------------------------------- senses and the clocks

def test_joints_are_mapped_by_name(rig):
    rig.names = swap
    rig.running()
    assert rig.status.mode == Mode.RUNNING and rig.status.tracking_error < 0.05


def test_nan_among_the_joints_is_named(rig):
    rig.running()
    rig.names = lambda joints: joints | {"right_joint2": float("nan")}
    rig.reaches(Mode.FAULT, Code.JOINTS_MALFORMED)
    assert "right_joint2" in rig.status.cause


def test_our_own_stall_is_not_the_robots_silence(rig):
    rig.running()
    rig.time += 0.35  # nothing ran here for a while
    rig.step()
    assert rig.status.mode != Mode.FAULT


def test_late_joint_states_now_and_then_are_no_clock_disagreement(rig):
    rig.running()
    for tick in range(100):
        rig.stamp_error = 0.0 if tick % 20 == 0 else 0.06
        rig.step()
    assert rig.status.mode == Mode.RUNNING


@pytest.mark.parametrize("jump", [-5.0, -0.1, 5.0])
def test_a_jump_of_the_clock_ends_motion_without_a_jump_of_the_reference(rig, jump):
    rig.running()
    before = rig.bridge.shaper.reference(rig.bridge.clock.time)
    rig.clock_error = jump
    rig.step()
    assert (rig.status.mode, rig.status.code) == (Mode.FAULT, Code.CLOCK)
    after = rig.bridge.shaper.reference(rig.bridge.clock.time)
    assert np.abs(after - before)[0, ~rig.robot.is_base].max() < 2 * STEP * np.abs(before[1]).max() + 1e-3
    sent = len(rig.windows)
    rig.rests()
    assert len(rig.windows) == sent  # the tail that was sent is all it takes
    rig.run(1.2)
    assert rig.bridge.resume(**rig.moment)[0]
    rig.give("b")
    rig.policy = rig.sway()
    rig.reaches(Mode.RUNNING, Code.OK)


def test_a_clock_that_stops_ends_motion_by_the_steady_clock(rig):
    rig.running()
    rig.clock_runs = False
    rig.run(0.08)
    sent = len(rig.windows)
    assert rig.reaches(Mode.FAULT, Code.CLOCK) < 0.7
    assert len(rig.windows) == sent  # a window sent twice would begin where the controllers are no more
    rig.rests()
    assert rig.output.action[rig.robot.is_base] == pytest.approx(0.0)
    assert not rig.bridge.resume(**rig.moment)[0]


def test_cameras_that_are_not_required_and_tasks_not_begun_are_no_fault(rig):
    rig.bridge.on_camera("front_camera", "no image yet")
    rig.run(0.3)
    rig.give()
    assert not rig.chunk(rig.still())
    rig.run(0.1)
    assert rig.status.mode == Mode.HOLD and "front_camera" in rig.status.cause
    rig.bridge.on_camera("front_camera", "")
    rig.running()
    rig.bridge.on_camera("rear_camera", "frozen")
    rig.run(0.2)
    assert rig.status.mode == Mode.RUNNING


def test_dry_run_expects_nobody_to_follow(pi_mobile):
    rig = Rig(pi_mobile, dry_run=True)
    rig.follows = False
    rig.run(0.2)
    rig.give()
    rig.policy = rig.sway(0.4)
    rig.run(1.0)
    assert rig.bridge.shaper.command(rig.bridge.clock.time)[0] > 0.2
    assert rig.status.counters.get("latched_tracking_error") is None


def test_restart_forgets_motion_and_keeps_the_latch(rig):
    rig.running()
    rig.bridge.stop()
    rig.rests()
    rig.bridge.restart()
    rig.run(0.3)
    assert rig.status.code == Code.STOP_SERVICE and rig.status.latched


@pytest.mark.parametrize("moved, told", [(0.0, 0.0), (0.3, 0.75)])
def test_a_grasp_outlives_a_restart_unless_the_gripper_has_moved(rig, moved, told):
    rig.run(0.2)
    rig.give()
    rows = rig.still()
    rows[:, 6] = 0.0
    rig.policy = lambda time: rows[0]
    rig.run(1.5)
    rig.policy, rig.follows = None, False
    rig.place[6] = 0.45  # a block is in the way
    rig.rests(2.0)
    rig.bridge.restart()
    rig.place[6] += moved  # somebody else opens it meanwhile
    rig.run(0.3)
    assert rig.output.action[6] == pytest.approx(told, abs=0.002)
    rig.give("b")
    assert not rig.chunk(np.where(np.arange(18) == 6, told, rig.still()))
    rig.run(0.2)
    assert rig.status.mode == Mode.RUNNING and rig.output.action[6] == pytest.approx(told, abs=0.002)
