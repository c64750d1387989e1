"""Whether the simulated world is as the words wanted it. Knows the tasks' sentences; of others it says nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pi_policy_node.robot import Kinematics, Robot
from pi_policy_node.sim.physics import Thing
from pi_policy_node.sim.scene import CONTAINERS
from pi_policy_node.sim.tasks.goals import At, Beside, DrawerAt, Goal, Inside, OnSurface, OnTop, name_words
from pi_policy_node.sim.tasks.view import View, from_base, hand_column
from pi_policy_node.sim.world import COLOURS, PLACES

ALL = re.compile(r"\b(everything|all|clear|tidy|clean)\b")


def goals_of(words: str, names: Sequence[str]) -> tuple[Goal, ...]:
    """What the words want of a scene's things; () where that is not known."""
    words = " ".join(re.findall(r"[a-z]+", words.lower()))
    told = sorted((words.index(name_words(name)), name) for name in names if name_words(name) in words)
    things = [name for _, name in told if not _is_container(name)]
    containers = [name for _, name in told if _is_container(name)]
    places = [place for place in PLACES if re.search(rf"\b{place}\b", words)]
    if "drawer" in words:
        opened, closed = re.search(r"\b(open|out)\b", words), re.search(r"\b(close|closed|shut|in)\b", words)
        return (DrawerAt(1.0 if opened else 0.0),) if bool(opened) != bool(closed) else ()
    if ALL.search(words) and not things:
        into = containers or [name for name in names if _is_container(name)]
        if len(into) != 1:
            return ()
        others = words.replace(name_words(into[0]), "")
        colours = [colour for colour in COLOURS if re.search(rf"\b{colour}\b", others)]
        wanted = [name for name in names if not _is_container(name) and (not colours or name.split("_")[0] in colours)]
        return tuple(Inside(name, into[0]) for name in wanted)
    if len(things) == 1 and len(containers) == 1:
        return (Inside(things[0], containers[0]),)
    if len(things) == 1 and not containers and places:
        last = max(places, key=words.rindex)
        return (OnSurface(things[0], last),) if last in ("table", "counter") else ()
    if len(things) == 2 and not containers:
        for side, sign in (("left", r"\bleft\b"), ("right", r"\bright\b"), ("next", r"\b(next to|beside)\b")):
            if re.search(sign, words):
                return (Beside(things[0], things[1], side),)
        return (OnTop(*things),) if re.search(r"\bon\b", words) else ()
    return (At(places[0]),) if len(places) == 1 and not told else ()


def _is_container(name: str) -> bool:
    return name.split("_")[1] in CONTAINERS


def view(robot: Robot, kinematics: Kinematics, things: dict[str, Thing], drawer: float,
         joints: dict[str, float], base: tuple[float, float, float]) -> View:
    """The world, from what the graph says of it. `base`: x, y, yaw."""
    state = robot.state(list(joints), list(joints.values()), (0.0, 0.0, 0.0))
    tools = {arm: from_base(base, tool) for arm, tool in kinematics.tools(state).items()}
    openings = {arm: float(state[hand_column(robot, arm)]) for arm in tools}
    return View(things, drawer, base, state, tools, openings)
