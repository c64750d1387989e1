"""`./pi eval --ros`: the same scenes in lockstep and through the launched graph."""

import json
import os
import subprocess
import sys

TRIES = 2  # a busy machine can starve the robot into a hold of its own


def evaluate(folder):
    figures = folder / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "pi_policy_node", "eval", "--policy", "scripted", "--tasks", "put,drive", "--episodes",
         "1", "--seed", "1", "--workers", "1", "--ros", "--json", str(figures)],
        capture_output=True, text=True, timeout=240, env=os.environ, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, json.loads(figures.read_text())


def test_the_graph_plays_the_scenes_of_lockstep(domain, tmp_path):
    """The scripted policy drives where it is told to, not to where the counter is; other words it does not know."""
    for _ in range(TRIES):
        said, figures = evaluate(tmp_path)
        by = {(e["family"], e["mode"]): e for e in figures["episodes"]}
        if by["drive", "graph"]["cause"] != "fault":
            break
    assert [e["seed"] for e in by.values()] == [10_000_001] * 4
    for family, cause, ended in (("put", "refused", "refused"), ("drive", "said done", "succeeded")):
        lockstep, graph = by[family, "rtc"], by[family, "graph"]
        assert lockstep["instruction"] == graph["instruction"]
        assert (lockstep["cause"], graph["cause"], graph["ended"]) == (cause, cause, ended), graph["reason"]
    assert by["drive", "graph"]["asked"] > 5
    assert "graph minus lockstep, 2 pairs: +0.0 points" in said
    assert (tmp_path / "out" / "eval" / "launch.log").read_text().count("robot ready") == 1
