"""A checkpoint in charge of a robot, whole: files in, rows out, chunks that fit each other."""

import threading
import time
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from words import make

from pi_policy_node.bench.seeded import model
from pi_policy_node.policy.base import Cancelled, InputError, Observation, PolicyError, Prefix
from pi_policy_node.policy.checkpoint import save
from pi_policy_node.policy.registry import make_policy
from pi_policy_node.policy.shapes import preset
from pi_policy_node.policy.statistics import Statistics
from pi_policy_node.policy.vla import VlaPolicy
from pi_policy_node.robot import load_robot


@pytest.fixture(scope="module")
def robot():
    torch.set_num_threads(1)
    return load_robot()


@pytest.fixture(scope="module", params=["small", "small05"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    one = np.ones(18)
    stats = {k: Statistics(mean=0 * one, std=0.3 * one, q01=-one, q99=one) for k in ("state", "actions")}
    save(folder, model(preset(request.param)), statistics=stats)
    make(folder)
    return folder


def observation(robot, seed: int = 0, stamp: float = 1.0) -> Observation:
    rng = np.random.default_rng(seed)
    images = {c.name: rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for c in robot.cameras if c.required}
    return Observation(images=images, state=rng.uniform(0, 0.3, 18), prompt="pick up the red block", stamp=stamp)


def policy(robot, folder, **options) -> VlaPolicy:
    return make_policy("vla", robot, checkpoint=folder, dtype="float32", steps=10, seed=3, **options)


def test_an_observation_becomes_a_chunk_in_the_robots_units(robot, folder):
    made = policy(robot, folder)
    made.warm_up()
    obs = observation(robot)
    result = made.infer(obs)
    assert (made.dt, made.horizon) == (robot.dt, 50) and result.actions.shape == (50, 18)
    assert np.isfinite(result.actions).all() and {"vision", "prefill", "denoise"} <= result.timing.keys()
    elsewhere = replace(obs, state=obs.state + 0.1)  # z-scores and quantiles know the state: actions follow it
    assert not np.allclose(result.actions, made.infer(elsewhere).actions, atol=1e-3)


@pytest.mark.parametrize("delay", [1, 4, 8])
@pytest.mark.parametrize("chunking", ["guided", "trained"])
def test_chunks_join_despite_the_delay(robot, folder, chunking, delay):
    """The jump from the last committed row to the first new one, against starting afresh."""
    jumps = {}
    for kind in (chunking, "none"):
        made = policy(robot, folder, chunking=kind)
        before = made.infer(observation(robot, 0)).actions
        rows = before[10:]
        prefix = Prefix(rows[:delay], rows[delay:])
        after = made.infer(observation(robot, 1), prefix=prefix).actions
        assert np.array_equal(after[:delay], rows[:delay])
        jumps[kind] = np.abs(after[delay] - rows[delay])[~robot.is_base].mean()
    if chunking == "guided":  # the network here is not trained: only guidance can know better
        assert jumps["guided"] <= jumps["none"] / 5
    else:
        assert np.isfinite(jumps["trained"])


def test_the_prefix_is_absolute_whatever_the_state_is_now(robot, folder):
    """Committed rows are made relative to the new state: guidance pulls to the same rows in the room."""
    made = policy(robot, folder)
    obs = observation(robot, 0)
    rows = made.infer(obs).actions
    for shift in (0.0, 0.6):
        after = made.infer(replace(obs, state=obs.state + shift), prefix=Prefix(rows[:20], rows[20:])).actions
        assert np.abs(after[20:24] - rows[20:24])[:, ~robot.is_base].mean() < 0.2


def test_what_is_not_commanded_stays_and_other_rates_are_resampled(robot, folder, tmp_path):
    names = list(robot.action_names[:7])
    (tmp_path / "left.yaml").write_text(
        f"name: left\nrate: 25\nhorizon: 20\ncameras: {{base_0_rgb: front_camera}}\nstate: {{names: {names}}}\n"
        f"actions: {{names: {names}, relative: [true, true, true, true, true, true, false]}}\n"
    )
    made = policy(robot, folder, embodiment=tmp_path / "left.yaml")
    assert made.horizon == 39 and made.engine.shape.horizon == 20
    obs = observation(robot)
    rows = made.infer(obs).actions
    assert rows.shape == (39, 18)
    np.testing.assert_array_equal(rows[:, 7:15], np.broadcast_to(obs.state[7:15], (39, 8)))
    np.testing.assert_array_equal(rows[:, 15:], 0)
    np.testing.assert_allclose(rows[1, :7], (rows[0, :7] + rows[2, :7]) / 2)
    after = made.infer(obs, prefix=Prefix(rows[:6], rows[6:])).actions
    assert np.array_equal(after[:6], rows[:6])


def test_ensembling_averages_and_forgets_on_reset(robot, folder):
    made = policy(robot, folder, chunking="ensemble")
    first = made.infer(observation(robot, 0, stamp=1.0)).actions
    second = made.infer(observation(robot, 1, stamp=1.0)).actions
    fresh = policy(robot, folder, chunking="none")
    fresh.infer(observation(robot, 0))
    alone = fresh.infer(observation(robot, 1)).actions
    weight = np.exp(-0.01)
    np.testing.assert_allclose(second, (first + weight * alone) / (1 + weight), atol=1e-6)
    made.reset()
    assert len(made._ensemble._chunks) == 0


def test_it_says_what_it_is_doing(robot, folder):
    made = policy(robot, folder, subtask_every=60.0)
    result = made.infer(observation(robot))
    inputs = made.transforms.inputs(observation(robot).images, observation(robot).state, "pick up the red block")
    said = made.engine.say(inputs, stop=made.transforms.tokenizer.stop)[0]
    assert any(t >= made.transforms.tokenizer.size for t in said)  # untrained, it says what no tokenizer knows
    assert result.subtask == made.transforms.tokenizer.text(said)
    assert made.infer(observation(robot)).timing.keys() >= {"total", "prepare", "queue"}


def test_cancelled_before_and_blind(robot, folder):
    made = policy(robot, folder)
    cancel = threading.Event()
    cancel.set()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        made.infer(observation(robot), cancel=cancel)
    assert time.monotonic() - started < 1
    with pytest.raises(InputError, match="no picture of front_camera"):
        made.infer(replace(observation(robot), images={}))


def test_wrong_options_are_said(robot, folder, tmp_path):
    for options, message in (
        ({"chunking": "magic"}, "chunking is 'magic'; it can be guided"),
        ({"embodiment": "aloha"}, "aloha has left_waist, left_shoulder, .* which the robot pi_mobile has not"),
        ({"tokenizer": tmp_path / "none"}, "no such tokenizer file"),
        ({"preset": "pi0"}, "not a pi0|not a whole pi0"),
    ):
        with pytest.raises(PolicyError, match=message):
            policy(robot, folder, **options)
    with pytest.raises(PolicyError, match="dtype is 'int3'"):
        make_policy("vla", robot, checkpoint=folder, dtype="int3")


@dataclass
class Request:
    """What the server's batcher hands over."""

    observation: Observation
    prefix: Prefix | None = None
    deadline: float | None = None
    cancel: threading.Event = field(default_factory=threading.Event)


@pytest.mark.parametrize("chunking", ["guided", "trained", "none"])
def test_a_batch_answers_as_one_by_one(robot, folder, chunking):
    """Robots with different words, cameras and previous chunks, some with none."""
    made = policy(robot, folder, chunking=chunking)
    requests = [Request(replace(observation(robot, n), prompt="go " * (n + 1))) for n in range(3)]
    requests[1].observation.images.popitem()
    rows = np.random.default_rng(0).uniform(0, 0.3, (20, 18))
    requests[2].prefix = Prefix(rows[:4], rows[4:])
    noise = torch.randn(3, made.engine.shape.horizon, made.engine.shape.action_dim)
    made._noise = lambda batch: noise
    answers = made.infer_batch(requests)
    for n, request in enumerate(requests):
        made._noise = lambda batch, n=n: noise[n : n + 1]
        alone = made.infer(request.observation, prefix=request.prefix)
        np.testing.assert_allclose(answers[n].actions, alone.actions, rtol=0, atol=1e-5)
    assert np.array_equal(answers[2].actions[:4], rows[:4])


def test_a_batch_has_an_error_for_each_that_cannot_be_answered(robot, folder):
    made = policy(robot, folder)
    requests = [Request(observation(robot, n)) for n in range(4)]
    requests[0] = Request(replace(requests[0].observation, images={}))
    requests[1].cancel.set()
    requests[2].deadline = time.monotonic() - 1
    answers = made.infer_batch(requests)
    assert [type(a).__name__ for a in answers] == ["InputError", "Cancelled", "DeadlineExceeded", "Result"]
    assert [type(a).__name__ for a in made.infer_batch(requests[:2])] == ["InputError", "Cancelled"]


def test_a_batch_is_given_up_when_nobody_waits_for_any_of_it(robot, folder):
    made = policy(robot, folder)
    requests = [Request(observation(robot, n)) for n in range(2)]
    begun, right = [], made.engine.model.vision.blocks[0].register_forward_pre_hook

    def leave(*_):
        begun.append(1)
        for request in requests[: len(begun)]:
            request.cancel.set()

    hook = right(leave)
    assert [type(a).__name__ for a in made.infer_batch(requests)] == ["Result", "Result"]  # one still waits
    requests[0].cancel.clear()
    requests[1].cancel.clear()
    with pytest.raises(Cancelled):
        made.infer_batch(requests)  # the hook has run once before: now both leave
    hook.remove()
