"""mini as a policy: what it takes, what it gives, what it refuses. The weights are random: behaviour is for `eval`."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pi_policy_node.policy import mini, mini_weights
from pi_policy_node.policy.base import CheckpointError, InputError, Observation, PolicyError, Prefix
from pi_policy_node.policy.mini import MiniPolicy
from pi_policy_node.policy.mini_model import Mini
from pi_policy_node.policy.mini_rows import Scales, settle, to_rows
from pi_policy_node.policy.mini_next import Next
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.registry import make_policy
from pi_policy_node.policy.shapes import GemmaShape, MiniShape
from pi_policy_node.robot import load_robot
from pi_policy_node.vision.letterbox import letterbox

CAMERAS = {"front": "front_camera", "left_wrist": "left_wrist_camera", "right_wrist": "right_wrist_camera",
           "rear": "rear_camera", "wide": "front_camera"}
WORDS = ("put", "the", "red", "block", "in", "bin", "pick", "up", "blue", "done")
SMALL = GemmaShape(width=32, depth=2, mlp=48, heads=2, head_dim=16)


@pytest.fixture(autouse=True)
def _one_thread():
    """On a busy machine threads wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def robot():
    return load_robot("pi_mobile")


@pytest.fixture(scope="module")
def weights(robot):
    torch.manual_seed(3)
    shape = MiniShape(vlm=SMALL, expert=SMALL, channels=8)
    model = Mini(shape, len(Words(WORDS)))
    for parameter in model.expert.parameters():  # adaptive norms begin closed: open them, or nothing would matter
        torch.nn.init.normal_(parameter, std=0.1)
    scales = Scales(np.zeros(24), np.ones(24), np.zeros((11, 18)), np.full((11, 18), 0.05))
    return mini_weights.Weights(model.eval(), Words(WORDS), scales, CAMERAS, robot.action_names, {"step": "0"})


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("mini") / "mini.safetensors"
    mini_weights.save(path, weights)
    return path


@pytest.fixture
def policy(robot, file):
    return MiniPolicy(robot, weights=file, seed=0, spread=1.0)


def observation(robot, *, seed=0, prompt="put the red block in the bin", subtask="", stamp=0.0, size=(72, 96)):
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 255, (*size, 3), dtype=np.uint8) for name in CAMERAS.values()}
    return Observation(images, robot.home + 0.01 * rng.standard_normal(18), prompt, stamp, subtask)


def test_a_chunk_is_rows_of_the_robot_and_progress(robot, policy):
    result = policy.infer(observation(robot, subtask="pick up the red block"))
    assert result.actions.shape == (policy.horizon, 18) == (50, 18)
    assert np.isfinite(result.actions).all() and 0 <= result.progress <= 1
    assert result.subtask == "pick up the red block"
    hands = result.actions[:, robot.is_gripper]
    assert hands.min() >= 0 and hands.max() <= 1


def test_committed_rows_come_back_and_are_left_without_a_jump(robot, policy):
    seen = observation(robot, subtask="pick up the red block")
    time = np.arange(17)[:, None] * robot.dt
    committed = seen.state + np.where(robot.is_base, 0.0, 0.1) * time  # at a steady 0.1 per s
    result = policy.infer(seen, prefix=Prefix(committed))
    assert np.array_equal(result.actions[:17], committed)
    arms = ~(robot.is_base | robot.is_gripper)
    steps = np.diff(result.actions[:, arms], axis=0)
    changes = np.abs(np.diff(steps, axis=0))
    at_the_seam = changes[14:17].max()
    assert at_the_seam < 3 * changes[20:].max(), "the seam is no rougher than the rest of the curve"
    with_none = policy.infer(seen).actions
    assert not np.allclose(with_none[17:], result.actions[17:], atol=1e-3), "what is committed matters behind it too"


def test_one_thought_is_like_the_next_unless_they_are_to_spread(robot, file):
    def rows(seed, **options):
        policy = MiniPolicy(robot, weights=file, seed=seed, **options)
        return policy.infer(observation(robot, subtask="pick up the red block")).actions

    assert np.array_equal(rows(0), rows(1)) and not np.allclose(rows(0, spread=1.0), rows(1, spread=1.0), atol=1e-3)
    with pytest.raises(PolicyError, match="spread must be between 0 and 1, not 2"):
        rows(0, spread=2)


def test_the_subtask_is_obeyed_and_changes_what_is_done(robot, file):
    def rows(subtask, **more):
        return MiniPolicy(robot, weights=file, seed=0).infer(observation(robot, subtask=subtask, **more)).actions

    assert np.array_equal(rows("pick up the red block"), rows("pick up the red block"))
    assert np.array_equal(rows("pick up the red block"), rows("pick up the red block", prompt="put the blue bin in"))
    assert not np.allclose(rows("pick up the red block"), rows("done"), atol=1e-4)


def test_it_chooses_the_subtask_now_and_then_and_at_once_on_new_words(robot, file, monkeypatch):
    policy = MiniPolicy(robot, weights=file, seed=0, subtask_every=0.3)
    said = iter(["first", "second", "third", "fourth"])
    monkeypatch.setattr(policy, "_say", lambda *_: [Next(next(said))])
    ask = lambda stamp, **more: policy.infer(observation(robot, stamp=stamp, **more)).subtask  # noqa: E731
    assert [ask(0.0), ask(0.1), ask(0.2), ask(0.3)] == ["first"] * 4
    assert ask(0.35) == "second", "chosen once the answer before was out"
    assert ask(0.4, prompt="put the blue block in the bin") == "third"
    assert ask(0.45, subtask="pick up the blue block") == "pick up the blue block"
    assert ask(0.5, prompt="put the blue block in the bin") == "fourth", "after somebody's words it looks again"


def test_the_base_moves_only_where_the_subtask_is_to_drive(robot, file):
    policy = MiniPolicy(robot, weights=file, seed=0, spread=1.0)

    def speeds(subtask, prefix=None):
        rows = policy.infer(observation(robot, subtask=subtask), prefix=prefix).actions
        return np.abs(rows[:, robot.is_base])

    policy.scales.action_mean[:, robot.is_base] = 0.2  # as if it always wanted to go
    assert speeds("drive to the counter")[1:].min() > 0 and not speeds("pick up the red block").any()
    moving = np.tile(np.where(robot.is_base, 0.2, robot.home), (11, 1))
    slowing = speeds("pick up the red block", Prefix(moving))
    assert (slowing[:11] == 0.2).all() and not slowing[-1].any()
    assert (np.abs(np.diff(slowing, axis=0)) <= robot.acceleration[robot.is_base] * robot.dt + 1e-9).all()


def test_of_the_committed_rows_the_network_is_told_the_first_alone(robot, file, monkeypatch):
    policy, told = MiniPolicy(robot, weights=file, seed=0), []
    act = policy.model.act
    monkeypatch.setattr(policy.model, "act", lambda *what, known, given, **how: told.append((known, given)) or act(
        *what, known=known, given=given, **how))
    turning = np.tile(robot.home, (16, 1))
    turning[:, 0] += 0.02 * np.arange(16)
    for rows in (turning, np.tile(robot.home, (16, 1))):
        policy.infer(observation(robot), prefix=Prefix(rows))
    (known, given), (others, _) = told
    assert given[0].tolist() == [True] + [False] * (given.shape[1] - 1)
    assert torch.equal(known, others), "told more, it goes on as they do, right or wrong"


def test_how_fast_the_base_goes_does_not_tell_where_it_should_go(robot, file):
    def last(speed):
        seen = observation(robot, subtask="drive to the counter")
        seen = replace(seen, state=np.where(robot.is_base, speed, seen.state))
        committed = np.tile(np.where(robot.is_base, speed, robot.home), (11, 1))
        return MiniPolicy(robot, weights=file, seed=0).infer(seen, prefix=Prefix(committed)).actions[-5:]

    assert np.allclose(last(0.0), last(0.3))


def test_that_all_is_done_is_only_said_beyond_doubt(robot, file):
    def first(**options):
        policy = MiniPolicy(robot, weights=file, seed=0, stay=0.0, **options)
        done, other = policy.words.encode("done")[0], policy.words.encode("pick")[0]
        with torch.no_grad():
            policy.model.head.weight.zero_()
            policy.model.head.bias.fill_(-10.0)
            policy.model.head.bias[done], policy.model.head.bias[other] = 0.5, 0.0
        return policy.infer(observation(robot)).subtask.split()[0]

    assert [first(doubt=0.0), first(doubt=0.4), first(), first(doubt=0.6)] == ["done", "done", "pick", "pick"]
    with pytest.raises(PolicyError, match="doubt must be 0 or more, not -1"):
        first(doubt=-1)


def test_it_goes_on_with_what_it_does_unless_something_else_is_clearly_likelier(robot, file):
    def second(stay, prompt="put the red block in the bin"):
        policy = MiniPolicy(robot, weights=file, seed=0, stay=stay)
        bias = policy.model.head.bias
        pick, put = (policy.words.encode(word)[0] for word in ("pick", "put"))
        with torch.no_grad():
            policy.model.head.weight.zero_()
            bias.fill_(-10.0)
            bias[pick], bias[put] = 0.5, 0.0
        assert policy.infer(observation(robot)).subtask.split()[0] == "pick"
        with torch.no_grad():
            bias[pick], bias[put] = 0.0, 0.5  # fourteen words: seven nats
        look = observation(robot, stamp=1.0, prompt=prompt)
        policy.infer(look)
        policy.afterwards()
        return policy.infer(look).subtask.split()[0]

    assert [second(6.0), second(8.0)] == ["put", "pick"]
    assert second(8.0, prompt="put the blue block in the bin") == "put", "a new instruction begins anew"
    with pytest.raises(PolicyError, match="stay must be 0 or more, not -1"):
        second(-1)


def test_words_that_were_begun_are_gone_on_with(robot, file):
    policy = MiniPolicy(robot, weights=file, seed=0)
    obs = observation(robot)
    with torch.inference_mode():
        pictures, there = policy._pictures(obs)
        look = policy._look([obs.prompt], [""], [-1], there, obs.state[None])
        scene = policy.model.see(look, policy.model.find(look, policy.model.look(pictures))[0])
        whole, = policy.model.speak(scene)
        assert whole and [policy.model.speak(scene, begun=whole[:k]) for k in range(len(whole))] == [[whole]] * len(whole)


def test_a_subtask_that_does_not_end_is_tried_otherwise(robot, file):
    def rows(at, subtask="pick up the red block", **options):
        policy = [MiniPolicy(robot, weights=file, seed=seed, **options) for seed in (0, 1)]
        return [[p.infer(observation(robot, subtask=subtask, stamp=t)).actions for t in (0.0, at)][1] for p in policy]

    assert np.array_equal(*rows(5.9)) and not np.array_equal(*rows(6.1))
    assert np.array_equal(*rows(6.1, patience=7.0)) and np.array_equal(*rows(6.1, "drive to the counter"))
    with pytest.raises(PolicyError, match="patience must be 0 or more, not -1"):
        rows(1.0, patience=-1)


def test_letterboxed_pictures_are_seen_as_the_cameras_made_them(robot, policy):
    plain = observation(robot, size=(240, 320), subtask="done")
    boxed = replace(plain, images={name: letterbox(image, (320, 320)) for name, image in plain.images.items()})
    a, b = (policy._pictures(obs)[0] for obs in (plain, boxed))
    assert all(torch.equal(a[eye], b[eye]) for eye in a)
    assert mini.unboxed(np.zeros((224, 224, 3), np.uint8), 4 / 3).shape == (168, 224, 3)


def test_a_batch_answers_as_one_by_one(robot, file):
    observations = [observation(robot, seed=k, subtask=words) for k, words in
                    enumerate(("pick up the red block", "done", "put the red block in the blue bin"))]
    prefix = Prefix(observations[1].state + np.zeros((7, 18)))
    prefixes = [None, prefix, None]
    alone = []
    policy = MiniPolicy(robot, weights=file, seed=0)
    noise = torch.randn(3, 11, 18, generator=torch.Generator().manual_seed(5))
    for k, (obs, given) in enumerate(zip(observations, prefixes)):
        policy.model.act, act = (lambda scene, _, k=k, **more: type(policy.model).act(
            policy.model, scene, noise[k : k + 1], **more)), policy.model.act
        alone.append(policy.infer(obs, prefix=given))
    policy.model.act = lambda scene, _, **more: type(policy.model).act(policy.model, scene, noise, **more)
    together = policy.infer_batch([SimpleNamespace(observation=o, prefix=p) for o, p in zip(observations, prefixes)])
    for one, other in zip(alone, together):
        assert np.allclose(one.actions, other.actions, atol=2e-3) and one.subtask == other.subtask
        assert abs(one.progress - other.progress) < 1e-3


def test_words_it_does_not_know_are_said(policy):
    assert policy.unknown("Put the RED vase, in the red teapot!") == ("vase", "teapot")
    assert policy.unknown("put the red block in the bin") == ()


@pytest.mark.parametrize("change, message", [
    ({"prompt": "  "}, "told nothing"),
    ({"images": {}}, "at least one of front_camera"),
    ({"state": np.full(18, np.nan)}, "18 finite numbers"),
    ({"state": np.zeros(4)}, "18 finite numbers"),
    ({"state": np.where(np.arange(18) == 3, 1e30, 0.0)}, "no joint is beyond 1000"),
])
def test_what_nobody_can_answer_is_refused(robot, policy, change, message):
    with pytest.raises(InputError, match=message):
        policy.infer(replace(observation(robot), **change))


def test_a_camera_less_is_no_error_and_is_noticed(robot, file):
    seen = observation(robot, subtask="done")
    blind = replace(seen, images={k: v for k, v in seen.images.items() if k != "rear_camera"})
    a, b = (MiniPolicy(robot, weights=file, seed=0).infer(obs).actions for obs in (seen, blind))
    assert np.isfinite(b).all() and not np.array_equal(a, b)


def test_where_places_are_matters_where_all_that_is_around_is_seen(robot, file):
    policy = MiniPolicy(robot, weights=file, seed=0)
    seen = observation(robot, subtask="pick up the red block")
    half = replace(seen, images={name: image for name, image in seen.images.items() if name != "rear_camera"})
    before = [policy.infer(obs).actions for obs in (seen, half)]
    policy.model.room.read[-1].bias.data += 1.0  # all places are a metre farther
    after = [policy.infer(obs).actions for obs in (seen, half)]
    assert not np.allclose(before[0], after[0]) and np.array_equal(before[1], after[1])


def test_missing_or_damaged_weights_say_what_to_do(robot, file, tmp_path):
    with pytest.raises(PolicyError, match="./pi train mini"):
        make_policy("mini", robot, weights=tmp_path / "none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="cut off"):
        MiniPolicy(robot, weights=broken)
    with pytest.raises(PolicyError, match="trained on another robot"):
        MiniPolicy(load_robot("single_arm"), weights=file)


def test_weights_are_read_as_they_were_written(weights, file):
    again = mini_weights.load(file)
    assert again.words.words == WORDS and again.model.shape == weights.model.shape and again.about == {"step": "0"}
    for name, value in weights.model.state_dict().items():
        assert torch.allclose(value, again.model.state_dict()[name], atol=2e-3), name


def test_the_curve_goes_through_every_knot():
    knots = np.random.default_rng(0).standard_normal((11, 3))
    rows = to_rows(knots, 5, 50)
    assert np.allclose(rows[::5], knots[:10])
    line = np.outer(np.arange(11), [1.0, -2.0])
    assert np.allclose(to_rows(line, 5, 51), np.outer(np.arange(51) / 5, [1.0, -2.0])), "a straight line stays one"


def test_a_plan_leaves_the_committed_rows_smoothly_and_ends_where_it_is_wanted():
    robot, wrist, hand = load_robot("pi_mobile"), 5, 6
    rows = np.tile(robot.home, (50, 1))
    rows[:, wrist] = 1.0
    rows[20:, hand] = 0.0
    committed = np.tile(robot.home, (6, 1))
    committed[:, wrist] = np.linspace(0.0, 0.1, 6)
    plan = settle(robot, rows, committed, robot.home)
    assert np.array_equal(plan[:6], committed)
    assert np.abs(plan[30:, wrist] - 1.0).max() < 0.1
    bend, jerk = (np.abs(np.diff(plan[3:, wrist], k)).max() / robot.dt**k for k in (2, 3))
    assert bend < robot.acceleration[wrist] and jerk < robot.jerk[wrist], "a jump of a radian is no jump any more"
    assert np.array_equal(plan[6:, hand], rows[6:, hand]), "a hand opens when it is to, and not before"


def test_a_plan_behind_no_other_begins_where_the_robot_is():
    robot = load_robot("pi_mobile")
    rows = np.tile(robot.home, (50, 1)) + np.where(robot.velocity < 1.0, 0.05, 0.3)
    plan = settle(robot, rows, None, robot.home)
    own = ~(robot.is_base | robot.is_gripper)
    assert len(plan) == 50 and np.array_equal(plan[0, own], robot.home[own])
    gathering = np.abs(np.diff(np.concatenate([[robot.home], plan])[:, own], 2, axis=0)).max(0) / robot.dt**2
    assert (gathering < robot.acceleration[own]).all(), "out of rest"
    assert np.array_equal(plan[0, robot.is_gripper], rows[0, robot.is_gripper]), "a hand may be told to press"
    assert (np.diff(plan[:, robot.is_base], axis=0) <= robot.acceleration[robot.is_base] * robot.dt + 1e-9).all()
    assert not plan[0, robot.is_base].any() and np.allclose(plan[-1, robot.is_base], 0.3)


def test_what_is_smooth_already_stays_as_it_is():
    robot = load_robot("pi_mobile")
    rows = np.tile(robot.home, (50, 1))
    rows[:, 0] += 0.1 * (np.arange(50) * robot.dt) ** 2
    assert np.allclose(settle(robot, rows, rows[:4], robot.home), rows, atol=1e-9)
