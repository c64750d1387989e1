"""`./pi demo` as a person calls it: the exit status says whether the robot did it, and a film is left."""

import os
import subprocess
import sys

import cv2
import pytest

LIMIT = 400  # s: the longest task of a demo takes 240
TRIES = 2  # a busy machine can starve the robot into a hold of its own


def demo(folder, *arguments, typed=None):
    return subprocess.run([sys.executable, "-m", "pi_policy_node", "demo", "--headless", "--out", str(folder), *arguments],
                          input=typed, capture_output=True, text=True, timeout=LIMIT, env=os.environ)


def test_words_are_done_and_filmed(domain, tmp_path):
    words = "drive back"
    for attempt in range(TRIES):
        done = demo(tmp_path, "--policy", "scripted", "--prompt", words)
        if done.returncode == 0:
            break
    assert done.returncode == 0, done.stdout + done.stderr
    for said in (f'"{words}"', "succeeded", "real-time factor", "first motion", "a thought takes", "did what it was told"):
        assert said in done.stdout, done.stdout
    video = cv2.VideoCapture(str(tmp_path / "demo.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) > 20
    assert cv2.imread(str(tmp_path / "demo.png")).shape[1] > 1000


def test_mini_tries_what_it_is_told_and_the_exit_status_says_what_came_of_it(domain, tmp_path):
    """How often it succeeds is what `./pi eval` is for."""
    done = demo(tmp_path, "--prompt", "open the drawer")
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert ("the robot did what it was told" in done.stdout) == (done.returncode == 0), done.stdout
    for said in ('"open the drawer"', "running: open the drawer", "chunks by 'mini'", "first motion", "the simulator says: "):
        assert said in done.stdout, done.stdout


def test_words_that_nobody_understands_are_no_success_and_typed_words_are_said(domain, tmp_path):
    refused = demo(tmp_path, "--prompt", "zorp the frobnicator")
    assert refused.returncode == 1 and "refused" in refused.stdout and "zorp" in refused.stdout
    assert "NOT" in refused.stdout
    typed = demo(tmp_path, "--interactive", "--view", typed="zorp\nstop\nresume\n")
    assert typed.returncode == 0 and "live view: http://127.0.0.1:" in typed.stdout, typed.stdout + typed.stderr
    for said in ("in front of the robot: ", "refused after", "stopped after"):
        assert said in typed.stdout, typed.stdout


@pytest.mark.parametrize("arguments, why", [
    (["--seed", "-1"], "--seed"), (["--interactive", "--prompt", "wave"], "one of them"), (["--out", "/proc/x"], "--out"),
])  # fmt: skip
def test_mistakes_are_named(domain, tmp_path, arguments, why):
    done = demo(tmp_path, *arguments)
    assert done.returncode == 2 and why in done.stderr and "Traceback" not in done.stderr
