"""Real-time chunking does what its papers say, and its estimate of the delay is honest."""

import math

import numpy as np
import pytest
import torch

from pi_policy_node.bench import rtc
from pi_policy_node.bench.seeded import inputs, model
from pi_policy_node.policy.delay import DelayTracker
from pi_policy_node.policy.rtc import Ensemble, Guide, guided_velocity, soft_mask, strength
from pi_policy_node.policy.shapes import preset


def test_the_soft_mask_is_the_papers():
    w = soft_mask(50, 4, 40)
    assert (w[:4] == 1).all() and (w[40:] == 0).all() and (np.diff(w[3:41]) < 0).all()
    c = (40 - 10) / (40 - 4 + 1)
    assert w[10] == pytest.approx(c * (math.e**c - 1) / (math.e - 1))
    assert soft_mask(5, 0, 0).tolist() == [0] * 5 and soft_mask(5, 5, 5).tolist() == [1] * 5
    with pytest.raises(ValueError, match="committed \\(6\\) <= known \\(5\\)"):
        soft_mask(50, 6, 5)


def test_the_strength_is_capped_at_both_ends():
    assert strength(1.0) == strength(0.0) == 5.0
    assert strength(0.5) == pytest.approx((0.25 + 0.25) / 0.25)
    assert strength(0.1) == 5.0


def test_on_a_linear_field_guidance_has_its_closed_form():
    """v = A x + b: the Jacobian of x - t v is I - t A, so every step can be written down."""
    torch.manual_seed(0)
    size, t_grid = 6, [1 - i / 10 for i in range(10)]
    a, b = 0.5 * torch.randn(size, size), torch.randn(size)
    guide = Guide(torch.randn(1, 2, 3), torch.rand(1, 2, 3))
    x = y = torch.randn(1, 2, 3)
    target, weight = guide.target.flatten(), guide.weight.flatten()
    for t in t_grid:
        x = x - guided_velocity(lambda z: (a @ z.flatten() + b).view_as(z), x, t, guide) / 10
        flat = y.flatten()
        v = a @ flat + b
        bent = (torch.eye(size) - t * a).T @ (weight * (target - (flat - t * v)))
        y = (flat - (v - strength(t) * bent) / 10).view_as(y)
    assert torch.allclose(x, y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["small", "small05"])
def test_the_jacobian_is_the_networks_own(name):
    """Against finite differences in float64, along random directions; an identity Jacobian fails this."""
    torch.set_num_threads(1)
    shape = preset(name)
    pi = model(shape).double()
    given, noise = inputs("jacobian", shape)
    given.images, given.state, x = given.images.double(), given.state.double(), noise.double()
    t, torch_float = 0.6, torch.Tensor.float
    try:
        torch.Tensor.float = lambda self: self  # the model computes its small parts in float32; here all in float64
        context = pi.context(given)
        condition = pi.condition(torch.full((1,), t)).double()
        velocity = lambda z: pi.velocity(context, z, condition)  # noqa: E731
        torch.manual_seed(0)
        pull, direction = torch.randn_like(x), torch.randn_like(x)
        guess = lambda z: z - t * velocity(z)  # noqa: E731
        target = guess(x) + pull  # with weight one, exactly `pull` is pushed through the Jacobian
        bent = (velocity(x) - guided_velocity(velocity, x, t, Guide(target, torch.ones_like(x)))) / strength(t)
        h = 1e-5
        difference = (guess(x + h * direction) - guess(x - h * direction)) / (2 * h)
    finally:
        torch.Tensor.float = torch_float
    exact, identity = (pull * difference).sum(), (pull * direction).sum()
    assert float((bent * direction).sum()) == pytest.approx(float(exact), rel=1e-5)
    assert abs(float(exact - identity)) > 1e-2 * abs(float(exact))


@pytest.fixture(scope="module")
def tiny():
    torch.set_num_threads(1)
    return rtc.train(250, batch=32)


@pytest.mark.parametrize("delay", range(1, 9))
def test_chunks_join_within_a_fifth_of_no_chunking(tiny, delay):
    """A trained model, motions that no observation tells apart, and rows that run while it thinks."""
    errors = rtc.joints(tiny, delay)
    assert errors["none"] > 0.5
    assert errors["guided"] <= errors["none"] / 5 and errors["trained"] <= errors["none"] / 5


def test_the_delay_is_a_percentile_that_forgets():
    tracker = DelayTracker(window=10, initial=3, skip=2)
    assert tracker.estimate() == 3
    for rows in (90, 80):  # warm-up
        tracker.consumed(rows)
    assert tracker.estimate() == 3
    for _ in range(10):
        tracker.consumed(4)
    assert tracker.estimate() == 4
    tracker.consumed(12)
    assert 4 < tracker.estimate() <= 12
    for _ in range(10):
        tracker.consumed(2)
    assert tracker.estimate() == 2
    with pytest.raises(ValueError, match="-1 rows"):
        tracker.consumed(-1)


def test_the_ensemble_averages_rows_that_are_due_at_the_same_time():
    ensemble = Ensemble(dt=0.1, decay=0.5)
    first = np.arange(5.0)[:, None]
    assert np.array_equal(ensemble.add(10.0, first), first)
    second = ensemble.add(10.2, np.full((5, 1), 10.0))
    old, new = 1.0, math.exp(-0.5)
    assert second[0, 0] == pytest.approx((old * 2 + new * 10) / (old + new))
    assert second[2, 0] == pytest.approx((old * 4 + new * 10) / (old + new))
    assert second[3, 0] == 10.0  # beyond the first chunk
    ensemble.reset()
    assert np.array_equal(ensemble.add(11.0, first), first)
