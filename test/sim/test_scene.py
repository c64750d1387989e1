from __future__ import annotations

import math

import numpy as np
import pytest

from pi_policy_node.environment import share
from pi_policy_node.sim.scene import REACH, SCENES, Scene, SceneError, distinct, sample, scatter
from pi_policy_node.sim.world import COLOURS, KINDS, TABLE


@pytest.mark.parametrize("name", sorted(SCENES))
def test_scenes_are_reproducible_and_nothing_overlaps_or_hangs_over(name):
    for seed in range(40):
        scene = sample(name, seed)
        assert scene == sample(name, seed) and (scene.name, scene.seed) == (name, seed)
        assert len(set(scene.names())) == len(scene.items)
        for i, a in enumerate(scene.items):
            assert a.kind in KINDS and a.colour in COLOURS and a.position[2] == TABLE[1, 2]
            assert (TABLE[0, :2] < np.array(a.position[:2])).all() and (a.position[:2] < TABLE[1, :2]).all()
            for b in scene.items[i + 1:]:
                distance = math.dist(a.position[:2], b.position[:2])
                assert distance > KINDS[a.kind].radius + KINDS[b.kind].radius


def test_seeds_and_names_make_different_scenes():
    assert sample("table", 1).items != sample("table", 2).items
    assert sample("table", 1).items != sample("clutter", 1).items
    assert sample("", 3) == sample("table", 3)


def test_an_unknown_scene_is_refused_with_what_there_is():
    with pytest.raises(SceneError, match="'kitchen'; there are block, clutter"):
        sample("kitchen", 0)


def test_names_count_what_is_alike():
    rng = np.random.default_rng(0)
    scene = Scene(items=scatter(rng, [("block", "red"), ("block", "red"), ("ball", "blue")]))
    assert scene.names() == ("red_block", "red_block_2", "blue_ball")


def test_what_does_not_fit_is_refused():
    with pytest.raises(SceneError, match="no room for 12"):
        scatter(np.random.default_rng(0), [("bin", "red")] * 12)


def test_distinct_things_stay_within_the_pool():
    things = distinct(np.random.default_rng(0), 19)
    assert len(set(things)) == 19
    assert all(sum(kind == k for k, _ in things) <= KINDS[kind].count for kind in KINDS)


def test_scatter_keeps_to_its_area():
    rng = np.random.default_rng(3)
    for _ in range(20):
        for item in scatter(rng, distinct(rng, 5)):
            assert (REACH[0] <= item.position[:2]).all() and (item.position[:2] <= REACH[1]).all()


def test_the_example_of_the_page_runs(capsys):
    page = share("docs", "simulator.md").read_text()
    try:
        exec(page.split("```python")[1].split("```")[0], {})
    finally:
        SCENES.pop("two_blocks", None)
    assert "red_block" in capsys.readouterr().out
