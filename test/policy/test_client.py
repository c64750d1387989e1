"""Our client against a server of openpi's kind, an independent double of it, and against our own."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from openpi_double import OpenpiDouble, encode
from remote_helpers import ROBOT, WIDTH, Echo, observation, wait

from pi_policy_node.policy.base import Cancelled, DeadlineExceeded, InputError, Policy, PolicyError, Prefix
from pi_policy_node.policy.remote.client import RemotePolicy
from pi_policy_node.policy.remote.link import LinkDown, LinkState
from pi_policy_node.policy.remote.server import Server, ServerThread


def rows(observation):
    actions = np.zeros((50, WIDTH), np.float32)
    actions[:, 0] = observation["state"][0]
    return actions


@pytest.fixture
def remote():
    made = []

    def make(url, **options):
        made.append(RemotePolicy(ROBOT, url=url, **options))
        return made[-1]

    yield make
    for policy in made:
        policy.close()


def test_it_is_a_policy(remote):
    with OpenpiDouble(rows) as server:
        policy = remote(server.url)
        assert isinstance(policy, Policy)
        policy.warm_up()
        assert policy.link.healthy() and policy.link.extension is None
        for n in range(5):
            result = policy.infer(observation(first=n))
            assert result.actions.shape == (50, WIDTH) and (result.actions[:, 0] == n).all()
            assert 0 < result.timing["server"] <= result.timing["round trip"] < 5
        sent = server.seen[0]
        assert sent["prompt"] == "go" and sent["images"]["base_0_rgb"].shape == (32, 32, 3)


def test_the_layout_of_requests_is_configurable(remote):
    with OpenpiDouble(rows) as server:
        server.infer = lambda sent: np.zeros((50, WIDTH))
        policy = remote(server.url, image_key="observation/{name}", state_key="observation/state",
                        prompt_key="task.words", channels_first=True)
        policy.warm_up()
        policy.infer(observation(size=(6, 8)))
        sent = server.seen[0]
        assert sent["observation/front_camera"].shape == (3, 6, 8) and sent["task"] == {"words": "go"}
        assert sent["observation/state"].shape == (WIDTH,)


def test_committed_rows_are_kept_with_a_server_that_knows_none(remote):
    with OpenpiDouble(rows) as server:
        policy = remote(server.url)
        policy.warm_up()
        prefix = Prefix(np.full((4, WIDTH), 0.5))
        actions = policy.infer(observation(first=2), prefix=prefix).actions
        assert (actions[:4] == 0.5).all() and (actions[4:, 0] == 2).all()


def test_an_error_of_the_server_is_told_and_the_link_comes_back(remote):
    def infer(sent):
        if sent["prompt"] == "crash":
            raise ValueError("no such thing as a crash")
        return rows(sent)

    with OpenpiDouble(infer) as server:
        policy = remote(server.url)
        policy.warm_up()
        with pytest.raises(PolicyError, match="no such thing as a crash"):
            policy.infer(observation(prompt="crash"))
        wait(lambda: policy.link.status.state == LinkState.UP)
        policy.warm_up()
        assert (policy.infer(observation(first=3)).actions[:, 0] == 3).all()


def test_a_late_answer_is_not_taken_for_the_next_one(remote):
    pause = [0.4]

    def infer(sent):
        time.sleep(pause.pop() if pause else 0)
        return rows(sent)

    with OpenpiDouble(infer) as server:
        policy = remote(server.url)
        policy.warm_up()
        begin = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="no answer from ws://"):
            policy.infer(observation(first=1), deadline=begin + 0.1)
        assert time.monotonic() - begin < 0.3
        assert (policy.infer(observation(first=2)).actions[:, 0] == 2).all()


def test_cancel(remote):
    with OpenpiDouble(lambda sent: time.sleep(0.5) or rows(sent)) as server:
        policy = remote(server.url)
        policy.warm_up()
        cancel = threading.Event()
        threading.Timer(0.1, cancel.set).start()
        begin = time.monotonic()
        with pytest.raises(Cancelled):
            policy.infer(observation(), cancel=cancel)
        assert time.monotonic() - begin < 0.4


def test_no_server_fails_at_once_and_is_found_later(remote):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    policy = remote(f"ws://127.0.0.1:{port}", connect_limit=0.3)
    wait(lambda: policy.link.status.state == LinkState.DOWN)
    begin = time.monotonic()
    with pytest.raises(LinkDown, match="no connection to ws://.*refused"):
        policy.infer(observation())
    assert time.monotonic() - begin < 0.1
    with pytest.raises(ConnectionError):  # what a caller that knows nothing of links can catch
        policy.warm_up()
    assert not policy.link.healthy()
    with OpenpiDouble(rows, port=port):
        wait(lambda: policy.link.status.state == LinkState.UP)
        assert (policy.infer(observation(first=4)).actions[:, 0] == 4).all()
    wait(lambda: policy.link.status.state == LinkState.DOWN)


def test_a_server_that_dies_in_mid_flight(remote):
    with OpenpiDouble(rows) as server:
        server.frames = lambda sent: []  # never answers
        policy = remote(server.url, timeout=5.0)
        policy.warm_up()
        failure = []

        def ask():
            try:
                policy.infer(observation())
            except PolicyError as error:
                failure.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        wait(lambda: server.seen)
    asking.join(5)
    assert isinstance(failure[0], (LinkDown, DeadlineExceeded)), failure


@pytest.mark.parametrize("frames, words", [
    (lambda sent: [b"\xc1"], "not msgpack"),
    (lambda sent: [msgpack.packb({"no": 1})], "'actions' are missing"),
    (lambda sent: [msgpack.packb([1])], "'actions' are missing"),
    (lambda sent: [msgpack.packb({"actions": np.zeros((50, 7))}, default=encode)], "7 columns.*another robot"),
    (lambda sent: [msgpack.packb({"actions": np.full((50, WIDTH), np.nan)}, default=encode)], "not finite"),
])
def test_answers_that_are_none(remote, frames, words):
    with OpenpiDouble(rows) as server:
        server.frames = frames
        policy = remote(server.url)
        policy.warm_up()
        with pytest.raises(PolicyError, match=words):
            policy.infer(observation())
        server.frames = None
        wait(lambda: policy.link.status.state == LinkState.UP)
        policy.warm_up()
        assert (policy.infer(observation(first=5)).actions[:, 0] == 5).all()


@pytest.mark.parametrize("metadata, words", [
    ({"action_names": ["a", "b"], "robot": "toy"}, "for robot 'toy' with 2 actions"),
    ([1, 2], "not a policy server"),
])
def test_the_wrong_server_is_named(remote, metadata, words):
    with OpenpiDouble(rows, metadata=metadata) as server:
        policy = remote(server.url, connect_limit=0.5)
        with pytest.raises(LinkDown, match=words):
            policy.warm_up()


def test_a_port_that_speaks_something_else(remote):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def answer():
            try:
                peer, _ = listener.accept()
                peer.sendall(b"SSH-2.0-nonsense\r\n" * 10)
                peer.close()
            except OSError:
                pass

        threading.Thread(target=answer, daemon=True).start()
        policy = remote(f"ws://127.0.0.1:{listener.getsockname()[1]}")
        wait(lambda: policy.link.status.state == LinkState.DOWN)
        with pytest.raises(LinkDown, match="no connection"):
            policy.infer(observation())


def test_jpeg_needs_a_server_that_takes_it(remote):
    with OpenpiDouble(rows) as server:
        policy = remote(server.url, encoding="jpeg", connect_limit=0.5)
        with pytest.raises(LinkDown, match="raw images only"):
            policy.warm_up()


def test_the_key_is_sent(remote, tmp_path):
    (tmp_path / "key").write_text("sesame\n")
    with OpenpiDouble(rows) as server:
        remote(server.url, api_key_file=str(tmp_path / "key")).warm_up()
        assert server.headers[0]["Authorization"] == "Api-Key sesame"


@pytest.mark.parametrize("options, words", [
    ({"url": "http://x"}, "no address of a policy server"), ({"encoding": "webp"}, "none of auto, raw, jpeg"),
    ({"api_key_file": "/nowhere/key"}, "API key cannot be read"), ({"timeout": 0.0}, "must be positive"),
    ({"url": "wss://x", "ca_file": "/nowhere.pem"}, "certificate /nowhere.pem cannot be read"),
])
def test_wrong_options(options, words):
    with pytest.raises(PolicyError, match=words):
        RemotePolicy(ROBOT, **options)


# ------------------------------------------------------------------------------------------- against our own server

def test_the_extension_carries_prefix_deadline_reset_subtask_and_progress(remote):
    echo = Echo()
    with ServerThread(Server(echo, ROBOT, port=0)) as port:
        policy = remote(f"ws://127.0.0.1:{port}")
        policy.warm_up()
        assert policy.link.extension is not None and policy.horizon == echo.horizon
        policy.reset()
        prefix = Prefix(np.random.default_rng(0).normal(size=(3, WIDTH)))
        result = policy.infer(observation(first=1.5, value=9), prefix=prefix, deadline=time.monotonic() + 0.7)
        np.testing.assert_array_equal(result.actions[:3], prefix.rows)
        assert (result.actions[3:, :3] == (1.5, 2, 9)).all()
        assert result.subtask == "to go" and result.progress == 0.25
        obs, _, deadline = echo.seen[0]
        assert 0.3 < deadline - time.monotonic() < 0.75 and obs.stamp == 12.5 and echo.resets == 1
        policy.infer(observation())
        assert echo.resets == 1


@pytest.mark.parametrize("takes", [True, False])
def test_a_step_is_told_to_a_policy_that_takes_steps(remote, takes):
    echo = Echo()
    echo.takes_subtask = takes
    with ServerThread(Server(echo, ROBOT, port=0)) as port:
        policy = remote(f"ws://127.0.0.1:{port}")
        policy.warm_up()
        assert policy.takes_subtask is takes
        policy.infer(replace(observation(), subtask="pick up the red block"))
        assert echo.seen[0][0].subtask == ("pick up the red block" if takes else "")


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_images_arrive(remote, encoding):
    echo = Echo()
    with ServerThread(Server(echo, ROBOT, port=0)) as port:
        policy = remote(f"ws://127.0.0.1:{port}", encoding=encoding)
        policy.warm_up()
        policy.infer(observation(value=100, cameras=("front_camera", "rear_camera")))
        images = echo.seen[0][0].images
        assert set(images) == {"front_camera", "rear_camera"}
        assert np.abs(images["rear_camera"].astype(int) - 100).max() <= 2


def test_errors_keep_the_connection_and_their_kind(remote):
    with ServerThread(Server(Echo(), ROBOT, port=0)) as port:
        policy = remote(f"ws://127.0.0.1:{port}")
        policy.warm_up()
        since = policy.link.status.since
        with pytest.raises(InputError, match="this prompt is bad; say something good"):
            policy.infer(observation(prompt="bad"))
        with pytest.raises(PolicyError, match="ZeroDivisionError: a bug of ours"):
            policy.infer(observation(prompt="bug"))
        assert policy.infer(observation(first=2)).actions[0, 0] == 2
        assert policy.link.status.since == since


def test_a_slow_server_and_the_answer_after_it(remote):
    echo = Echo()
    with ServerThread(Server(echo, ROBOT, port=0)) as port:
        policy = remote(f"ws://127.0.0.1:{port}")
        policy.warm_up()
        echo.gate.clear()
        with pytest.raises(DeadlineExceeded):
            policy.infer(observation(first=1), deadline=time.monotonic() + 0.1)
        echo.gate.set()
        assert policy.infer(observation(first=2)).actions[0, 0] == 2
        assert policy.link.status.state == LinkState.UP
