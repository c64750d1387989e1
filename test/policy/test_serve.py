"""`./pi serve` as a process, and its bad arguments."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from remote_helpers import ROBOT, WIDTH, observation

from pi_policy_node.__main__ import main
from pi_policy_node.policy.base import Observation, Prefix
from pi_policy_node.policy.remote.client import RemotePolicy

COMMAND = [sys.executable, "-m", "pi_policy_node", "serve"]


def test_it_serves_until_told_to_stop(tmp_path):
    key = tmp_path / "key"
    key.write_text("sesame\n")
    process = subprocess.Popen([*COMMAND, "--policy", "scripted", "--port", "0", "--api-key-file", str(key)],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        line = process.stdout.readline()
        port = re.fullmatch(r"serving scripted for pi_mobile on ws://127.0.0.1:(\d+), ready after .*\n", line)[1]
        policies = [RemotePolicy(ROBOT, url=f"ws://127.0.0.1:{port}", api_key_file=str(key), timeout=10.0)
                    for _ in range(2)]
        home = Observation({}, ROBOT.home, "wave", 100.0)
        for policy in policies:
            policy.warm_up()
        chunks = [policy.infer(home).actions for policy in policies]
        np.testing.assert_array_equal(*chunks)
        # Each connection has a scripted policy of its own: one goes on, the other begins anew.
        later = Observation({}, chunks[0][25], "wave", 100.0 + 25 * ROBOT.dt)
        on = policies[0].infer(later, prefix=Prefix(chunks[0][25:30])).actions
        np.testing.assert_allclose(on[:25], chunks[0][25:], atol=1e-9)
        assert np.abs(chunks[0][-1] - chunks[0][0])[:WIDTH].max() > 0.01
        for policy in policies:
            policy.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stdout.read()
    finally:
        process.kill()


@pytest.mark.parametrize("arguments, words", [
    (["--policy", "nope"], "there is no policy 'nope'"),
    (["--policy", "remote"], "serves nobody"),
    (["--policy", "pi0"], "needs its weights: --checkpoint"),
    (["--port", "99999"], "must be 0 to 65535"),
    (["--batch", "0"], "--batch is 0, but must be at least 1"),
    (["--robot", "nowhere"], "nowhere"),
    (["--tls-cert", "/nowhere.pem"], "give both"),
    (["--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key"], "cannot be used"),
    (["--api-key-file", "/nowhere.key"], "API key cannot be read"),
    (["--api-key-file", "/dev/null"], "holds no API key"),
    (["--host", "203.0.113.7", "--port", "0"], "cannot listen on 203.0.113.7"),
])
def test_bad_arguments_are_one_line(arguments, words, capsys):
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.strip().splitlines()) == 1


def test_a_hurried_stop():
    process = subprocess.Popen([*COMMAND, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        port = re.search(r":(\d+),", process.stdout.readline())[1]
        policy = RemotePolicy(ROBOT, url=f"ws://127.0.0.1:{port}", timeout=10.0)
        policy.warm_up()
        policy.infer(observation())
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)  # with a connection open
        assert process.wait(20) == 0
        assert time.monotonic() - begin < 15
        policy.close()
    finally:
        process.kill()
