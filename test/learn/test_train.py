"""Training mini: a run that was stopped goes on as if it had not been; labels say what happened."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch

from pi_policy_node.learn import train as training
from pi_policy_node.learn.asked import Asked
from pi_policy_node.learn.dataset import Demonstrations, vocabulary
from pi_policy_node.learn.episodes import Episode, EpisodesError, encode, write
from pi_policy_node.learn.glances import GlanceRecipe, record, shards
from pi_policy_node.learn.held import hold
from pi_policy_node.learn.labels import Labeller, segments
from pi_policy_node.learn.losses import draw, glances, losses
from pi_policy_node.learn.recipe import RecipeError, load_recipe
from pi_policy_node.learn.train import Run, TrainError, train
from pi_policy_node.policy import mini_weights
from pi_policy_node.policy.mini_model import HELD
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.shapes import GemmaShape, MiniShape
from pi_policy_node.robot import Kinematics, load_robot
from pi_policy_node.cli.train import RECIPE

ROBOT = load_robot("pi_mobile")
SMALL = GemmaShape(width=32, depth=1, mlp=32, heads=2, head_dim=16)
SHAPE = MiniShape(vlm=SMALL, expert=SMALL, channels=4)
CAMERAS = ("front_camera", "left_wrist_camera", "right_wrist_camera", "rear_camera")
RIGHT = ROBOT.group("right_arm").columns
HAND = ROBOT.group("right_gripper").columns.start


def episode(seed: int) -> Episode:
    """The right hand moves, closes at step 60, rises; opens at step 140 of the place."""
    rng = np.random.default_rng(seed)
    count = 200
    action = np.tile(ROBOT.home, (count, 1)).astype(np.float32)
    action[:, RIGHT.start] += 0.3 * np.sin(np.arange(count) / 40 + seed)
    action[60:140, HAND] = 0.03
    state = np.vstack((action[:1], action[:-1]))
    frames = np.arange(0, count, 5, dtype=np.int32)
    images = {c: [encode(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)) for _ in frames] for c in CAMERAS}
    subtask = np.repeat([0, 1, 2], (100, 80, 20)).astype(np.int16)
    progress = np.concatenate([np.linspace(0, 1, 100), np.linspace(0, 1, 80), np.ones(20)]).astype(np.float32)
    return Episode("put", seed, "train", "put the red block in the blue bin", "red_block", state, action,
                   np.arange(count) % 50 > 3, ("pick up the red block", "place it in the blue bin", "done"), subtask,
                   progress, np.repeat([1, 1, -1], (100, 80, 20)).astype(np.int8), frames, images)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "recipe.json").write_text("{}")
    write(folder / "put" / "00000017.npz", [episode(seed) for seed in (17, 18, 19)])
    return training.shards([folder])


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(training, "MiniShape", lambda: SHAPE)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe():
    recipe = load_recipe(RECIPE, steps=6, batch=8)
    return replace(recipe, glances=0, looking=0, save_every=2, check_every=6, check_frames=8, repeats=2, warmup=2,
                   rooms=4)


def curve(out):
    return torch.load(out / training.CHECKPOINT, weights_only=False)["curve"]


def test_a_run_that_was_stopped_goes_through_the_same_curve(files, recipe, tmp_path):
    heard = []
    train(Run(recipe, files, tmp_path / "whole"), heard.append)
    assert [p.step for p in heard] == [2, 4, 6] and heard[-1].checked["words"] <= 1

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 4:
            raise Killed  # before step 4 is saved: the run goes on from step 2

    with pytest.raises(Killed):
        train(Run(recipe, files, tmp_path / "killed"), kill)
    assert train(Run(recipe, files, tmp_path / "killed"), lambda p: None) == 6
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    one, other = (mini_weights.load(tmp_path / name / training.WEIGHTS) for name in ("killed", "whole"))
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    assert (tmp_path / "whole" / training.PICTURE).stat().st_size > 1000


def test_things_are_looked_for_first_and_beside(files, recipe, tmp_path):
    with pytest.raises(TrainError, match="pi sim look"):
        train(Run(replace(recipe, looking=2), files, tmp_path / "none"), lambda p: None)
    gaze = GlanceRecipe("pi_mobile", 3, 4, CAMERAS, (160, 80, 80, 48))
    record(gaze, tmp_path / "made", workers=1, report=lambda made, left: None)
    heard, recipe = [], replace(recipe, looking=2, looked=6, glances=3)
    assert train(Run(recipe, files, tmp_path / "run", tuple(shards(tmp_path / "made"))), heard.append) == 6
    assert set(heard[0].parts) == {"glances", "turns", "things", "names", "room", "said"}
    assert {"glances", "actions"} < set(heard[1].parts)


@pytest.mark.parametrize("device, able, wanted", [
    ("cpu", {}, torch.float32), ("cpu", {"avx512_f": True, "avx512_bf16": False}, torch.float32),
    ("cpu", {"amx_bf16": True}, torch.bfloat16), ("cuda", {}, torch.bfloat16),
])
def test_bfloat16_is_for_devices_with_instructions_for_it(monkeypatch, files, recipe, tmp_path, device, able, wanted):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert training.precision(device) == wanted
    if device == "cpu":
        worker = training.Worker(Run(recipe, files, tmp_path), Demonstrations(ROBOT, SHAPE, files), SHAPE, 0)
        met = []
        worker._do = lambda rng: met.append(torch.is_autocast_enabled("cpu")) or {
            "actions": sum(p.square().sum() for p in worker.model.parameters())}
        worker._learn()
        assert met == [wanted == torch.bfloat16]


def test_two_workers_train_one_model(files, recipe, tmp_path):
    before = training.Worker(Run(recipe, files, tmp_path / "x"), Demonstrations(ROBOT, SHAPE, files), SHAPE, 0)
    assert train(Run(recipe, files, tmp_path / "two", workers=2), lambda p: None) == 6
    after = mini_weights.load(tmp_path / "two" / training.WEIGHTS).model.state_dict()
    assert any(not torch.allclose(value, after[name], atol=1e-4) for name, value in before.model.state_dict().items())
    assert json.loads((tmp_path / "two" / training.RUN).read_text())["workers"] == 2


def test_shared_gradients_reach_the_weights_that_they_are_of():
    """Convolutions are laid out channels last, where the fused AdamW pairs weights and gradients by their memory."""
    weight = torch.randn(8, 4, 3, 3)
    given = torch.randn(8 * 4 * 9)
    one, other = (torch.nn.Parameter(weight.clone(memory_format=layout))
                  for layout in (torch.channels_last, torch.contiguous_format))
    for parameter, fused in ((one, True), (other, False)):
        training.put_gradients([parameter], given)
        torch.optim.AdamW([parameter], lr=0.1, fused=fused).step()
    assert torch.equal(one.grad, given.view(8, 4, 3, 3)) and torch.allclose(one, other, atol=1e-6)


def test_a_run_goes_on_with_what_it_began_with(files, recipe, tmp_path):
    train(Run(recipe, files, tmp_path, minutes=0.0), lambda p: None)
    with pytest.raises(TrainError, match="another rate.*--init"):
        train(Run(replace(recipe, rate=3e-3), files, tmp_path), lambda p: None)
    more = (*files, files[0].with_name("later.npz"))  # recorded meanwhile: not part of this run
    assert train(Run(recipe, more, tmp_path), lambda p: None) == 6


def test_a_warm_start_begins_from_the_weights_and_their_scales(files, recipe, tmp_path):
    train(Run(recipe, files, tmp_path / "first"), lambda p: None)
    weights = tmp_path / "first" / training.WEIGHTS
    data = Demonstrations(ROBOT, SHAPE, files)
    worker = training.Worker(Run(recipe, files, tmp_path / "second", init=weights), data, SHAPE, 0)
    given = mini_weights.load(weights)
    assert worker.step == 0 and np.array_equal(worker.scales.action_scale, given.scales.action_scale)
    for name, value in given.model.state_dict().items():
        assert torch.equal(value, worker.model.state_dict()[name]), name


def test_held_eyes_see_the_same_and_stay_as_they_are(files, recipe, tmp_path):
    gaze = GlanceRecipe("pi_mobile", 3, 4, CAMERAS, (160, 80, 80, 48))
    record(gaze, tmp_path / "made", workers=1, report=lambda made, left: None)
    pictures = tuple(shards(tmp_path / "made"))
    train(Run(recipe, files, tmp_path / "eyes"), lambda p: None)
    weights = tmp_path / "eyes" / training.WEIGHTS
    loaded, told = mini_weights.load(weights), []
    held = hold(weights, "pi_mobile", files, pictures, tmp_path / "held", 1, lambda *what: told.append(what))
    assert told == [(1, 2), (2, 2)]
    hold(weights, "pi_mobile", files, pictures, tmp_path / "held", 1, lambda *what: told.append(what))
    assert len(told) == 2, "what is there is not found again"
    data, asked = Demonstrations(ROBOT, SHAPE, files), Asked(ROBOT, SHAPE, pictures)
    frames, wanted = np.arange(3, 13), []
    for count in range(2):
        batch = data.batch(frames, 4, loaded.words, loaded.scales)
        noise = draw(batch, every=5, repeats=1, latest=20, generator=torch.Generator().manual_seed(0))
        glance = asked.batch(np.arange(3), 2, loaded.words, loaded.scales, rng=np.random.default_rng(0))
        with torch.no_grad():
            found = losses(loaded.model, batch, noise) | glances(loaded.model, glance)
        wanted.append(found)
        data.pictures.held, asked.pictures.held = held
    # a thing's picture is made brighter or darker in training, and is kept as it was: all but "said" must agree
    for name in ("actions", "middle", "tools", "words", "progress", "reach", "base", "arm"):
        assert torch.allclose(wanted[0][name], wanted[1][name], rtol=2e-2, atol=1e-3), name
    assert "cells" not in wanted[1] and set(wanted[1]) & {"glances", "said"} == {"said"}

    with pytest.raises(TrainError, match="--init"):
        train(Run(replace(recipe, held=True), files, tmp_path / "none"), lambda p: None)
    run = Run(replace(recipe, held=True, glances=2, rate=1e-2), files, tmp_path / "run", pictures, init=weights, workers=2)
    train(run, lambda p: None)
    after = mini_weights.load(tmp_path / "run" / training.WEIGHTS).model.state_dict()
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, after[name]) == (name.split(".")[0] in HELD or not value.any()), name


def test_how_fast_the_base_was_sent_is_not_learnt_from(files):
    """Of committed knots the network is told the arms', not the base's: it would only go on like that."""
    torch.manual_seed(0)
    data, words, model = Demonstrations(ROBOT, SHAPE, files), Words(vocabulary()), training.Mini(SHAPE, 80)
    for parameter in model.expert.parameters():  # adaptive norms begin closed
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(model.action_out.weight, std=0.1)
    batch = data.batch(np.arange(4, 12), 0, words, data.scales())
    noise = draw(batch, every=5, repeats=1, latest=20, generator=torch.Generator().manual_seed(0))
    noise.given[:], noise.given[:, :3] = False, True

    def loss(columns):
        knots = batch.knots.clone()
        knots[:, :3, columns] += 1.0
        with torch.no_grad():
            return losses(model, replace(batch, knots=knots), noise)["actions"]

    assert torch.equal(loss(torch.tensor(ROBOT.is_base)), loss(torch.zeros(18, dtype=torch.bool)))
    assert not torch.equal(loss(torch.tensor(~ROBOT.is_base)), loss(torch.zeros(18, dtype=torch.bool)))


def test_a_step_learns(files, recipe, tmp_path):
    """The same eight frames again and again: the loss must fall."""
    recipe = replace(recipe, steps=60, warmup=5, rate=3e-3, save_every=20, check_every=60)
    heard = []
    train(Run(recipe, files, tmp_path), heard.append)
    for part in ("actions", "middle", "tools", "words", "progress", "reach"):
        assert heard[-1].parts[part] < heard[0].parts[part], part


def test_acting_is_judged_by_the_tools_and_in_the_middle_of_the_noise(files):
    """What is wrong with a knot counts by where it puts the tools, and once for each frame without noise."""
    data = Demonstrations(ROBOT, SHAPE, files)
    scales, frames = data.scales(), np.arange(3, 9)
    batch = data.batch(frames, 0, Words(vocabulary()), scales)
    knots, kinematics = data.chunk(frames)[0], Kinematics(ROBOT)
    apart = np.random.default_rng(0).normal(0, 1e-3, knots.shape)  # of normalised knots
    before, after = (np.stack(list(kinematics.tools(k).values()), 2) for k in (knots, knots + apart * scales.action_scale))
    told = np.einsum("nktia,nka->nkti", batch.levers.numpy(), apart)
    assert np.abs(after - before).max() > 1e-4 and np.allclose(told, after - before, atol=2e-6)
    assert len(data.batch(frames, len(frames), Words(vocabulary()), scales).levers) == 0, "all are asked, none acts"
    # the last draw of each frame begins from nothing, where a chunk begins when it acts; the others from noise
    noise = draw(batch, every=5, repeats=2, latest=20, generator=torch.Generator().manual_seed(0))
    start, times = noise.start.unflatten(0, (6, 3)), noise.times.unflatten(0, (6, 3))
    assert not start[:, 2].any() and (times[:, 2] == 1).all() and start[:, :2].std() > 0.9 and (times[:, :2] < 1).all()


def test_hindsight_says_where_the_hand_will_close(files):
    one = episode(17)
    labels = Labeller(ROBOT).label(one)
    tools = Kinematics(ROBOT).tools(one.state.astype(float))["right_arm"]
    assert (labels.arm[:180] == 1).all() and (labels.arm[180:] == -1).all()
    assert np.allclose(labels.reach[10], tools[59] - tools[10], atol=1e-5), "to where the fingers close"
    assert np.allclose(labels.reach[110], tools[139] - tools[110], atol=1e-5), "to where they open"
    assert np.isnan(labels.reach[190]).all()
    nudged = Labeller(ROBOT).label(replace(one, events=((30, "nudge"),)))
    assert np.isnan(nudged.reach[10]).all() and np.isfinite(nudged.reach[40]).all(), "it was elsewhere before"
    seen = labels.cells["front_camera"][10]
    assert np.isfinite(seen).all() and (0 < seen).all() and (seen < 1).all()


def test_chunks_stay_in_their_episode_and_know_what_was_no_purpose(files):
    data = Demonstrations(ROBOT, SHAPE, files)
    last = int(np.flatnonzero(data.episode == 0)[-1])
    knots, learn = data.chunk(np.array([0, last]))
    assert np.array_equal(knots[0], episode(17).action[0:51:5]) and not learn[0, 0] and learn[0, 1]
    assert (knots[1, 1:, ~ROBOT.is_base].T == episode(17).action[-1, ~ROBOT.is_base]).all()
    weights = data.weights({"put": 1.0}, {"pick": 1, "place": 1, "drawer": 1, "drive": 1, "done": 0.3})
    assert (weights[data.seed == 19] == 0).all(), "what is checked on is not learnt"
    sorts = np.array([s.split()[0] for s in data.subtasks])[data.said]
    assert np.isclose(weights[sorts == "pick"].sum(), weights[sorts == "place"].sum())
    assert np.isclose(weights[sorts == "done"].sum(), 0.3 * weights[sorts == "pick"].sum())
    data.subtasks.append("drive to the table")  # as a mishap may make necessary, once
    data.said[30] = len(data.subtasks) - 1
    weights = data.weights({"put": 1.0}, {"pick": 1, "place": 1, "drawer": 1, "drive": 1, "done": 0.3})
    seen = data.often * ~data.validation()
    assert 0 < weights[30] < 5 * seen[30] / seen.sum(), "what is seldom is not met everywhere"
    assert np.isclose(weights.sum(), 1)


def test_an_eye_looks_through_the_camera_that_the_labels_look_through(files):
    """A thing at depth z on the ray of its cell is where the labels say it is, to within half a cell."""
    data, eyes = Demonstrations(ROBOT, SHAPE, files), training.Mini(SHAPE, 30)
    batch = data.batch(np.arange(30), 0, Words(vocabulary()), data.scales())
    for i, (eye, part) in enumerate((("front", eyes.front), ("left_wrist", eyes.wrist), ("right_wrist", eyes.wrist))):
        cell, spot = batch.glance.cells[eye][:, 0], batch.glance.spots[:, 0, i]
        there = (cell >= 0) & (cell < len(part.rays))
        apart = (spot[there, :2] / spot[there, 2:] - part.rays[cell[there]]).abs()
        assert (apart <= part.cell / 2 + 1e-5).all(), eye
        beside = cell == len(part.rays)
        ray, edge = spot[beside, :2] / spot[beside, 2:], part.cell / 2 - 1e-5
        out = (ray > part.rays.max(0).values + edge) | (ray < part.rays.min(0).values - edge)
        assert (out.any(1) | (spot[beside, 2] < 0.03)).all(), eye
        assert there.any() or beside.any()
        goes = np.array([data.subtasks[k].startswith("place") for k in data.said[:30]])
        assert goes.any() and (cell[goes] == -1).all(), "no demonstration says where what it goes to is seen"


def test_segments():
    assert segments(np.array([0, 0, 1, 2, 2])) == [(0, 2), (2, 3), (3, 5)]


def test_what_is_held_out_stays_out_of_the_vocabulary():
    words = Words(vocabulary())
    assert "drop" not in words.words and words.unknown("drop the red block in the blue bin") == ()
    assert words.unknown("do not put the red vase in the bin") == ("do", "not", "vase")
    assert words.unknown("place it to the left of the yellow prism") == ()
    assert len(set(vocabulary())) == len(vocabulary())


@pytest.mark.parametrize("change, message", [
    ({"batch": 1}, "batch must be between"), ({"speed": 3}, "speed: the keys are"),
    ({"families": {"put": -1}}, "families must give"), ({"loss": {"actons": 1}}, "actons"),
    ({"loss": {"actions": -1}}, "loss.actions must be"),
])
def test_a_recipe_says_what_is_wrong_with_it(tmp_path, change, message):
    import yaml

    file = tmp_path / "recipe.yaml"
    good = asdict(load_recipe(RECIPE))
    file.write_text(yaml.safe_dump({**good, **change}))
    with pytest.raises(RecipeError, match=message):
        load_recipe(file)


def test_every_recipe_that_is_there_is_one():
    found = {file.stem: load_recipe(file) for file in sorted(RECIPE.parent.glob("mini*.yaml"))}
    assert {name: recipe.held for name, recipe in found.items()} == {"mini": False, "mini_hands": True}


def test_no_data_is_no_run(recipe, tmp_path):
    with pytest.raises(EpisodesError, match="no episodes"):
        train(Run(recipe, (), tmp_path), lambda p: None)


def test_acting_is_told_the_arm_that_picks_up_and_now_and_then_none(files):
    data, words = Demonstrations(ROBOT, SHAPE, files), Words(vocabulary())
    frames = np.arange(len(data))
    look = partial(data.look, frames, words, data.scales())
    picks = np.array([data.subtasks[k].startswith("pick") for k in data.said])
    assert np.array_equal(look(acting=True).arm.numpy(), np.where(picks, 1, -1)), "the right hand closes"
    untold = look(np.random.default_rng(0), acting=True).arm.numpy()[picks] == -1
    assert 0.1 < untold.mean() < 0.4 and not (look(acting=False).arm >= 0).any()
