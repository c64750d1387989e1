"""What mini is trained on, and how well it does on demonstrations that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pi_policy_node.learn.asked import Asked
from pi_policy_node.learn.dataset import Batch, Demonstrations, Glance, moved
from pi_policy_node.policy.mini_eyes import AROUND, heading, turned
from pi_policy_node.policy.mini_model import REACH, Mini, Pointing
from pi_policy_node.policy.mini_rows import Scales, origin
from pi_policy_node.policy.mini_scene import PAD, Found, Look, Scene
from pi_policy_node.policy.mini_words import Words
from pi_policy_node.policy.model import draw_times
from pi_policy_node.robot import Kinematics


FINE = 0.02  # m: the unit in which places of things are judged
THING_CELLS = 100.0  # one cell in so many has a thing
HAND = 0.05  # m: the unit in which tools are judged
SURE = 0.05  # units from which on being farther off counts in proportion, not squared: one of two ways, not between


@dataclass(frozen=True)
class Weights:
    """How much each part of the loss counts."""

    actions: float = 1.0
    middle: float = 1.0
    tools: float = 1.0
    words: float = 0.3
    progress: float = 0.5
    arm: float = 0.1
    reach: float = 0.3
    base: float = 0.2
    cells: float = 0.5
    spots: float = 1.0
    glances: float = 0.5
    turns: float = 1.0
    things: float = 0.3
    names: float = 0.3
    room: float = 1.0
    said: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f"loss.{field.name} must be 0 or more, not {getattr(self, field.name)!r}")


@dataclass
class Noise:
    """The chance of a step: for each of N frames that act R draws of noise, and behind them one from the middle."""

    start: Tensor  # [N·(R + 1), knots, A]; 0 in the middle
    times: Tensor  # [N·(R + 1)]; 1 there
    given: Tensor  # bool [N·(R + 1), knots]: committed already


def draw(batch: Batch, *, every: int, repeats: int, latest: int, generator: torch.Generator) -> Noise:
    """every: rows from knot to knot; repeats: R; latest: the most rows that may be committed already."""
    (count, knots, width), draws = batch.knots.shape, repeats + 1
    rows = torch.randint(1, latest + 1, (count, draws), generator=generator)
    rows = torch.where(torch.rand(count, draws, generator=generator) < 0.3, 0, rows)  # often nothing is committed
    given = torch.arange(knots) * every < rows[..., None]
    start = torch.randn(count, draws, knots, width, generator=generator)
    times = draw_times(count * draws, generator).unflatten(0, (count, draws))
    start[:, -1], times[:, -1] = 0.0, 1.0
    return Noise(*(part.flatten(0, 1) for part in (start, times, given)))


def losses(model: Mini, batch: Batch, noise: Noise) -> dict[str, Tensor]:
    """Each part of the loss."""
    result = {}
    found, pointing = _find(model, batch.look, acting=True)
    if pointing:
        every = torch.ones_like(batch.arm[:, None]) > 0
        result |= {"cells": cells(pointing, batch.glance, every), "spots": spots(pointing, batch.glance, every)}
    scene = model.aim(batch.look, found)
    told = model.tell(scene)
    result |= {
        **_actions(model, scene, batch, noise),
        "progress": _mean((told["progress"] - batch.progress.nan_to_num()) ** 2, batch.progress.isfinite()),
        "arm": _mean(F.cross_entropy(told["arm"], batch.arm.clamp(min=0), reduction="none"), batch.arm >= 0),
        "reach": _mean(F.smooth_l1_loss(told["reach"], batch.reach.nan_to_num(), reduction="none", beta=0.1).mean(1),
                       torch.isfinite(batch.reach[:, 0])),
        "base": _mean(F.smooth_l1_loss(told["base"], batch.base.nan_to_num(), reduction="none", beta=0.1).mean(1),
                      torch.isfinite(batch.base[:, 0])),
    }
    if len(batch.said):
        result["words"] = _words(model, batch.ask, batch.said)
    return result


def glances(model: Mini, batch: Glance) -> dict[str, Tensor]:
    """What is learnt from pictures that are only looked at: where things are, and what is to be done next."""
    if batch.look.found is not None:
        return {"said": _words(model, batch.look, batch.said)}
    seen = model.look(batch.look.pictures)
    pointing = model.point(seen, batch.questions, batch.look.cameras)
    everything = torch.ones_like(batch.questions[..., 0]) > 0
    result = {
        "glances": cells(pointing, batch, everything) + spots(pointing, batch, everything),
        "turns": turns(pointing, batch),
        "things": THING_CELLS * F.binary_cross_entropy_with_logits(model.front.things(seen["front"]),
                                                                   batch.things.float()),
        "names": names(model, seen["front"], batch),
        "said": _words(model, batch.look, batch.said, seen),
    }
    return result | {"room": room(model, batch)} if len(batch.room) else result


def room(model: Mini, batch: Glance) -> Tensor:
    """How far the room's places are from where they are thought to be."""
    maps = torch.cat([model.eye(eye).tokens(model.eye(eye).see(batch.around[eye])) for eye in AROUND], 1)
    return F.smooth_l1_loss(model.room(maps) / REACH, batch.room / REACH, beta=0.2)


def _words(model: Mini, look: Look, said: Tensor, seen: dict[str, Tensor] | None = None) -> Tensor:
    """How far what is said is from the words that should be."""
    logits, _ = model.say(model.see(look, _find(model, look, seen)[0]), said[:, :-1])
    return _spelled(logits, said)


def _find(model: Mini, look: Look, seen: dict[str, Tensor] | None = None, *, acting: bool = False) -> tuple[
        Found, dict[str, Pointing]]:
    """What the eyes see; where they are held nothing is pointed at, for nothing is to be learnt from it."""
    return model.find(look, seen, acting=acting) if look.found is None else (look.found, {})


def _spelled(logits: Tensor, said: Tensor) -> Tensor:
    """How far the words are from those that should be said."""
    return F.cross_entropy(logits.float().flatten(0, 1), said[:, 1:].flatten(), ignore_index=PAD)


def cells(pointing: dict[str, Pointing], batch: Glance, which: Tensor) -> Tensor:
    """How far the maps are from where the hand will open or close. which: bool [B, K]."""
    return sum(_mean(F.cross_entropy(seen.logits.float().transpose(1, 2), batch.cells[eye].clamp(min=0),
                                     reduction="none"), which & (batch.cells[eye] >= 0))
               for eye, seen in pointing.items())


def spots(pointing: dict[str, Pointing], batch: Glance, which: Tensor) -> Tensor:
    """How far that place itself is from what its own cell says of it, and from what those say that are thought of now.

    The maps learn nothing from it: torn between two things they would point in between.
    """
    total = 0.0
    for i, (eye, seen) in enumerate(pointing.items()):
        cell, count = batch.cells[eye], seen.votes.shape[2]
        there = which & (cell >= 0) & (cell < count)
        own = F.one_hot(cell.clamp(0, count - 1), count)
        shares = (own + seen.logits[..., :-1].detach().float().softmax(-1)) / 2
        apart = (seen.votes - batch.spots[:, :, i, None].nan_to_num()) / FINE
        apart = F.smooth_l1_loss(apart, torch.zeros_like(apart), reduction="none", beta=0.1).mean(-1)
        total = total + _mean((apart * shares).sum(-1), there)
    return total


def names(model: Mini, seen: Tensor, batch: Glance) -> Tensor:
    """How far what the front eye sees of a thing is from what it is called."""
    cell = batch.cells["front"]
    there = (batch.named >= 0) & batch.there("front")
    looks = seen.float().flatten(2).transpose(1, 2)
    looks = looks.gather(1, cell.clamp(0, looks.shape[1] - 1)[..., None].expand(-1, -1, looks.shape[-1]))
    with torch.autocast(seen.device.type, enabled=False):
        called = model.front.fits(looks, model.asked_names())
    return _mean(F.cross_entropy(called.transpose(1, 2), batch.named.clamp(min=0), reduction="none"), there)


def turns(pointing: dict[str, Pointing], batch: Glance) -> Tensor:
    """How far the directions in which fingers would close are from what its own cell says of them."""
    wanted = turned(batch.turns[:, :, None], -heading(batch.look.cameras)[:, None])  # [B, K, eyes, 6]
    total = 0.0
    for i, (eye, seen) in enumerate(pointing.items()):
        there = torch.isfinite(wanted[:, :, i, 0]) & (batch.cells[eye] >= 0) & (batch.cells[eye] < seen.votes.shape[2])
        cell = batch.cells[eye].clamp(0, seen.votes.shape[2] - 1)[..., None]
        said = seen.turns[:, 0].gather(1, cell.expand(-1, -1, seen.turns.shape[-1]))
        total = total + _mean((said - wanted[:, :, i].nan_to_num()).square().mean(-1), there)
    return total


def _actions(model: Mini, scene: Scene, batch: Batch, noise: Noise) -> dict[str, Tensor]:
    """Flow matching from noise; and from its middle, where chunks begin when it acts, straight to the actions: without
    noise in what is to be learnt, and by how far the tools are off."""
    count = len(batch.knots)
    knots = batch.knots.repeat_interleave(len(noise.times) // count, 0)
    late = torch.where(noise.given, 0.0, noise.times[:, None])[..., None]
    x = late * noise.start + (1 - late) * knots
    x = x * (batch.told | ~noise.given[..., None])
    wrong = noise.start - knots - model.velocity(scene, x, noise.times, noise.given)
    wrong, free = wrong.unflatten(0, (count, -1)), ~noise.given.unflatten(0, (count, -1)) & batch.learn[:, None]
    middle = wrong[:, -1]
    tools = torch.einsum("nktia,nka->nkti", batch.levers, middle) / HAND
    return {"actions": _mean(wrong[:, :-1].square().mean(-1), free[:, :-1]),
            "middle": _mean(_beyond(middle).mean(-1), free[:, -1]),
            "tools": _mean(_beyond(tools).mean((-2, -1)), free[:, -1])}


def _beyond(off: Tensor) -> Tensor:
    return F.smooth_l1_loss(off, torch.zeros_like(off), reduction="none", beta=SURE)


def _mean(values: Tensor, which: Tensor) -> Tensor:
    return (values * which).sum() / which.sum().clamp(min=1)


@torch.no_grad()
def evaluate(model: Mini, data: Demonstrations, frames: np.ndarray, words: Words, scales: Scales, *,
             steps: int = 5) -> dict[str, float]:
    """On frames of unseen episodes: tool error in mm and what else a person can judge. By the model's own device."""
    kinematics, device = Kinematics(data.robot), next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    told_of: dict[str, list[np.ndarray]] = {}
    for part in np.array_split(frames, max(1, len(frames) // 64)):
        batch = data.batch(part, 0, words, scales).to(str(device))
        found, pointing = _find(model, batch.look, acting=True)
        scene = model.aim(batch.look, found)
        told = model.tell(scene)
        noise = torch.randn(batch.knots.shape, generator=generator).to(device)
        knots = model.act(scene, noise, steps=steps).cpu().numpy()
        at = origin(data.robot, data.state[data.step[part]].astype(float))
        rows, wanted = scales.knots_out(knots, at), data.chunk(part)[0]
        apart = [np.linalg.norm(a - b, axis=-1) for a, b in zip(
            kinematics.tools(rows).values(), kinematics.tools(wanted).values())]  # [N, K] each
        base = data.robot.is_base
        asked = data.batch(part, len(part), words, scales).to(str(device))
        said = model.speak(model.see(asked.ask, _find(model, asked.ask)[0]))
        right = [words.decode(s) == data.subtasks[k] for s, k in zip(said, data.said[part])]
        reach = ((told["reach"] - batch.reach) * REACH * 1000).norm(dim=1).cpu().numpy()
        off = {f"{eye} spot, mm": 1000 * (p.spot - batch.glance.spots[:, :, i]).norm(dim=2)[batch.glance.there(eye)]
               for i, (eye, p) in enumerate(pointing.items())}
        for name, values in {
            "tool 0.3 s, mm": 1000 * np.maximum(*apart)[:, 3], "tool 1 s, mm": 1000 * np.maximum(*apart)[:, -1],
            "hand": np.abs(rows - wanted)[..., data.robot.is_gripper].max(-1)[:, 3],
            "base, mm/s": 1000 * np.abs(rows - wanted)[..., base].max(-1)[:, 3],
            "words": np.array(right, float), "reach, mm": reach[np.isfinite(reach)],
            "progress": np.abs(told["progress"].cpu().numpy() - data.progress[part]),
            **{name: values.cpu().numpy() for name, values in off.items()},
        }.items():
            told_of.setdefault(name, []).append(values)
    return {name: _known(np.concatenate(values)) for name, values in told_of.items()}


@torch.no_grad()
def right_words(model: Mini, asked: Asked, frames: np.ndarray, words: Words, scales: Scales) -> float:
    """The part of some pictures in which it says word for word what is next. By the model's own device."""
    device, right = str(next(model.parameters()).device), []
    for part in np.array_split(frames, max(1, len(frames) // 64)):
        look = moved(asked.look(part, words, scales), device)
        said = model.speak(model.see(look, _find(model, look)[0]))
        right += [words.decode(tokens) == asked.step[k] for tokens, k in zip(said, part)]
    return float(np.mean(right))


def _known(values: np.ndarray) -> float:
    """The mean of those that are known; NaN: none is."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
