"""Demonstrations: the same bytes from the same recipe, whole files, and what is in them."""

from __future__ import annotations

import numpy as np
import pytest

from pi_policy_node.learn.episodes import EpisodesError, decode, encode, read, shards, write
from pi_policy_node.learn.labels import Labeller
from pi_policy_node.learn.record import ROOM, Recipe, Recorder, Shard, plan, record, somewhere
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.tasks import draw, vocabulary

ROBOT = load_robot("pi_mobile")
RECIPE = Recipe("pi_mobile", ("drawer", "put"), 1, 40, cameras=("front_camera",), size=(32,), disturb=1.0)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one") / "data"
    made = []
    assert record(RECIPE, folder, workers=1, report=lambda one, left: made.append((one, left))) == 0
    assert [left for _, left in made] == [1, 0]
    return folder


@pytest.fixture(scope="module")
def episodes(recorded):
    return [episode for path in shards(recorded) for episode in read(path)]


def test_the_bytes_do_not_depend_on_the_number_of_processes(recorded, tmp_path):
    record(RECIPE, tmp_path / "two", workers=2, report=lambda one, left: None)
    one, two = shards(recorded), shards(tmp_path / "two")
    assert [p.name for p in one] == [p.name for p in two] and len(one) == 2
    for a, b in zip(one, two):
        assert a.read_bytes() == b.read_bytes()


def test_what_is_there_is_kept_and_what_is_missing_is_made_again_as_it_was(recorded):
    gone, other = shards(recorded)
    kept, lost = other.stat().st_mtime_ns, gone.read_bytes()
    gone.unlink()
    (gone.parent / f".{gone.name}.123").write_bytes(lost[:100])  # what a crash would leave
    assert record(RECIPE, recorded, workers=1, report=lambda one, left: None) == 1
    assert other.stat().st_mtime_ns == kept and gone.read_bytes() == lost
    assert len(shards(recorded)) == 2


def test_an_episode_has_all_that_learning_needs(episodes):
    for e in episodes:
        steps, columns = len(e.state), len(ROBOT.action_names)
        assert e.state.shape == e.action.shape == (steps, columns) and e.state.dtype == np.float32
        assert e.clean.shape == e.subtask.shape == e.progress.shape == (steps,)
        assert e.instruction == draw(e.family, e.seed).instruction
        assert {word for words in e.subtasks for word in words.split()} <= vocabulary()
        assert e.subtasks[-1] == "done" and (e.progress[e.subtask == len(e.subtasks) - 1] == 1).all()
        assert (np.diff(e.subtask) >= 0).all() and (np.diff(e.subtask) <= 1).all()
        assert list(e.frames) == list(range(0, steps, RECIPE.every)) and len(e.images["front_camera"]) == len(e.frames)
        assert e.image("front_camera", 0).shape == (24, 32, 3)  # the camera's shape
        seen = Labeller(ROBOT).label(e).arm  # from what the hands did
        both = (e.arm >= 0) & (seen >= 0)
        assert both.mean() > 0.5 and (e.arm == seen)[both].mean() > 0.95
        assert (e.arm[e.subtask == len(e.subtasks) - 1] == -1).all()
        known = e.progress[np.isfinite(e.progress)]
        assert known.min() >= 0 and known.max() == 1
        moving = np.abs(np.diff(e.action, axis=0))[e.clean[1:] & e.clean[:-1]]
        assert (moving[:, :15] <= ROBOT.velocity[:15] * ROBOT.dt + 0.6 * ROBOT.is_gripper[:15]).all()


def test_disturbances_happen_are_marked_and_mended(episodes):
    assert any(e.events for e in episodes)
    for e in episodes:
        for step, kind in e.events:
            assert kind in ("late", "wander", "nudge", "slip")
            if kind != "nudge":
                assert not e.clean[step]
        assert e.clean.mean() > 0.6


def test_slips_end_a_subtask_that_came_to_nothing():
    recorder = Recorder(Recipe("pi_mobile", ("put",), 1, 0, disturb=1.0))
    for seed in range(400, 440):
        episode = recorder.episode(draw("put", seed)) if _slips(seed) else None
        if episode is not None and any(kind == "slip" for _, kind in episode.events):
            break
    else:
        pytest.fail("no episode in which something slips")
    step = next(step for step, kind in episode.events if kind == "slip")
    assert np.isnan(episode.progress[step])
    assert sum(words.startswith("pick up") for words in episode.subtasks) >= 2


def test_images_survive_and_files_that_are_none_are_named(tmp_path, episodes):
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:30, 20:30] = 200, 20, 20
    assert np.abs(decode(encode(image)).astype(int) - image).mean() < 2
    path = tmp_path / "put" / "0.npz"
    write(path, episodes)
    assert [e.instruction for e in read(path)] == [e.instruction for e in episodes]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(EpisodesError, match="0.npz is no shard"):
        read(path)
    with pytest.raises(EpisodesError, match="no recipe.json"):
        shards(tmp_path)


def test_a_folder_holds_one_recipe(recorded):
    other = Recipe("pi_mobile", ("put",), 1, 40, cameras=("front_camera",), size=(48,), disturb=1.0)
    with pytest.raises(EpisodesError, match="another recipe \\(size \\[32\\]\\)"):
        record(other, recorded, workers=1, report=lambda one, left: None)


def test_families_take_turns():
    shards_ = plan(Recipe("pi_mobile", ("put", "stack"), 25, 100))
    assert shards_[:3] == [Shard("put", 100, 10), Shard("stack", 100, 10), Shard("put", 110, 10)]
    assert sum(shard.count for shard in shards_) == 50 and shards_[-1].count == 5


def _slips(seed: int) -> bool:
    """Whether a slip is planned for this episode: what the recorder would draw."""
    import zlib

    from pi_policy_node.sim.expert.disturb import Disturbances

    rng = np.random.default_rng([zlib.crc32(b"put"), seed, 99])
    rng.random()
    return "slip" in Disturbances(rng, count=int(rng.integers(1, 3)))._queue


def test_a_drive_that_is_disturbed_may_begin_astray_and_still_arrives(monkeypatch):
    recorder = Recorder(Recipe("pi_mobile", ("drive",), 1, 0, disturb=1.0))
    begun, reset = [], recorder.sim.reset
    monkeypatch.setattr(recorder.sim, "reset", lambda seed, scene: (begun.append(scene.base), reset(seed, scene)))
    tasks = [draw("drive", seed) for seed in range(3, 7)]
    assert all(recorder.episode(task) is not None for task in tasks), "it arrives from anywhere in the middle of the room"
    assert len(begun) == 4 and sum(base != task.scene.base for base, task in zip(begun, tasks)) >= 2
    put = draw("put", 3)
    recorder.episode(put)
    assert begun[-1] == put.scene.base, "only where there is driving to be done"
    starts = np.array([somewhere(np.random.default_rng(k)) for k in range(200)])
    assert (starts[:, :2] >= ROOM[0]).all() and (starts[:, :2] <= ROOM[1]).all() and np.ptp(starts[:, 2]) > 5
