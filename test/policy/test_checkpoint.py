"""A checkpoint is read whole, or refused with the name of what is wrong."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pi_policy_node.__main__ import main
from pi_policy_node.bench.seeded import inputs, model, weight
from pi_policy_node.policy.base import CheckpointError
from pi_policy_node.policy.checkpoint import inspect, load, save
from pi_policy_node.policy.model import Pi
from pi_policy_node.policy.names import DEAD, HEAD, TIED, published
from pi_policy_node.policy.shapes import preset
from pi_policy_node.policy.statistics import Normaliser, Statistics, find_statistics, write_statistics

SHAPES = ("small", "small05")
STATE = "paligemma_with_expert.paligemma.model.language_model.norm.weight"


def theirs(name: str) -> dict[str, torch.Tensor]:
    """What openpi's file of this preset holds: the head, not the embedding it is tied to, and a dead head."""
    shape = preset(name)
    tensors = {s: torch.from_numpy(weight(s, size)) for sources in published(shape).values() for s, size in sources}
    dead = min(DEAD)
    return tensors | {dead: torch.zeros(shape.vocabulary, shape.expert.width)}


def statistics(size: int = 32) -> dict[str, Statistics]:
    one = np.arange(1.0, size + 1)
    return {key: Statistics(mean=one, std=one / 2, q01=-one, q99=one) for key in ("state", "actions")}


@pytest.fixture
def folder(tmp_path):
    save_file(theirs("small"), tmp_path / "model.safetensors")
    write_statistics(tmp_path / "assets" / "arm" / "norm_stats.json", statistics())
    return tmp_path


def change(folder, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_openpi_and_lerobot_layouts_hold_the_same_model(tmp_path, name, prefix):
    save_file({prefix + key: value for key, value in theirs(name).items()}, tmp_path / "model.safetensors")
    loaded = load(tmp_path)
    assert loaded.shape.name == name and loaded.statistics is None
    assert inspect(tmp_path).layout == ("lerobot" if prefix else "openpi")
    for (key, ours), (_, right) in zip(loaded.model.named_parameters(), model(loaded.shape).named_parameters()):
        assert torch.equal(ours, right), key


def test_the_tied_embedding_under_either_name(folder):
    def rename(tensors):
        tensors[min(TIED)] = tensors.pop(HEAD)

    right = load(folder).model.embed.clone()
    change(folder, rename)
    assert torch.equal(load(folder).model.embed, right)
    change(folder, lambda tensors: tensors.update({HEAD: tensors[min(TIED)] + 1}))
    with pytest.raises(CheckpointError, match="embed_tokens.weight differs from"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_our_layout_there_and_back(folder, tmp_path, dtype):
    first = load(folder, dtype=dtype)
    save(tmp_path / "ours", first.model, statistics=first.statistics)
    again = load(tmp_path / "ours")
    assert again.model.dtype == dtype and again.model.action_in.weight.dtype == torch.float32
    for (key, ours), (_, right) in zip(again.model.named_parameters(), first.model.named_parameters()):
        assert torch.equal(ours, right) and ours.dtype == right.dtype, key
    assert np.array_equal(again.statistics["actions"].q99, statistics()["actions"].q99)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(STATE), f"1 missing: {STATE}"),
        (lambda t: t.update({"surprise": torch.zeros(3)}), "1 unknown: surprise"),
        (lambda t: t.update({STATE: torch.zeros(5)}), rf"{STATE} has the shape \(5,\), not \(128,\)"),
        (lambda t: t[STATE].fill_(float("nan")), f"{STATE} holds a NaN"),
        (lambda t: t[STATE].fill_(float("inf")), f"{STATE} holds a NaN or an infinity"),
        (lambda t: t.update({STATE: torch.zeros(128, dtype=torch.int64)}), "is stored as I64"),
        (lambda t: [t.pop(k) for k in list(t) if "state_proj" not in k], "missing"),
    ],
)
def test_what_is_not_a_whole_model_is_refused_by_name(folder, edit, message):
    change(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_the_wrong_preset_is_refused(folder):
    with pytest.raises(CheckpointError, match="not a whole small05 checkpoint: .* missing"):
        load(folder, preset="small05")
    save(folder / "ours", load(folder).model)
    with pytest.raises(CheckpointError, match="it is a small, not a pi05"):
        load(folder / "ours", preset="pi05")


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 40_000, -1, -100_000])
def test_a_truncated_file_is_refused(folder, keep):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:keep])
    with pytest.raises(CheckpointError, match="cut off|damaged"):
        load(folder)
    file.write_bytes(content + b"more")
    with pytest.raises(CheckpointError, match="behind its tensors"):
        load(folder)


def test_a_flipped_bit_is_an_error(tmp_path):
    """Anywhere in our file: the header is checked, every tensor has a checksum."""
    save(tmp_path, model(preset("small")))
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    header = int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    places = [*range(8), *rng.integers(8, 8 + header, 100), *rng.integers(8 + header, len(content), 12)]
    for place in places:
        flipped = content.copy()
        flipped[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            load(tmp_path)
    file.write_bytes(content)
    load(tmp_path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no model.safetensors in it"):
        load(tmp_path)
    (tmp_path / "params").mkdir()
    with pytest.raises(CheckpointError, match="a JAX checkpoint; convert it"):
        load(tmp_path)


def test_several_files_with_an_index(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, half = sorted(tensors), len(tensors) // 2
    parts = {"a.safetensors": names[:half], "b.safetensors": names[half:]}
    for file, keys in parts.items():
        save_file({k: tensors[k] for k in keys}, folder / file)
    index = {"weight_map": {k: file for file, keys in parts.items() for k in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load(folder).shape.name == "small"
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match="b.safetensors: No such file"):
        load(folder)


def test_statistics_where_each_layout_keeps_them(folder, tmp_path):
    assert len(find_statistics(folder)["state"].mean) == 32
    assert find_statistics(folder, "arm") is not None
    with pytest.raises(CheckpointError, match="no statistics for the asset 'leg'; there are assets/arm"):
        find_statistics(folder, "leg")
    write_statistics(folder / "assets" / "me" / "leg" / "norm_stats.json", statistics())
    with pytest.raises(CheckpointError, match="several assets; name one of arm, me/leg"):
        find_statistics(folder)
    assert find_statistics(folder, "me/leg") is not None
    other = tmp_path / "lerobot"
    other.mkdir()
    flat = {f"{k}.{f}": torch.arange(6.0) for k in ("observation.state", "action") for f in ("mean", "std")}
    save_file(flat, other / "policy_preprocessor_step_5_normalizer_processor.safetensors")
    assert find_statistics(other)["actions"].std.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": [1.0, float("nan")]}, "state: std is not finite at \\[1\\]"),
        ({"std": [1.0, -1.0]}, "std is negative at \\[1\\]"),
        ({"q99": [0.0, -9.0]}, "q99 is below q01 at \\[1\\]"),
        ({"q99": [0.0]}, "q99 has the shape \\(1,\\)"),
        ({"mean": None}, "not a norm_stats.json"),
    ],
)
def test_bad_statistics_are_refused(tmp_path, change, message):
    good = {"mean": [0.0, 0.0], "std": [1.0, 1.0], "q01": [-1.0, -1.0], "q99": [1.0, 1.0]}
    (tmp_path / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": good | change, "actions": good}}))
    with pytest.raises(CheckpointError, match=message):
        find_statistics(tmp_path)


@pytest.mark.parametrize("quantiles", [False, True])
def test_normalisation_is_the_published_formula_and_inverts_exactly(quantiles):
    rng = np.random.default_rng(0)
    mean, std, low = rng.normal(size=(3, 7))
    s = Statistics(mean=mean, std=abs(std), q01=low, q99=low + rng.uniform(0, 2, 7))
    x = rng.normal(size=(50, 7)) * 10
    n = Normaliser(s, quantiles=quantiles, size=7, what="state")
    right = (x - s.q01) / (s.q99 - s.q01 + 1e-6) * 2 - 1 if quantiles else (x - mean) / (s.std + 1e-6)
    np.testing.assert_allclose(n(x), right, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(n.inverse(n(x)), x, rtol=1e-13, atol=1e-12)


def test_the_command_line(folder, tmp_path, capsys):
    assert main(["checkpoint", "inspect", str(folder)]) == 0
    assert "preset      small\n" in capsys.readouterr().out
    assert main(["checkpoint", "convert", str(folder), str(tmp_path / "ours"), "--dtype", "bf16"]) == 0
    assert "small in bfloat16, with its statistics" in capsys.readouterr().out
    assert main(["checkpoint", "inspect", str(tmp_path / "ours"), "--weights"]) == 0
    assert "all finite" in capsys.readouterr().out
    change(folder, lambda tensors: tensors.pop(STATE))
    assert main(["checkpoint", "inspect", str(folder)]) == 1
    out = capsys.readouterr().out
    assert "small (nearest)" in out and f"wrong       1 missing: {STATE}" in out
    assert main(["checkpoint", "convert", str(folder), str(tmp_path / "no")]) != 0
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_a_folded_model_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="folded"):
        save(tmp_path, model(preset("small")).fold())


PEAK = """
import resource, sys
from pi_policy_node.policy import checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loaded = checkpoint.load(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
print((after - before) * 1024 / weights)
"""


def test_loading_needs_little_more_memory_than_the_weights(tmp_path):
    shape = preset("quarter")
    with torch.device("meta"):
        pi = Pi(shape)
    torch.manual_seed(0)
    tensors = {n: torch.randn(p.shape).to(torch.bfloat16) * 0.01 for n, p in pi.named_parameters()}
    del pi
    theirs_file = {}
    for ours, sources in published(shape).items():
        row = 0
        for name, size in sources:
            theirs_file[name] = tensors[ours][row : row + size[0]].reshape(size).clone()
            row += size[0]
    save_file(theirs_file, tmp_path / "model.safetensors")
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.3
