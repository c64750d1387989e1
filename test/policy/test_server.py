"""Our server: many robots, batches, back-pressure, keys, TLS, and peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.request

import msgpack
import numpy as np
import pytest
from remote_helpers import ROBOT, WIDTH, BatchEcho, Echo, observation, wait
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from pi_policy_node.policy.remote import pack, server, unpack
from pi_policy_node.policy.remote.client import RemotePolicy
from pi_policy_node.policy.remote.link import LinkDown, LinkState
from pi_policy_node.policy.remote.server import Server, ServerThread


def request(first=0.0, prompt="go", number=None, **asked):
    state = np.zeros(WIDTH)
    state[0] = first
    message = {"state": state, "prompt": prompt, "images": {}}
    if number is not None:
        message["pi"] = {"id": number, **asked}
    return pack(message)


class Peer:
    """A bare connection, past the metadata."""

    def __init__(self, port, **options):
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(
            connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None, proxy=None, **options))
        self.metadata = unpack(self.socket.recv(timeout=20))

    def ask(self, data, limit=20):
        self.socket.send(data)
        return self.read(limit)

    def read(self, limit=20):
        frame = self.socket.recv(timeout=limit)
        return frame if isinstance(frame, str) else unpack(frame)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.stack.close()


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
def port(echo):
    with ServerThread(Server(echo, ROBOT, port=0)) as port:
        yield port


def test_plain_requests(port):
    with Peer(port) as peer:
        assert peer.metadata["action_names"] == list(ROBOT.action_names) and peer.metadata["pi"]["version"] == 1
        reply = peer.ask(request(first=4))
        assert (reply["actions"][:, 0] == 4).all()
        assert "pi" not in reply and "prev_total_ms" not in reply["server_timing"]
        assert peer.ask(request(first=5))["server_timing"]["prev_total_ms"] > 0


def test_health(port):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/healthz") as answer:
        assert answer.status == 200 and answer.read() == b"OK\n"


@pytest.mark.parametrize("data, words", [
    (b"\xc1", "not msgpack"), (request()[:-20], "not msgpack"), ("hello", "a text frame; observations are binary"),
    (msgpack.packb([1]), "a list where a map"), (pack({"state": np.zeros(3), "prompt": ""}), r"of shape \[3\]"),
    (request(prompt="bad"), "say something good"), (request(prompt="bug"), "ZeroDivisionError"),
    (pack({"pi": 3}), "'pi' must be a map with an 'id'"),
])
def test_errors_as_the_protocol_has_them(port, data, words):
    with Peer(port) as peer:
        answer = peer.ask(data)
        assert isinstance(answer, str)
        assert re.search(words, answer), answer
        with pytest.raises(ConnectionClosed) as caught:
            peer.socket.recv(timeout=20)
        assert caught.value.rcvd.code == 1011
    with Peer(port) as peer:
        assert (peer.ask(request(first=1))["actions"][:, 0] == 1).all()


def test_errors_with_the_extension_name_the_request(port):
    with Peer(port) as peer:
        for number, (data, code) in enumerate([
                (request(prompt="bad", number=0), "input"), (request(prompt="bug", number=1), "failed"),
                (request(number=2, deadline_ms=-5.0), "deadline"), (request(number=3, deadline_ms="soon"), "input"),
                (request(number=4, prefix=np.zeros((2, 3))), "input")]):
            said = peer.ask(data)["pi"]
            assert (said["id"], said["code"]) == (number, code) and said["error"]
        assert peer.ask(request(number="last"))["pi"]["id"] == "last"


def test_the_newest_observation_wins(echo, port):
    echo.gate.clear()
    with Peer(port) as peer:
        peer.socket.send(request(first=0, number=0))
        wait(lambda: echo.seen)
        for n in range(1, 6):
            peer.socket.send(request(first=n, number=n))
        replaced = [peer.read()["pi"] for _ in range(4)]
        assert [(said["id"], said["code"]) for said in replaced] == [(n, "superseded") for n in range(1, 5)]
        echo.gate.set()
        answers = [peer.read() for _ in range(2)]
        assert [(answer["pi"]["id"], answer["actions"][0, 0]) for answer in answers] == [(0, 0), (5, 5)]
    assert len(echo.seen) == 2


def test_a_plain_client_that_hurries_gets_one_answer_per_request(echo, port):
    echo.gate.clear()
    with Peer(port) as peer:
        peer.socket.send(request(first=0))
        wait(lambda: echo.seen)
        for n in range(1, 5):
            peer.socket.send(request(first=n))
        # All have been read once a later connection's request has come through the same readers.
        with Peer(port) as other:
            other.socket.send(request(first=9))
            time.sleep(0.2)
            echo.gate.set()
            assert other.read()["actions"][0, 0] == 9
        firsts = [peer.read()["actions"][0, 0] for _ in range(5)]
        assert firsts[0] == 0 and firsts[-1] == 4 and len(echo.seen) <= 6


def test_requests_that_meet_are_answered_in_one_batch_each_for_its_robot():
    policy = BatchEcho(seconds=0.02)
    with ServerThread(Server(policy, ROBOT, port=0, largest_batch=8)) as port:
        failures = []

        def robot(number):
            with Peer(port) as peer:
                for n in range(10):
                    first = 1000 * number + n
                    reply = peer.ask(request(first=first, number=n, prefix=np.full((1, WIDTH), -number)))
                    if (reply["actions"][1, 0], reply["pi"]["id"], reply["actions"][0, 5]) != (first, n, -number):
                        failures.append((number, n, reply))

        robots = [threading.Thread(target=robot, args=(number,)) for number in range(1, 13)]
        for thread in robots:
            thread.start()
        for thread in robots:
            thread.join(30)
        assert not failures
        assert max(policy.batches) <= 8 and np.mean(policy.batches) > 3


def test_one_bad_request_does_not_take_its_batch_down():
    policy = BatchEcho(seconds=0.01)
    policy.gate.clear()
    with ServerThread(Server(policy, ROBOT, port=0)) as port:
        peers = [Peer(port) for _ in range(4)]
        peers[0].socket.send(request(number=0))
        wait(lambda: policy.seen)
        for number, peer in enumerate(peers[1:], start=1):
            peer.socket.send(request(first=number, number=number, prompt="bad" if number == 2 else "go"))
        time.sleep(0.2)
        policy.gate.set()
        answers = [peer.read() for peer in peers]
        assert [("error" in answer["pi"]) for answer in answers] == [False, False, True, False]
        assert answers[3]["actions"][0, 0] == 3
        for peer in peers:
            peer.close()


def test_actions_that_are_not_finite_are_not_sent():
    class Diverged(Echo):
        def infer(self, obs, **options):
            result = super().infer(obs, **options)
            result.actions[3, 2] = float("nan")
            return result

    with ServerThread(Server(Diverged(), ROBOT, port=0)) as port, Peer(port) as peer:
        assert "not finite" in peer.ask(request(number=1))["pi"]["error"]


def test_a_policy_that_remembers_gets_one_instance_per_robot():
    made = []
    with ServerThread(Server(Echo(), ROBOT, port=0, make_own=lambda: made.append(Echo()) or made[-1])) as port:
        with Peer(port) as one, Peer(port) as other:
            one.ask(request(first=1))
            other.ask(request(first=2))
            one.ask(request(first=3))
        assert [[obs.state[0] for obs, *_ in policy.seen] for policy in made] == [[1, 3], [2]]


def test_the_key_is_checked(echo):
    with ServerThread(Server(echo, ROBOT, port=0, api_key="sesame")) as port:
        for headers in (None, {"Authorization": "Api-Key sesam"}, {"Authorization": "sesame"},
                        {"Authorization": "Api-Key sesame2"}, {"Authorization": "Api-Key \u00fcber"}):
            with pytest.raises(InvalidStatus, match="401"):
                Peer(port, additional_headers=headers)
        with Peer(port, additional_headers={"Authorization": "Api-Key sesame"}) as peer:
            assert peer.ask(request(first=1))["actions"][0, 0] == 1
        test_health(port)


def test_our_client_says_why_it_was_refused(echo, tmp_path):
    (tmp_path / "key").write_text("wrong")
    with ServerThread(Server(echo, ROBOT, port=0, api_key="sesame")) as port:
        policy = RemotePolicy(ROBOT, url=f"ws://127.0.0.1:{port}", api_key_file=str(tmp_path / "key"),
                              connect_limit=1.0)
        with pytest.raises(LinkDown, match="HTTP 401 .wrong or no API key"):
            policy.warm_up()
        policy.close()


def test_too_many_connections_are_told_so(echo):
    with ServerThread(Server(echo, ROBOT, port=0, max_connections=2)) as port:
        with Peer(port), Peer(port):
            with pytest.raises(InvalidStatus, match="503"):
                Peer(port)
        wait(lambda: _accepts(port))


def _accepts(port):
    try:
        with Peer(port):
            return True
    except InvalidStatus:
        return False


def test_oversized_frames_are_refused(echo):
    with ServerThread(Server(echo, ROBOT, port=0, max_message=100_000)) as port:
        with Peer(port) as peer:
            peer.socket.send(b"x" * 200_000)
            with pytest.raises(ConnectionClosed) as caught:
                peer.socket.recv(timeout=20)
            assert caught.value.rcvd.code == 1009
        with Peer(port) as peer:
            assert peer.ask(request(first=1))["actions"][0, 0] == 1


def test_tls(echo, tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
                   check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ServerThread(Server(echo, ROBOT, port=0, tls=context)) as port:
        trusted = RemotePolicy(ROBOT, url=f"wss://127.0.0.1:{port}", ca_file=str(certificate))
        trusted.warm_up()
        assert trusted.infer(observation(first=1)).actions[0, 0] == 1 and trusted.link.healthy()
        trusted.close()
        stranger = RemotePolicy(ROBOT, url=f"wss://127.0.0.1:{port}", connect_limit=1.0)
        with pytest.raises(LinkDown, match="CERTIFICATE_VERIFY_FAILED"):
            stranger.warm_up()
        stranger.close()


def test_a_peer_that_does_not_read_is_cut_off_and_harms_nobody(echo, monkeypatch):
    monkeypatch.setattr(server, "SEND_LIMIT", 0.3)
    reply = server.Session._reply
    padding = np.zeros(4_000_000)  # 32 MB: more than any socket buffer holds
    monkeypatch.setattr(server.Session, "_reply", lambda self, result, job: reply(self, result, job) | (
        {"padding": padding} if job.request.observation.prompt == "huge" else {}))
    served = Server(echo, ROBOT, port=0)
    with ServerThread(served) as port:
        sleepy = socket.create_connection(("127.0.0.1", port))
        sleepy.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        data = request(prompt="huge")
        sleepy.sendall(bytes([0x82, 0x80 | 126]) + len(data).to_bytes(2, "big") + bytes(4) + data)
        wait(lambda: echo.seen)
        with Peer(port) as peer:
            for n in range(20):
                assert peer.ask(request(first=n))["actions"][0, 0] == n
        wait(lambda: served.connections == 0)
        sleepy.close()


def test_fuzzed_and_vanishing_peers_leave_nothing_behind(echo):
    rng = random.Random(0)
    whole = request(number=1, deadline_ms=100.0)

    def rubbish():
        kind = rng.randrange(4)
        if kind == 0:
            return whole[:rng.randrange(len(whole))]
        if kind == 1:
            data = bytearray(whole)
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
        if kind == 2:
            return rng.randbytes(rng.randrange(300))
        return msgpack.packb({rng.choice(["state", "images", "prompt", "pi", 3]): rng.choice([None, 1, "x", [], {}])})

    served = Server(echo, ROBOT, port=0)
    with ServerThread(served) as port:
        _abuse(port, rng, rubbish)
        with Peer(port) as peer:
            assert peer.ask(request(first=7))["actions"][0, 0] == 7
        wait(lambda: served.connections == 0)


def _abuse(port, rng, rubbish):
    for n in range(150):
        if n % 5 == 0:  # not even a handshake
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(rng.randbytes(rng.randrange(200)))
            continue
        peer = Peer(port)
        try:
            peer.socket.send(rubbish())
            if n % 3:
                peer.read()
        except ConnectionClosed:
            pass
        if n % 2:
            with contextlib.suppress(OSError):
                peer.socket.socket.shutdown(socket.SHUT_RDWR)  # gone without a word
        peer.close()


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_stays_flat(echo, port):
    """The 10,000 requests of `./pi bench serve --soak`, in small."""
    picture = np.zeros((64, 64, 3), np.uint8)
    data = pack({"state": np.zeros(WIDTH), "prompt": "go", "images": {"front_camera": picture}, "pi": {"id": 1}})
    with Peer(port) as peer:
        for n in range(1500):
            peer.ask(data)
            echo.seen.clear()
            if n == 300:
                start = resident()
        assert resident() - start < 4 << 20


def test_restart_in_mid_flight_every_client_recovers():
    gate = Echo(seconds=0.005)
    with ServerThread(Server(gate, ROBOT, port=0)) as port:
        robots = [RemotePolicy(ROBOT, url=f"ws://127.0.0.1:{port}", timeout=10.0) for _ in range(4)]
        for robot in robots:
            robot.warm_up()
            robot.infer(observation())
    wait(lambda: all(robot.link.status.state == LinkState.DOWN for robot in robots))
    for robot in robots:
        with pytest.raises(LinkDown):
            robot.infer(observation())
    with ServerThread(Server(gate, ROBOT, port=port)):
        wait(lambda: all(robot.link.status.state == LinkState.UP for robot in robots))
        for n, robot in enumerate(robots):
            assert robot.infer(observation(first=n)).actions[0, 0] == n
            robot.close()


def test_a_port_in_use_is_an_error_of_the_caller(port, echo):
    async def again():
        await Server(echo, ROBOT, port=port).run()

    with pytest.raises(OSError, match="in use"):
        asyncio.run(again())
