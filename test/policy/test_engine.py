"""The engine answers what the model answers, and behaves like something a robot depends on."""

import ctypes
import gc
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pi_policy_node.bench import eager
from pi_policy_node.bench.seeded import array, inputs, model
from pi_policy_node.policy import text, tune
from pi_policy_node.policy.base import Cancelled, DeadlineExceeded, InputError
from pi_policy_node.policy.engine import Engine
from pi_policy_node.policy.lane import Given
from pi_policy_node.policy.rtc import Guide
from pi_policy_node.policy.shapes import preset
from pi_policy_node.policy.text import choose, generate

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module", params=["small", "small05"])
def case(request):
    torch.set_num_threads(1)
    shape = preset(request.param)
    return shape, model(shape), Engine(model(shape), threads=1, compiled=False)


def test_golden_numbers(case):
    shape, _, engine = case
    golden = np.load(GOLDEN / f"{shape.family}_small.npz")
    given, noise = inputs("a", shape)
    np.testing.assert_allclose(engine.sample(given, noise=noise), golden["a/actions"], rtol=0, atol=1e-5)
    assert {"vision", "prefill", "denoise", "total"} <= engine.timing.keys()


def test_a_batch_of_different_robots_equals_the_padded_reference(case):
    shape, pi, engine = case
    given, noise = inputs("mixed", shape, batch=3)
    given.image_mask = torch.tensor([[True, False, True], [False, True, False], [True, True, True]])
    right = pi.sample(given, noise)
    assert torch.allclose(engine.sample(given, noise=noise), right, rtol=0, atol=1e-5)


def test_the_baseline_computes_the_same(case):
    shape, pi, _ = case
    given, noise = inputs("a", shape, batch=2, absent=("right_wrist_0_rgb",))
    assert torch.allclose(eager.sample(pi, given, noise, steps=3), pi.sample(given, noise, steps=3), rtol=0, atol=1e-5)


def test_lanes_do_not_leak_into_each_other(case):
    """Requests of changing kinds, in any order, give what they give alone; only a few lanes are kept."""
    shape, _, _ = case
    engine = Engine(model(shape), steps=1, threads=1, compiled=False, lanes=2)
    requests = [inputs(f"r{i}", shape, absent=("base_0_rgb",) if i % 2 else ()) for i in range(3)]
    requests.append(inputs("batch", shape, batch=2))
    alone = [Engine(model(shape), steps=1, threads=1).sample(g, noise=n) for g, n in requests]
    for i in [0, 1, 2, 3, 1, 0, 3, 2]:
        assert torch.equal(engine.sample(requests[i][0], noise=requests[i][1]), alone[i])
    assert len(engine._lanes) <= 2


def test_padding_to_a_bucket_changes_nothing(case, monkeypatch):
    """What CUDA graphs need: lengths rounded up, the rest masked."""
    shape, pi, _ = case
    given, noise = inputs("bucket", shape)
    import pi_policy_node.policy.engine as module

    true = module.plan
    monkeypatch.setattr(module, "plan", lambda *a, multiple, **k: true(*a, multiple=16, **k))
    engine = Engine(model(shape), steps=3, threads=1, compiled=False)
    actions = engine.sample(given, noise=noise)
    (key,) = engine._lanes
    assert key.prefix % 16 == 0 and not key.full
    assert torch.allclose(actions, pi.sample(given, noise, steps=3), rtol=0, atol=1e-5)


def test_given_rows_stay_and_the_others_follow_them(case):
    shape, pi, engine = case
    given, noise = inputs("given", shape)
    rows = torch.from_numpy(array("given/rows", tuple(noise.shape)))
    mask = torch.zeros(noise.shape[:2], dtype=torch.bool)
    plain = engine.sample(given, noise=noise)
    assert torch.equal(plain, engine.sample(given, noise=noise, given=Given(rows, mask)))
    mask[:, :4] = True
    actions = engine.sample(given, noise=noise, given=Given(rows, mask))
    assert torch.equal(actions[:, :4], rows[:, :4]) and not torch.allclose(actions[:, 4:], plain[:, 4:], atol=1e-4)
    x, t = noise.clone(), torch.ones(1, shape.horizon)  # the same, written out: a time per row
    for now in engine.grid:
        x[:, :4] = rows[:, :4]
        times = (t * now).masked_fill(mask, 0.0)
        x = x - pi.velocity(pi.context(given), x, pi.condition(times)) / engine.steps
    assert torch.allclose(actions[:, 4:], x[:, 4:], rtol=0, atol=1e-5)


def test_guidance_pulls_the_first_rows_to_the_target(case):
    shape, _, engine = case
    given, noise = inputs("guided", shape)
    target = torch.from_numpy(array("guided/target", tuple(noise.shape), 0.3))
    weight = torch.zeros_like(noise)
    plain = engine.sample(given, noise=noise)
    assert torch.allclose(plain, engine.sample(given, noise=noise, guide=Guide(target, weight)), atol=1e-6)
    weight[:, :8] = 1
    guided = engine.sample(given, noise=noise, guide=Guide(target, weight))
    before, after = ((x[:, :8] - target[:, :8]).abs().mean() for x in (plain, guided))
    assert after < before / 3


def test_bf16_points_where_float32_points(case):
    shape, pi, _ = case
    given, noise = inputs("a", shape)
    rough = Engine(model(shape).cast(torch.bfloat16), threads=1, compiled=False).sample(given, noise=noise)
    assert torch.cosine_similarity(pi.sample(given, noise), rough, dim=-1).min() >= 0.999


def test_a_compiled_engine_answers_the_same():
    shape = preset("small")
    given, noise = inputs("a", shape)
    engine = Engine(model(shape), steps=2, threads=1, compiled=True)
    right = model(shape).sample(given, noise, steps=2)
    tune.compile_blocks(engine.model)
    assert "forward" in engine.model.vlm.blocks[0].__dict__
    assert torch.allclose(engine.sample(given, noise=noise), right, rtol=0, atol=1e-5)


def test_prompts_of_one_bucket_share_a_lane(case):
    shape, pi, _ = case
    engine = Engine(model(shape), steps=1, threads=1, compiled=False)
    for width in (7, 9):
        given, noise = inputs("share", shape)
        given.tokens, given.token_mask = given.tokens[:, :width], given.token_mask[:, :width]
        assert torch.allclose(engine.sample(given, noise=noise), pi.sample(given, noise, steps=1), rtol=0, atol=1e-5)
    assert len(engine._lanes) == 1  # both have seven valid tokens


def test_warming_up_decides_and_allocates(case):
    shape, _, _ = case
    engine = Engine(model(shape), steps=1)
    engine.warm_up(views=2, prompt=9, modes=("plain", "given", "guided"))
    assert engine.threads >= 1 and engine.compiled is False  # far below a second: not worth compiling
    assert {key.mode for key in engine._lanes} == {"plain", "given", "guided"}
    assert all(key.pictures == 2 and key.full for key in engine._lanes)
    assert tune.best_dtype(shape, 100) in (torch.float32, torch.bfloat16)


def test_many_threads_at_once(case):
    shape, _, engine = case
    requests = [inputs(f"thread{i}", shape) for i in range(4)]
    right = [engine.sample(g, noise=n) for g, n in requests]
    answers: dict[int, torch.Tensor] = {}

    def ask(i: int) -> None:
        answers[i] = engine.sample(requests[i % 4][0], noise=requests[i % 4][1])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(answers) == 8 and all(torch.equal(answers[i], right[i % 4]) for i in range(8))


def test_cancelling_stops_in_the_middle_and_the_next_request_is_served(case):
    shape, _, engine = case
    given, noise = inputs("cancel", shape)
    right = engine.sample(given, noise=noise)
    cancel, layers = threading.Event(), []

    def count(*_: object) -> None:
        layers.append(1)
        if len(layers) == 4:
            cancel.set()

    hooks = [b.register_forward_pre_hook(count) for b in (*engine.model.vlm.blocks, *engine.model.expert.blocks)]
    with pytest.raises(Cancelled):
        engine.sample(given, noise=noise, cancel=cancel)
    for hook in hooks:
        hook.remove()
    assert len(layers) <= 6  # of more than thirty
    assert torch.equal(engine.sample(given, noise=noise), right)
    with pytest.raises(Cancelled):
        engine.sample(given, noise=noise, cancel=cancel)


def test_a_deadline_holds_while_waiting_and_while_working(case):
    shape, _, engine = case
    given, noise = inputs("late", shape)
    with pytest.raises(DeadlineExceeded):
        engine.sample(given, noise=noise, deadline=time.monotonic() + 1e-3)
    with engine._lock:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            engine.sample(given, noise=noise, deadline=started + 0.1)
        assert time.monotonic() - started < 5
    assert engine.sample(given, noise=noise, deadline=time.monotonic() + 60).shape == noise.shape


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: g.images.fill_(float("nan")), "pixels that are not finite"),
        (lambda g: g.state.fill_(float("inf")), "the state is not finite"),
        (lambda g: g.image_mask.fill_(False), "without any picture"),
        (lambda g: g.token_mask.fill_(False), "without any token"),
        (lambda g: g.tokens.fill_(5000), "token 5000 is outside of the vocabulary"),
        (lambda g: setattr(g, "tokens", g.tokens.repeat(1, 9)), "432 tokens of a prompt|1800 tokens of a prompt"),
        (lambda g: setattr(g, "images", g.images[..., :100]), "images have the shape"),
        (lambda g: setattr(g, "state", g.state[:, :7]), "the state has the shape"),
    ],
)
def test_bad_inputs_are_refused(case, spoil, message):
    shape, _, engine = case
    given, noise = inputs("bad", shape)
    spoil(given)
    with pytest.raises(InputError, match=message):
        engine.sample(given, noise=noise)


def test_saying_greedily_with_the_cache_equals_reading_everything_again(case, monkeypatch):
    shape, pi, engine = case
    given, _ = inputs("say", shape, batch=2)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(text, "choose", lambda logits, *rest: (seen.append(logits), choose(logits, *rest))[1])
    said = engine.say(given, limit=5, stop=-1)
    for row in range(2):
        one = given.__class__(*(getattr(given, f)[row : row + 1] for f in given.__dataclass_fields__))
        for count in range(5):  # without a cache: prompt and all words so far, every time
            context, hidden = pi.look(one, drop=True, hidden=True)
            logits = pi.logits(hidden[:, -1:])
            if count:
                logits, _ = pi.read(context, torch.tensor([said[row][:count]]))
            assert torch.allclose(logits[0, -1], seen[count][row], atol=1e-4)
            assert int(logits[0, -1].argmax()) == said[row][count]


def test_saying_stops(case):
    shape, pi, engine = case
    given, _ = inputs("say", shape)
    said = engine.say(given, limit=5, stop=-1)[0]
    assert engine.say(given, limit=5, stop=said[2])[0] == said[: said.index(said[2])]
    with pytest.raises(Cancelled):
        generate(pi, given, alive=lambda: (_ for _ in ()).throw(Cancelled()))


def test_sampled_words_follow_the_temperature():
    logits = torch.tensor([[2.0, 1.0, 0.0]]).expand(20_000, 3)
    generator = torch.Generator().manual_seed(0)
    for temperature in (0.5, 1.0, 2.0):
        counts = choose(logits, temperature, generator).bincount(minlength=3) / 20_000
        assert torch.allclose(counts, torch.softmax(logits[0] / temperature, -1), atol=0.015)
    assert (choose(logits, 0.0) == 0).all()


def test_memory_is_flat():
    import resource

    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    shape = preset("small")
    engine = Engine(model(shape), steps=1, threads=1, compiled=False)
    requests = [inputs(f"flat{i}", shape, absent=("base_0_rgb",) if i % 2 else ()) for i in range(2)]

    def resident() -> int:  # without what the allocator keeps for later
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    for i in range(20):
        engine.sample(requests[i % 2][0], noise=requests[i % 2][1])
    before = resident()
    for i in range(60):
        engine.sample(requests[i % 2][0], noise=requests[i % 2][1])
    assert resident() - before < 8e6


def test_no_transformers():
    """The model is ours: nothing of it may come from the transformers library."""
    root = Path(__file__).parents[2] / "pi_policy_node"
    for file in (*(root / "policy").glob("*.py"), *(root / "bench").glob("*.py")):
        assert "import transformers" not in file.read_text() and "from transformers" not in file.read_text(), file
