"""The real openpi-client package, unmodified, against our server; and its bytes against ours."""

from __future__ import annotations

import numpy as np
import pytest
from openpi_client import msgpack_numpy
from openpi_client.websocket_client_policy import WebsocketClientPolicy
from remote_helpers import ROBOT, WIDTH, Echo

from pi_policy_node.policy.remote import pack, unpack
from pi_policy_node.policy.remote.server import Server, ServerThread


def ask(first=0.0, prompt="go"):
    state = np.zeros(WIDTH, np.float32)
    state[0] = first
    images = {role: np.full((224, 224, 3), 5, np.uint8) for role in ("base_0_rgb", "left_wrist_0_rgb")}
    return {"state": state, "images": images, "prompt": prompt}


def test_it_gets_actions():
    with ServerThread(Server(Echo(), ROBOT, port=0, api_key="sesame")) as port:
        client = WebsocketClientPolicy(host="127.0.0.1", port=port, api_key="sesame")
        assert client.get_server_metadata()["action_names"] == list(ROBOT.action_names)
        for n in range(5):
            result = client.infer(ask(first=n))
            assert result["actions"].shape == (ROBOT.horizon, WIDTH) and (result["actions"][:, 0] == n).all()
            assert (result["actions"][:, 2] == 10).all()
            assert result["server_timing"]["infer_ms"] > 0 and "thinking_ms" in result["policy_timing"]


def test_it_gets_the_error():
    with ServerThread(Server(Echo(), ROBOT, port=0)) as port:
        client = WebsocketClientPolicy(host="127.0.0.1", port=port)
        with pytest.raises(RuntimeError, match="say something good"):
            client.infer(ask(prompt="bad"))


def test_the_same_bytes():
    message = {"state": np.arange(5.0), "image": np.zeros((3, 4, 3), np.uint8), "n": np.float32(2.5), "text": "grüß",
               "nested": {"flag": np.bool_(True), "list": [1, 2.5, None]}}
    assert pack(message) == msgpack_numpy.packb(message)
    theirs = unpack(msgpack_numpy.packb(message))
    np.testing.assert_array_equal(theirs["state"], message["state"])
    assert theirs["n"] == np.float32(2.5) and theirs["nested"] == {"flag": True, "list": [1, 2.5, None]}
