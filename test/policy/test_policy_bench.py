"""The benches measure what they say they do."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pi_policy_node.__main__ import main
from pi_policy_node.bench import seeded
from pi_policy_node.bench.floor import Device, floor
from pi_policy_node.cli.bench import measurements
from pi_policy_node.policy.engine import Engine
from pi_policy_node.policy.model import Pi
from pi_policy_node.policy.shapes import preset


def test_the_floor_is_that_of_the_real_sizes():
    """An H200's data sheet: 4.8 TB/s and 989 TFLOP/s in bf16; what a card reaches is less, and its floor higher."""
    ms = floor(preset("pi0"), Device(989e12, 4.8e12), views=3, prompt=20, steps=10, size=2)
    assert 4.5 < ms["total_ms"] < 6.2 and ms["denoise_ms"] > 10 * 0.3 * 2 / 4.8  # ten times 0.3 B weights of 2 bytes


@pytest.mark.parametrize("name", ["small", "small05"])
def test_flops_counted_for_the_floor_are_those_done(name):
    shape = preset(name)
    given, noise = seeded.inputs("flops", shape)
    engine = Engine(seeded.model(shape).cast(torch.bfloat16), steps=2, threads=1)  # attention is written out in bf16,
    with FlopCounterMode(display=False) as counter:  # and so seen by the counter, which knows few fused kernels
        engine.sample(given, noise=noise)
    ours = floor(shape, Device(1e3, 1e30), views=3, prompt=7, steps=2, size=1)["total_ms"]
    done = counter.get_total_flops()
    assert ours == pytest.approx(done, rel=0.03)  # the rest: the state's token, the ends of the action expert


def test_weights_counted_for_the_floor_are_those_of_the_model():
    shape = preset("pi0")
    with torch.device("meta"):
        pi = Pi(shape)
    one = floor(shape, Device(1e30, 1e9), views=3, prompt=20, steps=1, size=1)  # bytes alone, in ns
    expert = sum(p.numel() for n, p in pi.expert.named_parameters() if "weight" in n and "norm" not in n)
    cache = shape.vlm.depth * 2 * (3 * 256 + 20 + 1) * shape.vlm.head_dim
    assert one["denoise_ms"] * 1e6 == pytest.approx(expert + cache, rel=1e-6)
    vision = sum(p.numel() for n, p in pi.vision.named_parameters() if n.endswith("weight") and "norm" not in n)
    assert one["vision_ms"] * 1e6 == pytest.approx(vision, rel=1e-6)


def test_bench_policy_reports_in_json(capsys):
    arguments = ["--preset", "small", "--views", "2", "--steps", "2", "--dtype", "fp32", "--threads", "1", "--repeat", "2"]
    assert main(["bench", "policy", *arguments, "--against", "eager", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ms"].keys() == {"vision", "prefill", "denoise", "step", "total"}
    assert report["floor"]["total_ms"] > 0 and report["peak_memory_gb"] > 0.01
    assert report["times_faster"]["best"] == pytest.approx(report["eager_ms"]["best"] / report["ms_best"])
    assert report["eager_ms"]["runs"] == 2 and report["views"] == 2


def test_bench_policy_says_what_it_cannot_do(capsys):
    if not torch.cuda.is_available():
        assert main(["bench", "policy", "--device", "cuda"]) != 0
        assert "no CUDA device" in capsys.readouterr().err
    assert main(["bench", "policy", "--preset", "small", "--prompt", "500"]) != 0
    assert "1 to 48 prompt tokens" in capsys.readouterr().err


def test_bench_parity_is_right_and_can_be_wrong(capsys, monkeypatch):
    torch.set_num_threads(1)
    assert main(["bench", "parity", "--family", "pi0", "--no-bf16"]) == 0
    out = capsys.readouterr().out
    assert "actions, engine" in out and "WRONG" not in out
    monkeypatch.setattr(torch.nn.functional, "rms_norm", lambda x, shape, eps: x)
    assert main(["bench", "parity", "--family", "pi0", "--no-bf16", "--json"]) == 1
    assert not all(row["ok"] for row in json.loads(capsys.readouterr().out))
    assert main(["bench", "parity", "--golden", "/nowhere"]) != 0
    assert "no golden numbers" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["small", "small05"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_lean_model_is_the_model(name, dtype):
    shape = preset(name)
    given, noise = seeded.inputs("lean", shape)
    lean = Engine(seeded.lean(shape, dtype=dtype, folded=True), steps=2, threads=1)
    whole = Engine(seeded.model(shape).cast(dtype), steps=2, threads=1)
    assert torch.equal(lean.sample(given, noise=noise), whole.sample(given, noise=noise))
    assert next(lean.model.vlm.blocks[0].parameters()).is_meta


def test_every_measurement_is_listed():
    assert {"policy", "parity", "rtc"} <= measurements().keys() and all(measurements().values())


def test_bench_policy_knows_mini(capsys):
    assert main(["bench", "policy", "--preset", "mini", "--threads", "1", "--repeat", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ms"].keys() >= {"prepare", "look", "say", "act", "total"} and report["ratio_to_floor"] > 1
    assert main(["bench", "policy", "--preset", "mini", "--against", "eager"]) == 2
