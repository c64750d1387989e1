"""`./pi bench graph`: its processes really measure, its table and file say what was measured."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pi_policy_node.bench import graph
from pi_policy_node.cli import CommandError
from pi_policy_node.environment import ros_environment
from pi_policy_node.nodes import bench_probe
from pi_policy_node.policy.mini import MiniPolicy
from pi_policy_node.robot import load_robot


def test_a_stamp_is_read_out_of_a_serialised_image(ros):
    from rclpy.serialization import serialize_message
    from sensor_msgs.msg import Image

    image = Image(height=2, width=2)
    image.header.stamp.sec, image.header.stamp.nanosec = 1234, 567
    assert bench_probe.stamp_of(serialize_message(image)) == 1_234_000_000_567


def test_image_sets_are_sent_and_counted_between_two_processes(domain):
    delivered, age = graph.transport(ros_environment(domain=domain), 2.0)
    assert delivered.values["sent"] == 60
    assert 0 < delivered.values["delivered"] <= 60
    assert delivered.met is (delivered.values["delivered"] / 60 >= 0.995)
    assert age.values["n"] == delivered.values["delivered"] and 0 < age.values["p50"] <= age.values["max"]


def test_a_robot_that_does_not_come_up_is_said_with_its_last_words(domain):
    with pytest.raises(CommandError, match="(?s)the robot did not come up:.*no_such_robot"):
        with graph.launched(ros_environment(domain=domain), "no_such_robot", "scripted"):
            pass


def test_busy_loops_keep_the_machine_busy_and_end():
    with graph.busy_loops(2) as loops:
        assert [os.getpriority(os.PRIO_PROCESS, loop) for loop in loops] == [os.nice(0)] * 2
        before = [cpu(loop) for loop in loops]
        end = time.monotonic() + 10.0
        while not all(cpu(loop) > one for loop, one in zip(loops, before)):
            assert time.monotonic() < end, "they do nothing"
    assert not any(os.path.exists(f"/proc/{loop}") for loop in loops)


def cpu(process: int) -> int:
    """Ticks that it has run for."""
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11])


SEEN = {"seconds": 60.0, "observations": 1200, "chunks": 900, "windows": 3000, "rate": 0.999, "tasks": 7, "stops": [],
        "ingest_ms": {"n": 1200, "p50": 3.0, "p99": 9.0, "max": 12.0},
        "bridge_ms": {"n": 900, "p50": 1.0, "p99": 4.0, "max": 8.0},
        "act_ms": {"n": 900, "p50": 40.0, "p99": 70.0, "max": 90.0},
        "gap_ms": {"n": 2999, "p50": 20.0, "p99": 22.0, "max": 41.0}, "jumps": 0, "jumped_at": [],
        "samples": 45000, "fastest": {}}


def test_goals_are_judged():
    assert [row.met for row in graph.latency(SEEN)] == [True] * 4
    assert [row.met for row in graph.command_stream(SEEN, loaded=False)][:2] == [True, True]
    slow = {"n": 10, "p50": 1.0, "p99": 20.0, "max": 20.0}
    bad = SEEN | {"ingest_ms": slow, "bridge_ms": slow, "act_ms": slow | {"p99": 81.0}, "rate": 0.9,
                  "stops": ["late", "late"], "jumps": 1}
    assert [row.met for row in graph.latency(bad)] == [False] * 4
    assert [row.met for row in graph.command_stream(bad, loaded=True)][:2] == [False, False]


def test_what_policies_are_told_the_one_that_ships_knows():
    mini = MiniPolicy(load_robot("pi_mobile"))
    assert not any(mini.unknown(words) for words in graph.TASKS)
    assert mini.unknown(*graph.WORDS["scripted"])


def test_nothing_measured_is_not_a_goal_met():
    nothing = {"n": 0, "p50": math.nan, "p99": math.nan, "max": math.nan}
    empty = SEEN | {"ingest_ms": nothing, "bridge_ms": nothing, "act_ms": nothing, "rate": math.nan, "tasks": 0,
                    "samples": 0}
    assert [row.met for row in graph.latency(empty)] == [False] * 4
    assert [row.met for row in graph.command_stream(empty, loaded=False)][:2] == [False, False]


def test_lines_line_up():
    lines = [graph.as_line(row) for row in graph.latency(SEEN)]
    assert lines[0] == "ok  age added by camera_ingest: last image in, observation out      " \
                       "p50 3.0  p99 9.0  max 12.0 ms               p99 ≤ 15 ms"
    assert len({line.index("≤") for line in lines[:2]}) == 1
    stopped = graph.as_line(graph.command_stream(SEEN | {"stops": ["late", "odom silent", "late"]}, loaded=False)[0])
    first, *causes = stopped.split("\n")
    assert first.startswith("NO  command stream of 60 s: stops") and first.split()[-5:] == ["3", "in", "7", "tasks", "0"]
    assert [cause.strip() for cause in causes] == ["late", "odom silent"]


def test_the_file_is_json_without_nan_and_whole_or_not_there(tmp_path):
    file = tmp_path / "bench.json"
    graph.write_json(file, {"rows": [{"p99": math.nan, "n": 3}]})
    assert json.loads(file.read_text(), parse_constant=pytest.fail) == {"rows": [{"p99": None, "n": 3}]}
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
    with pytest.raises(CommandError, match="cannot write"):
        graph.write_json(tmp_path / "no" / "such" / "folder.json", {})


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "1e9"])
def test_a_length_that_is_none_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number of seconds"):
        graph._seconds(text)


def test_the_verb_knows_it():
    done = subprocess.run([sys.executable, "-m", "pi_policy_node", "bench", "graph", "--help"], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0 and "--load" in done.stdout and "--json" in done.stdout
