"""From observation to network and back, as the checkpoints were trained."""

import logging

import numpy as np
import pytest
import sentencepiece
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from words import make

from pi_policy_node.environment import share
from pi_policy_node.policy.base import CheckpointError, InputError, PolicyError
from pi_policy_node.policy.embodiment import from_robot, load_embodiment
from pi_policy_node.policy.shapes import preset
from pi_policy_node.policy.statistics import Statistics
from pi_policy_node.policy.tokenizer import Tokenizer, spell
from pi_policy_node.policy.transforms import Transforms
from pi_policy_node.robot import load_robot

EMBODIMENTS = ("aloha", "droid", "libero")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return make(tmp_path_factory.mktemp("words"))


def statistics(size: int, seed: int = 0) -> Statistics:
    rng = np.random.default_rng(seed)
    low = rng.normal(size=size)
    return Statistics(mean=rng.normal(size=size), std=rng.uniform(0.1, 1, size), q01=low, q99=low + rng.uniform(1, 3, size))


def transforms(embodiment, words, name="small05") -> Transforms:
    stats = {"state": statistics(32, 1), "actions": statistics(32, 2)}
    return Transforms(embodiment, preset(name), stats, Tokenizer(words))


# ---- prompts


def test_prompts_are_the_published_formats(words):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(words))
    tokenizer, state = Tokenizer(words), np.array([-1.0, 0.0, 0.999, 3.0, -1.1])
    tokens = tokenizer.prompt("  pick_up the\nblock ", preset("small"))
    newline = pieces.encode("\n")
    assert tokens == [2, *pieces.encode("pick up the block"), *newline] and len(newline) in (1, 2)
    tokens = tokenizer.prompt("pick_up the block", preset("small05"), state)
    assert tokens[0] == 2 and pieces.decode(tokens) == "Task: pick up the block, State: 0 128 255 255 -1;\nAction: "


def test_bins_are_those_of_training():
    edges = np.linspace(-1, 1, 257)
    assert spell(edges[:-1]) == " ".join(map(str, range(256)))  # each bin begins at its edge
    assert spell(np.nextafter(edges[1:-1], -2)) == " ".join(map(str, range(255)))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), ("  \n_ ", "empty"), ("word " * 2000, "reads 48 at most"), ("a\ud800b", "not text")],
)
def test_a_bad_prompt_is_refused(words, text, message):
    with pytest.raises(InputError, match=message):
        Tokenizer(words).prompt(text, preset("small"))


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=12))
def test_any_other_prompt_becomes_tokens(words, text):
    tokenizer = Tokenizer(words)
    try:
        tokens = tokenizer.prompt(text, preset("small"))
    except InputError:
        return
    assert tokens[0] == 2 and all(0 <= t < tokenizer.size for t in tokens)


def test_an_absent_or_wrong_tokenizer_says_what_is_needed(tmp_path, words):
    with pytest.raises(PolicyError, match="no such tokenizer file; pi0 and pi05 need PaliGemma's"):
        Tokenizer(tmp_path / "none.model")
    with pytest.raises(PolicyError, match="no tokenizer.model or paligemma_tokenizer.model in it"):
        Tokenizer.beside(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"nonsense")
    with pytest.raises(PolicyError, match="not a sentencepiece model"):
        Tokenizer.beside(tmp_path)


# ---- numbers


@pytest.mark.parametrize("name", [*EMBODIMENTS, "pi_mobile"])
@pytest.mark.parametrize("shape", ["small", "small05"])
def test_actions_invert_exactly(words, name, shape):
    embodiment = from_robot(load_robot()) if name == "pi_mobile" else load_embodiment(name)
    t = transforms(embodiment, words, shape)
    rng = np.random.default_rng(0)
    count = len(embodiment.actions.names)
    rows, state = rng.uniform(0, 1, (50, count)), rng.uniform(0, 1, count)
    normal = t.rows_in(rows, state)
    assert normal.shape == (50, 32) and (normal[:, count:] == 0).all()
    np.testing.assert_allclose(t.rows_out(normal, state), rows, atol=2e-5)  # the network's numbers are float32
    np.testing.assert_allclose(embodiment.rows_out(embodiment.rows_in(rows, state), state), rows, atol=1e-12)


def test_relative_actions_are_relative_to_the_state_of_now(words):
    embodiment = from_robot(load_robot())
    t = transforms(embodiment, words)
    zero = t.actions(np.zeros((50, 18)))
    padded = np.zeros((50, 32))
    padded[:, :18] = zero
    state = np.linspace(0.1, 0.9, 18)
    rows = t.rows_out(padded, state)
    joints = embodiment.relative
    assert joints.sum() == 13  # two arms and the lift; grippers and the base are absolute
    np.testing.assert_allclose(rows[:, joints], np.broadcast_to(state[joints], (50, 13)), atol=1e-12)
    np.testing.assert_allclose(rows[:, ~joints], 0, atol=1e-12)


def test_aloha_is_turned_into_what_the_base_models_know():
    """Against the published conversion, written out."""
    aloha = load_embodiment("aloha")
    state = np.linspace(0.05, 0.95, 14)
    flips = np.array([1, -1, -1, 1, 1, 1, 1] * 2)
    right = state * flips
    for i in (6, 13):
        reach = state[i] * (0.05800 - 0.01844) + 0.01844
        angle = np.arcsin((0.022**2 + reach**2 - 0.036**2) / (2 * 0.022 * reach))
        right[i] = (angle - 0.5476) / (1.6296 - 0.5476)
    np.testing.assert_allclose(aloha.state_in(state), right, atol=1e-12)
    model = np.random.default_rng(0).normal(size=(5, 14))
    rows = aloha.rows_out(model, state)
    absolute = model + np.where([True] * 6 + [False] + [True] * 6 + [False], right, 0)
    absolute *= flips
    for i in (6, 13):
        absolute[:, i] = (absolute[:, i] + 0.5476 + 0.6213) / (1.4910 + 0.6213)
    np.testing.assert_allclose(rows, absolute, atol=1e-9)


def test_droid_velocities_become_positions_and_its_gripper_is_turned_round():
    droid = load_embodiment("droid")
    state = np.array([0.1] * 7 + [0.25])
    assert droid.state_in(state)[-1] == 0.75
    rows = droid.rows_out(np.array([[0.5] * 7 + [1.0]] * 3), state)
    np.testing.assert_allclose(rows[:, 0], [0.2, 0.3, 0.4])
    np.testing.assert_allclose(rows[:, 7], 0)


@pytest.mark.parametrize("name", EMBODIMENTS)
def test_embodiments_hold_together(name):
    embodiment = load_embodiment(name)
    assert 1 / embodiment.dt == pytest.approx(round(1 / embodiment.dt)) and embodiment.asset
    assert set(embodiment.cameras) <= {"base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("state"), "state is missing"),
        (lambda c: c.update(colour="red"), "colour is unknown; there is actions"),
        (lambda c: c["state"].update(scale=[1, 2]), "state.scale has 2 entries; names has 8"),
        (lambda c: c["state"].update(scale=[0] * 8), "scale is 0 for panda_joint1"),
        (lambda c: c["actions"].update(names=["gripper"] * 8), "twice"),
        (lambda c: c.update(rate=0), "rate must be positive"),
        (lambda c: c.update(cameras={}), "names no view"),
        (lambda c: (c["actions"].update(relative=[True] * 8), c["state"]["names"].reverse()), "needs actions.names equal"),
    ],
)
def test_a_wrong_embodiment_says_where(tmp_path, change, message):
    content = yaml.safe_load(share("config", "embodiments", "droid.yaml").read_text())
    change(content)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(PolicyError, match=message):
        load_embodiment(tmp_path / "mine.yaml")
    with pytest.raises(PolicyError, match="no embodiment 'nemo'; there are aloha, droid, libero"):
        load_embodiment("nemo")


# ---- observations


def test_absent_cameras_are_marked_and_present_ones_scaled(words):
    t = transforms(load_embodiment("aloha"), words)
    image = np.zeros((480, 640, 3), np.uint8)
    image[:, :, 0] = 255
    made = t.inputs({"cam_high": image, "cam_right_wrist": image, "other": image}, np.zeros(14), "fold the towel")
    assert made.image_mask.tolist() == [[True, False, True]] and made.images.shape == (1, 3, 3, 224, 224)
    middle = made.images[0, 0, :, 112, 112].tolist()
    assert middle == [1.0, -1.0, -1.0] and made.images[0, 0, :, 0, 0].tolist() == [-1.0] * 3  # letterboxed on black
    assert made.token_mask.all() and made.state.dtype == torch.float32
    with pytest.raises(InputError, match="no picture of cam_high, cam_left_wrist, cam_right_wrist; there is other"):
        t.inputs({"other": image}, np.zeros(14), "fold")


@pytest.mark.parametrize(
    ("images", "state", "message"),
    [
        ({"cam_high": np.zeros((4, 4), np.uint8)}, np.zeros(14), r"cam_high: uint8 \(4, 4\); a picture is"),
        ({"cam_high": np.full((4, 4, 3), np.nan)}, np.zeros(14), "cam_high: float64"),
        ({"cam_high": np.zeros((0, 4, 3), np.uint8)}, np.zeros(14), "a picture is"),
        ({"cam_high": np.zeros((4, 4, 3), np.uint8)}, np.zeros(7), "aloha has 14 numbers"),
        ({"cam_high": np.zeros((4, 4, 3), np.uint8)}, np.array([np.nan] * 14), "not finite: left_waist"),
    ],
)
def test_a_bad_observation_is_refused(words, images, state, message):
    with pytest.raises(InputError, match=message):
        transforms(load_embodiment("aloha"), words).inputs(images, state, "fold the towel")


def test_warnings_where_statistics_would_explode_or_the_state_is_far(words, caplog):
    narrow = {"state": statistics(14, 1), "actions": statistics(14, 2)}
    narrow["actions"].q99[3] = narrow["actions"].q01[3]
    with caplog.at_level(logging.WARNING):
        t = Transforms(load_embodiment("aloha"), preset("small05"), narrow, Tokenizer(words))
    assert "actions statistics hardly vary for left_forearm_roll" in caplog.text and "state stat" not in caplog.text
    caplog.clear()
    far = np.zeros(14)
    far[0] = 100
    for _ in range(3):
        t.inputs({"cam_high": np.zeros((4, 4, 3), np.uint8)}, far, "fold")
    assert caplog.text.count("left_waist lies far outside") == 1


def test_what_does_not_fit_together_is_refused(words):
    aloha, shape, good = load_embodiment("aloha"), preset("small05"), statistics(14)
    with pytest.raises(CheckpointError, match="no normalisation statistics"):
        Transforms(aloha, shape, None, Tokenizer(words))
    with pytest.raises(CheckpointError, match="state statistics have 7 numbers; 14 are needed"):
        Transforms(aloha, shape, {"state": statistics(7), "actions": good}, Tokenizer(words))
    plain = Statistics(mean=good.mean, std=good.std)
    with pytest.raises(CheckpointError, match="no q01 and q99"):
        Transforms(aloha, shape, {"state": plain, "actions": good}, Tokenizer(words))
    Transforms(aloha, preset("small"), {"state": plain, "actions": plain}, Tokenizer(words))  # pi0 needs none
