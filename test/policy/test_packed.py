"""Packed products: the same values, with fewer visits to memory."""

import numpy as np
import pytest
import torch

from pi_policy_node.bench import eager
from pi_policy_node.bench.seeded import array, inputs, model
from pi_policy_node.policy import packed, tune
from pi_policy_node.policy.attention import attention
from pi_policy_node.policy.engine import Engine
from pi_policy_node.policy.rtc import Guide
from pi_policy_node.policy.shapes import preset

pytestmark = pytest.mark.skipif(not packed.available(), reason="this torch has no oneDNN")


@pytest.fixture(scope="module", params=["small", "small05"])
def case(request):
    torch.set_num_threads(1)
    shape = preset(request.param)
    engine = Engine(model(shape), steps=3, threads=1, compiled=False)
    packed.pack(engine.model, prefix=788)
    return shape, model(shape), engine


def test_the_engine_answers_the_same(case):
    shape, pi, engine = case
    given, noise = inputs("packed", shape, batch=2, absent=("base_0_rgb",))
    assert not any(isinstance(m, torch.nn.Linear) for b in engine.model.vlm.blocks for m in b.modules())
    assert torch.allclose(engine.sample(given, noise=noise), pi.sample(given, noise, steps=3), rtol=0, atol=1e-5)


def test_guidance_has_the_true_jacobian(case):
    """The library's own products have no gradient and would not say so."""
    shape, _, engine = case
    given, noise = inputs("guided", shape)
    target = torch.from_numpy(array("guided/target", tuple(noise.shape), 0.3))
    guide = Guide(target, torch.ones_like(noise))
    plain = Engine(model(shape), steps=3, threads=1, compiled=False).sample(given, noise=noise, guide=guide)
    assert torch.allclose(engine.sample(given, noise=noise, guide=guide), plain, rtol=0, atol=1e-5)
    assert not torch.allclose(engine.sample(given, noise=noise), plain, atol=1e-2)


def test_bf16_points_where_float32_points(case):
    shape, pi, _ = case
    given, noise = inputs("a", shape)
    engine = Engine(model(shape).cast(torch.bfloat16), threads=1, packed=False, compiled=False)
    if packed.available(torch.bfloat16):
        packed.pack(engine.model, prefix=788)
    else:  # the engine goes without, and who wants it nevertheless is told why not
        assert not tune.packing_wins(engine.model, prefix=788)
        with pytest.raises(ValueError, match="in bfloat16.*a CPU with instructions for it"):
            packed.pack(engine.model, prefix=788)
        assert not packed.is_packed(engine.model.vlm.blocks[0])
    assert torch.cosine_similarity(pi.sample(given, noise), engine.sample(given, noise=noise), dim=-1).min() >= 0.999


def test_unpacking_gives_the_weights_back():
    shape = preset("small")
    one, other = model(shape), model(shape)
    packed.pack(one, prefix=100)
    packed.pack(one, prefix=100)  # what is packed stays
    packed.unpack(one)
    for (name, left), (_, right) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(left, right), name
    given, noise = inputs("a", shape)
    assert torch.equal(one.sample(given, noise, steps=1), other.sample(given, noise, steps=1))


def test_the_baseline_takes_a_folded_model():
    """So that engine and baseline can be measured on one set of weights."""
    shape = preset("small")
    given, noise = inputs("a", shape)
    right = model(shape).sample(given, noise, steps=2)
    assert torch.allclose(eager.sample(model(shape).fold(), given, noise, steps=2), right, rtol=0, atol=1e-5)


def test_a_packed_copy_leaves_the_block_alone(case):
    shape, pi, _ = case
    block = pi.vlm.blocks[0]
    before = block.qkv.weight.clone()
    twin = packed.packed_copy(block, 100)
    assert packed.is_packed(twin) and not packed.is_packed(block) and torch.equal(block.qkv.weight, before)
    assert twin.norm1 is block.norm1


def test_what_warm_up_chooses_it_keeps():
    shape = preset("small")
    given, noise = inputs("a", shape)
    engine = Engine(model(shape), steps=1, threads=1, packed=True)
    engine.warm_up(views=1, prompt=5)
    assert packed.is_packed(engine.model.expert.blocks[0]) and engine.compiled is False
    assert not tune.packing_wins(engine.model, 100)  # it is packed already
    engine = Engine(model(shape), steps=1, threads=1)
    engine.warm_up(views=1, prompt=5)
    assert engine.packed == packed.is_packed(engine.model.expert.blocks[0])
    assert torch.allclose(engine.sample(given, noise=noise), model(shape).sample(given, noise, steps=1), atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 4])
def test_both_forms_of_attention_agree(kind, heads):
    shape = (2, heads, 30, 16)
    q, k, v = (torch.from_numpy(array(name, shape)).to(kind) for name in "qkv")
    mask = torch.from_numpy(np.arange(30) % 5 > 0)[None, None, None]
    for seen in (None, mask):
        right = torch.nn.functional.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=seen)
        assert torch.allclose(attention(q, k, v, seen).double(), right, atol=2e-6 if kind == torch.float32 else 2e-2)
