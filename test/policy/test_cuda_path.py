"""What a CUDA device would be asked to do, as far as that can be followed without one: models on tensors that
have a shape and a device (`meta`) but no numbers, and a stand-in for torch.cuda that notes down what is captured.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pi_policy_node.policy.engine import Engine, blank
from pi_policy_node.policy.lane import Given
from pi_policy_node.policy.model import Pi
from pi_policy_node.policy.rtc import Guide
from pi_policy_node.policy.shapes import preset

STAGES = 3
MODES = ("plain", "given", "guided")


class Device(TorchDispatchMode):
    """Answers what is copied from the device with zeros, and notes down what touches the host during a capture."""

    def __init__(self) -> None:
        super().__init__()
        self.capturing, self.found = False, []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if op is torch.ops.aten._to_copy.default and args[0].is_meta and kwargs.get("device") == torch.device("cpu"):
            out = torch.zeros(args[0].shape, dtype=args[0].dtype)
        else:
            out = op(*args, **kwargs)
        for x in tree_leaves((args, kwargs, out)) if self.capturing else ():
            if isinstance(x, torch.Tensor) and not x.is_meta and x.ndim:
                self.found.append(str(op))
        return out


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda, as far as the engine uses it; `log` is what happened to it."""
    log, device = [], Device()

    @contextlib.contextmanager
    def capture(graph, pool):
        log.append(f"capture in {pool}")
        device.capturing = True
        yield
        device.capturing = False

    @contextlib.contextmanager
    def on_stream(stream):
        log.append("aside")
        yield
        log.append("back")

    stream = SimpleNamespace(wait_stream=lambda other: log.append("wait"))
    event = SimpleNamespace(record=lambda: None, elapsed_time=lambda other: 1.0)
    for name, value in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": on_stream,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: log.append("replay")),
        "graph": capture,
        "set_device": lambda device: None,
        "Event": lambda enable_timing: event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    with device:
        yield SimpleNamespace(log=log, device=device)


def engine(name: str) -> Engine:
    with torch.device("meta"):
        model = Pi(preset(name)).cast(torch.bfloat16)
    made = Engine(model, steps=2, compiled=False, lanes=256)
    made.cuda, made.pool = True, "the pool"
    return made


def ask(made: Engine, given, mode: str = "plain") -> torch.Tensor:
    zeros = torch.zeros(len(given.tokens), made.shape.horizon, made.shape.action_dim)
    options = {"given": {"given": Given(zeros, zeros[..., 0].bool())}, "guided": {"guide": Guide(zeros, zeros)}}
    return made.sample(given, noise=zeros, **options.get(mode, {}))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["small", "small05"])
def test_every_stage_stays_on_the_device_and_is_captured_once(cuda, name, mode):
    made = engine(name)
    given = blank(made.shape, prompt=20)
    for _ in range(3):
        actions = ask(made, given, mode)
        assert actions.shape == (1, 50, 32) and actions.device.type == "cpu" and actions.dtype == torch.float32
    assert not cuda.device.found
    assert cuda.log.count("capture in the pool") == STAGES and cuda.log.count("replay") == 3 * STAGES
    first = cuda.log.index("capture in the pool")
    assert cuda.log[:first] == ["wait", "aside", "back", "wait"]  # libraries choose their kernels beforehand
    (lane,) = made._lanes.values()
    assert lane.key.prefix % 16 == 0 and not lane.key.full
    buffers = (lane.images, lane.tokens, lane.index, lane.valid, lane.state, lane.noise, lane.rows, lane.mask)
    assert all(x.is_meta for x in (*buffers, lane.pictures, *tree_leaves(lane.context.kv)))
    assert lane.context.kv[0][0].dtype == torch.bfloat16
    assert made.timing["denoise"] == pytest.approx(1e-3)  # events count in ms


@pytest.mark.parametrize("mode", MODES)
def test_a_camera_that_dies_after_warm_up_captures_nothing(cuda, mode):
    made = engine("small")
    made.warm_up(views=2, modes=("plain", mode))
    cuda.log.clear()
    for there in ([True, True], [False, True]):
        for words in (1, 17, 48):
            given = blank(made.shape, views=2, prompt=words)
            given.image_mask = torch.tensor([there])
            ask(made, given, mode)
    assert cuda.log == ["replay"] * 6 * STAGES


def test_a_batch_nobody_warmed_up_for_just_runs(cuda):
    made = engine("small05")
    given = blank(made.shape, batch=3, prompt=20)
    given.image_mask = torch.tensor([[True, True, True], [True, False, True], [False, False, True]])
    assert ask(made, given).shape == (3, 50, 32)
    assert cuda.log == []
    made.warm_up(views=1, batch=3)
    assert cuda.log.count("replay") == cuda.log.count("capture in the pool") > 0


def test_a_visit_to_the_host_would_be_found(cuda):
    made = engine("small")
    true = made.model.prefill
    made.model.prefill = lambda x, where: (torch.zeros(3) + 1, true(x, where))[1]
    ask(made, blank(made.shape))
    assert cuda.device.found
