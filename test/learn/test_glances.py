"""Pictures with answers: the answers are true, and making them can be interrupted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pi_policy_node.__main__ import main
from pi_policy_node.learn import glances, losses
from pi_policy_node.learn.answers import answers, next_step
from pi_policy_node.learn.asked import Asked
from pi_policy_node.learn.dataset import CAMERAS, MAPS, RECORDED, names, vocabulary
from pi_policy_node.learn.episodes import EpisodesError, decode
from pi_policy_node.learn.glances import Gazer, GlanceRecipe, anywhere
from pi_policy_node.learn.labels import stands
from pi_policy_node.learn.pictures import cells
from pi_policy_node.policy.mini_eyes import fit
from pi_policy_node.policy.mini_model import Mini
from pi_policy_node.policy.mini_rows import Scales
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.shapes import MiniShape
from pi_policy_node.robot import load_robot
from pi_policy_node.sim.expert.spots import spot
from pi_policy_node.sim.sight import sees
from pi_policy_node.sim.tasks import draw, look
from pi_policy_node.sim.tasks.goals import name_words
from pi_policy_node.sim.tasks.view import HALF_WIDTH, STROKE, half_height
from pi_policy_node.sim.world import COLOURS, PLACES

RECIPE = GlanceRecipe("pi_mobile", 6, 0, tuple(RECORDED), tuple(RECORDED.values()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("glances") / "made"
    heard = []
    glances.record(RECIPE, path, workers=1, report=lambda *what: heard.append(what))
    assert heard == [(6, 0)]
    return path


def test_what_is_made_follows_from_the_recipe(folder):
    stored, again = glances.read(glances.shards(folder)[0]), Gazer(RECIPE).shard(0, 6)
    assert stored.words == again.words and stored.images == again.images
    for name in ("state", "thing", "place", "base"):
        assert np.array_equal(getattr(stored, name), getattr(again, name)), name
    assert set(stored.shown) == set(RECORDED)
    assert all(np.array_equal(stored.shown[camera], again.shown[camera]) for camera in RECORDED)
    heard = []
    glances.record(RECIPE, folder, workers=1, report=lambda *what: heard.append(what))
    assert heard == [], "what is there is not made again"
    with pytest.raises(EpisodesError, match="another recipe"):
        glances.record(GlanceRecipe("pi_mobile", 7, 0, RECIPE.cameras, RECIPE.size), folder, workers=1,
                       report=lambda *what: None)


def test_the_thing_is_where_the_answer_says(folder):
    """Its colour is in the picture, in the cell that is to be found: where something stands before it there is none."""
    robot = load_robot("pi_mobile")
    asked = Asked(robot, MiniShape(), glances.shards(folder))
    made = glances.read(glances.shards(folder)[0])
    eye = MiniShape().front
    (rows, columns), size = eye.cells, eye.patch
    right = total = 0
    for k, text in enumerate(asked.words):
        cell = asked.cell["front"][k]
        if text.startswith("pick up the ") and cell < rows * columns:
            image = fit(decode(made.images["front_camera"][asked.frame[k]]), eye).astype(float) / 255
            y, x = divmod(int(cell), columns)
            patch = image[size * y : size * (y + 1), size * x : size * (x + 1)].reshape(-1, 3)
            hue = np.array(COLOURS[text.split()[3]])
            apart = np.abs(patch / patch.sum(1, keepdims=True).clip(0.05) - hue / hue.sum()).sum(1).min()
            right, total = right + (apart < 0.25), total + 1
    assert total >= 6 and right >= 0.9 * total, f"{right} of {total}"


def test_a_thing_is_seen_unless_something_stands_before_it():
    gazer, task = Gazer(RECIPE), draw("put", 3)
    gazer.sim.reset(0, task.scene)
    physics = gazer.sim.physics
    first, other = [name for name, thing in physics.things().items() if thing.kind in HALF_WIDTH][:2]
    camera, thing = physics.data.camera("front_camera").xpos.copy(), physics.things()[first].position

    def seen() -> bool:
        return bool(sees(physics, "front_camera", thing[None], np.array([0.015]), np.array([physics.body(first)]))[0])

    assert seen()
    physics.pose(other, camera + 0.3 * (thing - camera), (1.0, 0.0, 0.0, 0.0))
    assert not seen()
    physics.pose(other, camera - 0.3 * (thing - camera), (1.0, 0.0, 0.0, 0.0))
    assert seen(), "what is behind the camera hides nothing"


def test_each_eye_is_told_what_its_own_camera_sees(folder):
    gazer, made = Gazer(RECIPE), glances.read(glances.shards(folder)[0])
    asked = Asked(gazer.robot, MiniShape(), glances.shards(folder))
    gazer._scene(np.random.default_rng([0, 31]), 0)
    told = list(answers(look(gazer.sim)))
    points, reach = np.array([a.thing for a in told]), np.array([a.reach for a in told])
    bodies = np.array([gazer.sim.physics.body(a.body) for a in told])
    for eye, camera in CAMERAS.items():
        seen = sees(gazer.sim.physics, camera, points, reach, bodies)
        assert np.array_equal(made.shown[camera][made.frame == 0], seen), camera
        if eye in MAPS:
            assert made.shown[camera][asked.cell[eye] < MAPS[eye]].all(), eye


def test_where_a_thing_goes_is_told_beside_what_the_words_name(folder):
    made = glances.read(glances.shards(folder)[0])
    away = made.place - made.thing
    for k, text in enumerate(made.words):
        apart = np.linalg.norm(away[k])
        beside = np.linalg.norm(away[k][:2])  # what is held is high above the place beside it
        assert apart == 0 if text.startswith(("pick", "open", "close")) else 0.01 < apart and beside < 0.15, text
    at_table = np.abs(made.base[made.frame]).max(1) < 1e-3
    for side, sign in (("left", 1), ("right", -1)):
        those = np.array([f"to the {side} of" in text for text in made.words]) & at_table
        assert those.any() and (sign * away[those, 1] > 0.08).all() and np.allclose(away[those, 0], 0, atol=1e-4)


def test_places_of_the_room_are_told_as_seen_from_where_the_robot_stands(folder):
    """Going there as told leads there; at a place it is where the robot is."""
    bases = np.array([anywhere(np.random.default_rng(seed)) for seed in range(200)] + list(PLACES.values()))
    told = stands(bases, list(PLACES.values())).astype(float)
    for k, (x, y, yaw) in enumerate(PLACES.values()):
        c, s = np.cos(bases[:, 2]), np.sin(bases[:, 2])
        ahead, aside = told[:, k, :2].T
        assert np.allclose(bases[:, 0] + c * ahead - s * aside, x, atol=1e-5)
        assert np.allclose(bases[:, 1] + s * ahead + c * aside, y, atol=1e-5)
        turn = bases[:, 2] + np.arctan2(told[:, k, 3], told[:, k, 2])
        assert np.allclose(np.cos(turn - yaw), 1, atol=1e-5)
        assert np.allclose(told[200 + k, k], [0, 0, 1, 0], atol=1e-6)
    made = glances.read(glances.shards(folder)[0])
    drives = np.array([step.startswith("drive") for step in made.step])
    assert (np.abs(made.base[drives]).max(1) > 0.01).any(), "it drives from all over the room"


@pytest.mark.parametrize("family", ["put", "stack", "move", "bring", "drawer", "drive", "clear"])
def test_what_is_where_it_has_to_be_is_not_to_be_done_again(family):
    """Every sort of goal is met in some scenes, and not in others."""
    gazer = Gazer(replace(RECIPE, tasks=(family,)))
    steps = [next_step(*gazer._scene(np.random.default_rng(seed), seed), gazer.arms).kind for seed in range(40)]
    assert 1 <= steps.count("done") <= 25, steps


def test_a_hand_that_has_just_let_go_is_still_putting_down():
    gazer, task = Gazer(RECIPE), draw("stack", 3)
    gazer.sim.reset(0, task.scene)
    rng = np.random.default_rng(0)
    gazer._bring(rng, task, look(gazer.sim), np.array([True]))
    view = look(gazer.sim)
    top = view.things[task.goals[0].thing].position
    assert next_step(task, view, gazer.arms).kind == "done"
    placing = f"place it {task.goals[0].words(view)}"
    assert next_step(task, replace(view, tools={"left_arm": top + [0, 0, 0.03]}), gazer.arms).words == placing
    gazer.sim.reset(0, task.scene)
    view = look(gazer.sim)
    thing = view.things[task.goals[0].thing].position
    assert next_step(task, replace(view, tools={"left_arm": thing + [0, 0, 0.03]}), gazer.arms).kind == "pick"


def test_what_is_held_low_is_being_put_down_only_where_it_goes():
    gazer, task = Gazer(RECIPE), draw("move", 3)
    gazer.sim.reset(0, task.scene)
    view, goal = look(gazer.sim), task.goals[0]
    thing, arm = view.things[goal.thing], gazer.arms["left_arm"]
    low = spot(view, goal, arm, None) + [0.01, 0.02, half_height(thing) + 0.02]  # not there yet, and not lifted
    for at, words in ((thing.position, f"pick up the {name_words(goal.thing)}"), (low, f"place it {goal.words(view)}")):
        there = replace(view, things=view.things | {goal.thing: thing._replace(position=at)},
                        tools={"left_arm": at}, openings={"left_arm": HALF_WIDTH[thing.kind] / STROKE})
        assert next_step(task, there, gazer.arms).words == words


def test_some_pictures_are_never_trained_on(folder):
    asked = Asked(load_robot("pi_mobile"), MiniShape(), glances.shards(folder) * 10)
    kept = set(np.flatnonzero(asked.validation()))
    assert len(kept) == len(asked) // 20 > 0
    drawn = set(asked.draw(3000, np.random.default_rng(0)))
    assert drawn == set(range(len(asked))) - kept
    assert not kept & set(asked._away)


def test_an_eye_has_cells_for_its_rows_of_the_picture_only():
    eye = MiniShape().front
    picture = np.repeat(np.arange(eye.height, dtype=np.uint8)[:, None, None], eye.width, 1).repeat(3, 2)
    assert fit(picture, eye)[[0, -1], 0, 0].tolist() == [eye.rows[0], eye.rows[1] - 1]
    rows, columns = eye.cells
    first, behind = eye.rows[0] / eye.height, eye.rows[1] / eye.height
    places = np.array([(0.001, first + 0.001), (0.999, behind - 0.001), (0.5, first - 0.001), (0.5, behind + 0.001),
                       (np.nan, np.nan)])
    assert cells(eye, places).tolist() == [0, rows * columns - 1, *[rows * columns] * 3]


def test_a_batch_asks_and_answers(folder):
    asked = Asked(load_robot("pi_mobile"), MiniShape(), glances.shards(folder))
    words = Words(vocabulary(), names())
    assert not any(words.unknown(text) for text in asked.words)
    shape = MiniShape()
    scales = Scales(np.zeros(shape.state_dim), np.ones(shape.state_dim), *np.ones((2, shape.knots, shape.action_dim)))
    batch = asked.batch(np.arange(4), 3, words, scales, rng=np.random.default_rng(0), rooms=5)
    model = Mini(shape, len(words), words.named())
    pointing = model.point(model.look(batch.look.pictures), batch.questions, batch.look.cameras)
    assert [words.decode(tokens) for tokens in batch.said.tolist()] == asked.step[:4]
    found = losses.glances(model, batch)
    assert all(torch.isfinite(found[part]) for part in ("said", "names", "room"))
    assert batch.things.sum(1).max() >= 2
    assert {len(images) for images in batch.around.values()} == {5} and batch.room.shape == (5, shape.places, 4)
    assert set(pointing) == {"front", "left_wrist", "right_wrist"} and batch.questions.shape[:2] == (4, 3)
    assert (asked.draw(50, np.random.default_rng(0)) < len(asked)).all()
    for i, (eye, seen) in enumerate(pointing.items()):
        assert seen.logits.shape == (4, 3, seen.votes.shape[2] + 1) and torch.isfinite(batch.spots[:, :, i]).all()
        assert (batch.cells[eye] >= 0).all() and (batch.cells[eye] < seen.logits.shape[2]).all()
    told = [words.decode(tokens) for tokens in batch.questions[1].tolist()]
    of_first = [words.decode(tokens) for tokens in batch.questions[0].tolist()]
    assert batch.named[0].tolist() == [names().index(text) if text in names() else -1 for text in of_first]
    assert not torch.equal(batch.named, -torch.ones_like(batch.named))
    assert len(set(told)) == 3 and set(told) <= {t for t, k in zip(asked.words, asked.frame) if k == 1}


def test_a_file_that_is_none_says_so(tmp_path):
    (tmp_path / "glances").mkdir()
    (tmp_path / "glances" / "00000000.npz").write_bytes(b"nothing")
    with pytest.raises(EpisodesError, match="holds no pictures with answers"):
        glances.read(glances.shards(tmp_path)[0])
    with pytest.raises(EpisodesError, match="pi sim look"):
        glances.shards(tmp_path / "nowhere")


def test_the_front_door_makes_pictures_of_the_families_that_are_asked_for(tmp_path, capsys):
    made = tmp_path / "made"
    asked = ["sim", "look", "--scenes", "2", "--workers", "1", "--out", str(made), "--tasks"]
    assert main([*asked, "drive"]) == 0
    assert "2 scenes" in capsys.readouterr().out
    stored, drives = glances.read(glances.shards(made)[0]), Gazer(replace(RECIPE, scenes=2, tasks=("drive",))).shard(0, 2)
    assert stored.words == drives.words
    assert main([*asked, "put"]) == 2 and "another recipe" in capsys.readouterr().err
    assert main([*asked, "juggle"]) == 2 and "no task family is called 'juggle'" in capsys.readouterr().err
