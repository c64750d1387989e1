"""The model computes what the originals compute."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pi_policy_node.bench.seeded import array, inputs, model
from pi_policy_node.policy.gemma import Gemma
from pi_policy_node.policy.model import Inputs, Pi, draw_times, plan
from pi_policy_node.policy.shapes import PRESETS, Shape, preset

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = {"pi0": "small", "pi05": "small05"}


@pytest.fixture(scope="module", params=FAMILIES)
def case(request):
    torch.set_num_threads(1)
    shape = preset(FAMILIES[request.param])
    return shape, model(shape), np.load(GOLDEN / f"{request.param}_small.npz")


@pytest.mark.parametrize(("tag", "steps"), [("a", 10), ("c", 4)])
def test_golden_numbers(case, tag, steps):
    shape, pi, golden = case
    given, noise = inputs(tag, shape)
    np.testing.assert_allclose(pi.sample(given, noise, steps=steps), golden[f"{tag}/actions"], rtol=0, atol=1e-5)
    velocity = pi.velocity(pi.context(given), noise, pi.condition(torch.ones(1)))
    np.testing.assert_allclose(velocity, golden[f"{tag}/velocity_at_1"], rtol=0, atol=1e-5)
    features = pi.vision(given.images[0, 1:2])[:, ::64]
    np.testing.assert_allclose(features, golden[f"{tag}/image_features"], rtol=0, atol=1e-5)
    actions = torch.from_numpy(array(f"{tag}/actions", tuple(noise.shape)))
    loss = pi.loss(given, actions, noise, torch.full((1,), 0.3))
    np.testing.assert_allclose(loss, golden[f"{tag}/loss"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("absent", [(), ("right_wrist_0_rgb",), ("base_0_rgb", "right_wrist_0_rgb")])
def test_dropping_what_is_absent_changes_nothing(case, absent):
    shape, pi, _ = case
    given, noise = inputs("drop", shape, batch=3, absent=absent)
    padded = pi.sample(given, noise, steps=2, drop=False)
    assert torch.allclose(padded, pi.sample(given, noise, steps=2, drop=True), rtol=0, atol=1e-5)


def test_dropping_in_a_batch_of_different_robots(case):
    shape, pi, _ = case
    given, noise = inputs("mixed", shape, batch=3)
    given.image_mask = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])
    together = pi.sample(given, noise, steps=2, drop=True)
    assert torch.allclose(pi.sample(given, noise, steps=2, drop=False), together, rtol=0, atol=1e-5)
    for b in range(3):
        alone = Inputs(*(getattr(given, f)[b : b + 1] for f in given.__dataclass_fields__))
        assert torch.allclose(pi.sample(alone, noise[b : b + 1], steps=2, drop=True), together[b : b + 1], atol=1e-5)


def test_an_absent_picture_is_not_looked_at(case):
    shape, pi, _ = case
    given, noise = inputs("blind", shape, absent=("right_wrist_0_rgb",))
    before = pi.sample(given, noise, steps=1)
    given.images[0, 2] = 1.0
    given.tokens[~given.token_mask] = 5
    assert torch.equal(before, pi.sample(given, noise, steps=1))
    given.images[0, 1] = 1.0
    assert not torch.allclose(before, pi.sample(given, noise, steps=1), atol=1e-3)


def test_the_plan_pads_to_a_multiple_and_says_whether_a_mask_is_needed():
    images, tokens = torch.tensor([[True, False]]), torch.tensor([[True, True, False]])
    assert plan(images, tokens, 4).full
    where = plan(images, tokens, 4, multiple=8)
    assert where.index.shape == (1, 8) and not where.full and int(where.valid.sum()) == 6
    assert where.index[0, :6].tolist() == [0, 1, 2, 3, 4, 5]


def test_folding_norm_weights_changes_nothing(case):
    shape, pi, _ = case
    given, noise = inputs("fold", shape)
    folded = model(shape).fold()
    assert torch.allclose(pi.sample(given, noise, steps=2), folded.sample(given, noise, steps=2), rtol=0, atol=1e-5)


def test_bf16_points_where_float32_points(case):
    shape, pi, _ = case
    given, noise = inputs("a", shape)
    exact, rough = pi.sample(given, noise), model(shape).cast(torch.bfloat16).sample(given, noise)
    assert torch.cosine_similarity(exact, rough, dim=-1).min() >= 0.999


def test_reading_token_by_token_equals_reading_at_once(case):
    shape, pi, _ = case
    given, _ = inputs("read", shape, batch=2)
    context, hidden = pi.look(given, drop=True, hidden=True)
    assert hidden.shape == (2, 3 * shape.vision.tokens + 12, shape.vlm.width)
    words = torch.randint(0, shape.vocabulary, (2, 5), generator=torch.Generator().manual_seed(0))
    at_once, _ = pi.read(context, words)
    for i in range(5):
        one, context = pi.read(context, words[:, i : i + 1])
        assert torch.allclose(one[:, 0], at_once[:, i], atol=1e-5)


def test_the_first_clean_actions_have_a_time_of_their_own(case):
    shape, pi, _ = case
    given, noise = inputs("clean", shape, batch=2)
    actions = torch.from_numpy(array("clean/actions", tuple(noise.shape)))
    t, none, some = torch.full((2,), 0.6), torch.tensor([0, 0]), torch.tensor([0, 4])
    plain = pi.loss(given, actions, noise, t)
    assert torch.allclose(plain, pi.loss(given, actions, noise, t, clean=none), atol=1e-5)
    loss = pi.loss(given, actions, noise, t, clean=some)
    assert (loss[1, :4] == 0).all() and (loss[0] > 0).any()
    noise[1, :4] += 100  # the clean ones never saw their noise
    assert torch.allclose(loss[1, 4:], pi.loss(given, actions, noise, t, clean=some)[1, 4:], atol=1e-5)


def test_training_reaches_every_parameter():
    for name in FAMILIES.values():
        shape = preset(name)
        pi = model(shape).requires_grad_(True)
        given, noise = inputs("train", shape)
        pi.loss(given, torch.zeros_like(noise), noise, torch.full((1,), 0.5)).mean().backward()
        last = len(pi.vlm.blocks) - 1
        unused = ("out", "norm2", "gate_up", "down")  # of the last layer: nobody reads the language model's output
        idle = {f"vlm.blocks.{last}.{n}.weight" for n in unused} | {"vlm.norm.weight"}
        without = {n for n, p in pi.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        assert without == idle


def test_training_times_follow_their_distribution():
    t = draw_times(200_000, torch.Generator().manual_seed(0))
    assert 0.001 <= t.min() and t.max() <= 1.0
    assert abs(float(t.mean()) - (0.6 * 0.999 + 0.001)) < 2e-3  # Beta(1.5, 1) has mean 0.6
    assert abs(float((t < 0.3).float().mean()) - (0.299 / 0.999) ** 1.5) < 3e-3


@pytest.mark.parametrize(("name", "billions"), [("pi0", 3.238), ("pi05", 3.353)])
def test_sizes(name, billions):
    with torch.device("meta"):
        pi = Pi(preset(name))
    assert round(sum(p.numel() for p in pi.parameters()) / 1e9, 3) == billions


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="no preset 'pi1'; there are pi0, pi05"):
        preset("pi1")
    small = PRESETS["small"]
    with pytest.raises(ValueError, match="family is 'pi6'"):
        Shape(**{**vars(small), "family": "pi6"})
    with pytest.raises(ValueError, match="the VLM's depth"):
        Shape(**{**vars(small), "expert": PRESETS["pi0"].expert})


def test_an_untrained_adaptive_stack_passes_its_input_on():
    stack = Gemma(PRESETS["small05"].expert, adaptive=True)
    torch.nn.init.zeros_(stack.modulation.bias)
    x = torch.randn(1, 3, stack.shape.width)
    mods = stack.modulate(torch.randn(1, 1, stack.shape.width))
    y, _ = stack(x, torch.arange(3)[None], modulations=mods)
    assert torch.allclose(y, torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6), atol=1e-6)
