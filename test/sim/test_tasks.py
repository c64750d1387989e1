"""Task families without motion: scenes, words, what is held out, when a task is done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pi_policy_node.robot import load_robot
from pi_policy_node.sim import SceneError, Simulator, sample
from pi_policy_node.sim.tasks import DONE, FAMILIES, SPLITS, TaskError, draw, look, vocabulary
from pi_policy_node.sim.tasks.goals import Inside, OnTop
from pi_policy_node.sim.tasks.language import HOLDOUT, HOLDOUT_THINGS, WORDS, templates
from pi_policy_node.sim.world import COLOURS, KINDS

ROBOT = load_robot("pi_mobile")
SEEDS = range(40)
THINGS = {"stack", "move", "bring"}  # families that hold out things instead of triples


@pytest.fixture(scope="module")
def sim():
    simulator = Simulator(ROBOT, "empty", cameras=())
    yield simulator
    simulator.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_seed_gives_the_same_task_every_time_and_another_seed_another(name):
    assert draw(name, 3) == draw(name, 3)
    assert len({draw(name, seed).scene.items for seed in range(10)}) > 8
    assert len({draw(name, seed).instruction for seed in range(20)}) > 3


@pytest.mark.parametrize("name", FAMILIES)
def test_no_task_is_done_before_it_begins_and_each_starts_with_a_subtask(sim, name):
    for seed in range(6):
        task = draw(name, seed)
        sim.reset(0, task.scene)
        view = look(sim)
        assert not task.success(view)
        assert task.next(view).words != DONE


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_held_out_is_never_drawn_in_training(name):
    for seed in SEEDS:
        task = draw(name, seed)
        for colour, kind, container in _triples(task):
            assert (colour, kind, container) not in HOLDOUT
        if name in THINGS:
            assert tuple(task.target.split("_")) not in HOLDOUT_THINGS
        assert any(_fits(task.instruction, t) for key in _keys(name) for t in templates(key, "train"))


def test_held_out_pairs_are_only_drawn_when_asked_for():
    triples = {triple for seed in range(120) for triple in _triples(draw("put", seed, "holdout_pairs"))}
    assert triples <= HOLDOUT and len(triples) > 0.8 * len(HOLDOUT)
    for name in THINGS:
        drawn = {tuple(draw(name, seed, "holdout_pairs").target.split("_")) for seed in SEEDS}
        assert drawn and drawn <= HOLDOUT_THINGS


@pytest.mark.parametrize("name", FAMILIES)
def test_held_out_words_are_no_training_words(name):
    trained = {draw(name, seed).instruction for seed in SEEDS}
    for seed in range(10):
        said = draw(name, seed, "holdout_words").instruction
        assert said not in trained
        assert any(_fits(said, t) for key in _keys(name) for t in templates(key, "holdout_words"))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_word_is_in_the_vocabulary(sim, name):
    for split in ("train", "holdout_words"):
        for seed in range(10):
            task = draw(name, seed, split)
            assert "{" not in task.instruction and set(task.instruction.split()) <= vocabulary()
            if seed < 3:
                sim.reset(0, task.scene)
                assert set(task.next(look(sim)).words.split()) <= vocabulary()


def test_scenes_name_nothing_twice():
    for name in FAMILIES:
        for seed in range(15):
            things = [(i.kind, i.colour) for i in draw(name, seed).scene.items]
            assert len(set(things)) == len(things)


def test_held_out_lists_leave_every_colour_shape_and_container_in_training():
    shapes = [kind for kind, k in KINDS.items() if not k.container]
    for colour in COLOURS:
        for shape in shapes:
            assert sum((colour, shape, c) in HOLDOUT for c in ("bin", "bowl", "tray", "plate")) <= 1
    assert all(shape in shapes and colour in COLOURS for colour, shape in HOLDOUT_THINGS)


def test_success_of_put_is_about_the_right_thing_in_the_right_place(sim):
    task = draw("put", 0)
    goal, = task.goals
    assert isinstance(goal, Inside)
    sim.reset(0, task.scene)
    to = sim.objects()[goal.container].position
    wrong = next(n for n, t in sim.objects().items() if not KINDS[t.kind].container and n != goal.thing)
    sim.physics.place(wrong, to + [0, 0, 0.02])
    sim.advance(200)
    assert not task.success(look(sim))
    sim.reset(0, task.scene)
    sim.physics.place(goal.thing, to + [0, 0, 0.02])
    assert sim.advance(300) is None and task.success(look(sim))
    assert task.next(look(sim)).words == DONE


def test_success_of_stack_wants_it_on_top_not_beside(sim):
    task = draw("stack", 1)
    goal, = task.goals
    assert isinstance(goal, OnTop)
    sim.reset(0, task.scene)
    under = sim.objects()[goal.other]
    sim.physics.place(goal.thing, under.position + [0.08, 0, -KINDS[under.kind].height])
    sim.advance(200)
    assert not task.success(look(sim))
    sim.physics.place(goal.thing, under.position + [0, 0, KINDS[under.kind].height + 0.001])
    sim.advance(300)
    assert task.success(look(sim))


def test_what_there_is_not_is_refused_with_what_there_is():
    with pytest.raises(TaskError, match="put, stack"):
        draw("juggle", 0)
    with pytest.raises(TaskError, match=", ".join(SPLITS)):
        draw("put", 0, "everything")
    with pytest.raises(TaskError, match="no held-out pairs"):
        draw("drive", 0, "holdout_pairs")


def test_left_is_left_as_the_robot_sees_it(sim):
    for seed in SEEDS:
        task = draw("move", seed)
        goal, = task.goals
        if goal.side == "next":
            continue
        sim.reset(0, task.scene)
        other = sim.objects()[goal.other]
        sign = 1 if goal.side == "left" else -1
        at = other.position + [0, sign * 0.11, -KINDS[other.kind].height]
        sim.physics.place(goal.thing, at)
        met = goal.met(look(sim))
        sim.physics.place(goal.thing, at - [0, sign * 0.22, 0])
        assert met and not goal.met(look(sim))


def _triples(task) -> list[tuple[str, str, str]]:
    return [(*goal.thing.split("_"), goal.container.split("_")[1]) for goal in task.goals if isinstance(goal, Inside)]


def _keys(name: str) -> list[str]:
    return [key for key in WORDS if key.split()[0] == name]


def _fits(said: str, template: str) -> bool:
    """Whether these words can come from that template."""
    fixed = [w for w in template.split() if "{" not in w and w not in ("in", "into")]
    return set(fixed) <= set(said.split())


def test_the_scene_of_a_task_has_a_name_among_all_scenes():
    for split in ("train", "holdout_words"):
        scene = draw("put", 7, split).scene
        assert sample(f"put/{split}", 7) == replace(scene, name=f"put/{split}")
    assert sample("put", 7).items == sample("put/train", 7).items != sample("put", 8).items
    with pytest.raises(SceneError, match="no scene is called 'put/weekend'"):
        sample("put/weekend", 0)
